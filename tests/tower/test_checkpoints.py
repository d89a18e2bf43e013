"""Our checkpoints against damage, hostile files and models that no file should hold."""

import json
import random
import struct
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import i2vlib as i2v
from i2vlib.config import AdaptationConfig, CompressionConfig, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.course.ship import ASSETS
from i2vlib.tower.checkpoints import content_hash
from i2vlib.tower.weights import WeightsError

CONFIG = ModelConfig(TowerConfig(16, 8, 16, 2, 4, 2.0, 8), TemporalConfig((-1, 1, 0, 0), True),
                     AdaptationConfig("linear", i2v.FOUR_ADAPTERS), 4, 3)


@pytest.fixture
def path(tmp_path):
    i2v.save_checkpoint(i2v.build_model(CONFIG), tmp_path / "m.safetensors", class_names=("a", "b", "c"))
    return tmp_path / "m.safetensors"


def rewritten(path, change=lambda told: None, **metadata):
    """The file with another configuration or other metadata, its tensors as they were."""
    with safe_open(path, "pt") as file:
        told = dict(file.metadata())
    config = json.loads(told["config"])
    change(config)
    save_file(load_file(path), path, told | {"config": json.dumps(config)} | metadata)
    return path


def setter(place, value):
    def change(config):
        *parents, last = place.split(".")
        for parent in parents:
            config = config[parent]
        config[last] = value
    return change


class Scarce(TorchDispatchMode):
    """Fails where a tensor of more than 4 MB is made anywhere but on the meta device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        try:
            made = function(*args, **(kwargs or {}))
        except RuntimeError as error:
            if "memory" in str(error):
                pytest.fail(f"{function} asks for memory: {error}")
            raise
        for value in tree_leaves(made):
            if isinstance(value, torch.Tensor) and value.device.type != "meta" and value.untyped_storage().nbytes() > 4e6:
                pytest.fail(f"{function} takes memory for {tuple(value.shape)}")
        return made


@pytest.fixture
def no_memory():
    with Scarce():
        yield


BOMBS = {
    "classes": 10**9, "frames": 10**9, "tower.layers": 10**9, "tower.width": 4 * 10**6, "tower.mlp_ratio": 1e9,
    "tower.output_dim": 10**12, "tower.image_size": 8 * 10**9, "tower.patch_size": 1, "temporal.global_blocks": 2,
    "temporal.local": True, "adaptation.ratio": 1.0, "compression": CompressionConfig("inti", (1,)).to_dict(),
    "compression.after": list(range(1, 100_000)), "tower.heads": 2**62, "temporal.offsets": [0] * 10**5,
}


@pytest.mark.parametrize("place", BOMBS)
def test_a_config_that_its_tensors_do_not_fit_takes_no_memory(path, place, no_memory):
    with pytest.raises(WeightsError, match="m.safetensors: "):
        i2v.load_checkpoint(rewritten(path, setter(place, BOMBS[place])))


@pytest.mark.parametrize("place, value", [
    ("tower.mlp_ratio", float("inf")), ("tower.mlp_ratio", float("nan")), ("tower.width", 10**40), ("classes", 10**30),
    ("frames", 2.5), ("tower", [1, 2]), ("tower", None), ("adaptation.places", {"a": 1}), ("adaptation.places", [["qkv"]]),
    ("classes", -1), ("unknown", 1), ("tower.image_size", 8 * 10**40),
])
def test_a_config_that_makes_no_sense_is_named(path, place, value):
    with pytest.raises(WeightsError, match="m.safetensors: "):
        i2v.load_checkpoint(rewritten(path, setter(place, value)))


def test_the_limit_is_on_the_model_and_can_be_raised(path):
    with pytest.raises(WeightsError, match="a model of 2 blocks and 0.0 GiB: allowed is up to limit_gib = 1e-06"):
        i2v.load_checkpoint(path, limit_gib=1e-6)
    assert i2v.load_checkpoint(path, limit_gib=1e-3)


@pytest.mark.parametrize("told", [
    {"class_names": "[" * 100_000 + "]" * 100_000}, {"config": "{"}, {"config": "[]"}, {"config": "null"}, {"clip": "7"},
    {"class_names": '"abc"'}, {"class_names": "[1, 2]"}, {"config": '{"a":' * 50_000 + "1" + "}" * 50_000},
    {"class_names": "1" * 10_000},
])
def test_metadata_that_is_no_metadata(path, told):
    rewritten(path, **told)
    for read in (i2v.load_checkpoint, i2v.checkpoint_info):
        with pytest.raises(WeightsError, match="m.safetensors: "):
            read(path)


@pytest.mark.parametrize("length", [0, 1, 2**40, 2**63, 2**64 - 1])
def test_a_length_of_the_header_that_lies(path, length):
    data = path.read_bytes()
    path.write_bytes(struct.pack("<Q", length) + data[8:])
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        i2v.load_checkpoint(path)


def test_every_flipped_bit_is_found(path):
    whole, draw = path.read_bytes(), random.Random(0)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    places = [draw.randrange(header, len(whole)) for _ in range(40)] + [draw.randrange(header) for _ in range(60)]
    before = i2v.load_checkpoint(path)
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            loaded = i2v.load_checkpoint(path)
        except WeightsError as error:
            assert "m.safetensors" in str(error)
        else:  # the name of the hash itself was hit, or a space
            assert place < header and loaded.config == before.config
            assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in before.state_dict().items())
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(WeightsError, match="damaged, or changed by another program"):
        i2v.load_checkpoint(path)


def test_the_hash_covers_all_that_counts():
    state, told = {"a": torch.zeros(2, 3), "n": torch.tensor(1)}, {"config": "{}", "clip": "null", "class_names": "[]"}
    one = content_hash(state, told)
    assert one == content_hash({"n": torch.tensor(1), "a": torch.zeros(3, 2).T}, told | {"format": "any"})
    for other in ({"b": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}, {"a": torch.zeros(2, 3, dtype=torch.int32)},
                  {"a": torch.full((2, 3), -0.0)}):
        assert one != content_hash({"n": torch.tensor(1)} | other, told)
    assert one != content_hash(state, told | {"class_names": '["a"]'})


@pytest.mark.parametrize("task", ["motion", "corrupted"])
def test_checkpoints_without_a_hash_load(task):
    with safe_open(ASSETS / f"{task}.safetensors", "pt") as file:
        assert "hash" not in file.metadata(), "written before there was one"
    assert i2v.load_checkpoint(ASSETS / f"{task}.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(path, value):
    before, model = path.read_bytes(), i2v.load_checkpoint(path)
    with torch.no_grad():
        model.backbone.transformer.resblocks[1].adapters["qkv"].up.bias[0] = value
    with pytest.raises(WeightsError, match="m.safetensors is not written: .* in backbone.*qkv.up.bias"):
        i2v.save_checkpoint(model, path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
    with safe_open(path, "pt") as file:
        told = {k: v for k, v in file.metadata().items() if k != "hash"}
    save_file(dict(model.state_dict()), path, told)
    with pytest.raises(WeightsError, match="m.safetensors: weights that are not finite, in backbone.*qkv.up.bias"):
        i2v.load_checkpoint(path)


def test_numbers_of_another_kind_are_no_weights(path):
    state = load_file(path)
    with safe_open(path, "pt") as file:
        told = {k: v for k, v in file.metadata().items() if k != "hash"}
    save_file(state | {"head.bias": torch.ones(3, dtype=torch.int64)}, path, told)
    with pytest.raises(WeightsError, match="head.bias is torch.int64"):
        i2v.load_checkpoint(path)


# ---- the authors' files ----------------------------------------------------------------------------------------------

SETTINGS = dict(heads=4, offsets=(-1, 1, 0, 0), scale=0.5)


def authors(**changes):
    return {k: v.clone() for k, v in i2v.zeroi2v_state(i2v.build_model(replace(CONFIG, **changes))).items()}


@pytest.mark.parametrize("name, tensor", [
    ("backbone.temporal_embedding", torch.zeros(1).expand(1, 10**9, 16)),
    ("cls_head.fc_cls.weight", torch.zeros(1).expand(10**9, 16)),
    ("backbone.positional_embedding", torch.zeros(1).expand(10**10 + 1, 16)),
    ("backbone.conv1.weight", torch.zeros(1).expand(10**6, 3, 8, 8)),
    ("backbone.transformer.resblocks.999999999.ln_1.weight", torch.zeros(16)), ("backbone.conv1.weight", torch.zeros(0, 3, 8, 8)),
    ("backbone.transformer.resblocks.x.ln_1.weight", torch.zeros(16)), ("backbone.conv1.weight", torch.zeros(16)),
    ("backbone.temporal_embedding", torch.zeros(4, 16)), ("backbone.positional_embedding", torch.zeros(())),
    ("backbone.transformer.resblocks.0.mlp.c_fc.weight", torch.zeros(1).expand(10**10, 16)),
    ("backbone.transformer.resblocks.0.T_Adapter_in.D_fc1.weight", torch.zeros(1).expand(10**9, 16)),
])
def test_an_authors_file_cannot_ask_for_more_than_it_holds(name, tensor, no_memory):
    state = authors() | {name: tensor}
    with pytest.raises((WeightsError, i2v.ConfigError)):
        i2v.load_zeroi2v(state, **SETTINGS)


def test_many_names_of_one_small_tensor_meet_the_limit():
    state = {k: torch.zeros(1).expand(v.shape) for k, v in authors().items()}
    with pytest.raises(WeightsError, match="state dict: a model of 2 blocks and .* limit_gib = 1e-06"):
        i2v.load_zeroi2v(state, **SETTINGS, limit_gib=1e-6)
    assert i2v.load_zeroi2v(state, **SETTINGS)


@pytest.mark.parametrize("form", ["mmengine", "compiled", "model", "lightning"])
def test_authors_checkpoints_in_other_wrappings(tmp_path, form):
    class History:
        """Not importable where the file is read."""
    History.__qualname__ = History.__name__ = "History"
    globals()["History"] = History
    state = authors()
    held = {"mmengine": {"meta": {"epoch": 1}, "state_dict": state | {"data_preprocessor.mean": torch.ones(3)},
                         "message_hub": {"log": History()}, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
            "compiled": {f"module._orig_mod.{k}": v for k, v in state.items()}, "model": {"model": state, "epoch": 3},
            "lightning": {"state_dict": {f"net.{k}": v for k, v in state.items()}}}[form]
    torch.save(held, tmp_path / "epoch_40.pth")
    del globals()["History"]
    loaded = i2v.load_zeroi2v(tmp_path / "epoch_40.pth", **SETTINGS)
    assert all(torch.equal(v, state[k]) for k, v in i2v.zeroi2v_state(loaded).items()) and loaded.config.classes == 3
    assert i2v.load_zeroi2v(held, **SETTINGS).config == loaded.config


@pytest.mark.parametrize("heads, offsets, message", [
    (8, (0,) * 8, "heads = 8: CLIP's tower of width 768 has 12"), (16, (0,) * 16, "heads = 16: CLIP's tower of width 768 has 12"),
    (12, (0,) * 8, "offsets has 8 entries: allowed is one a head, 12"),
])
def test_heads_that_clips_towers_do_not_have(heads, offsets, message):
    with torch.device("meta"):
        state = i2v.zeroi2v_state(i2v.VideoClassifier(replace(CONFIG, tower=TowerConfig(32, 16, 768, 1, 12, 4.0, 0),
                                                              temporal=TemporalConfig((), True))))
    with pytest.raises((WeightsError, i2v.ConfigError), match=message):
        i2v.load_zeroi2v(state, heads=heads, offsets=offsets, scale=1.0)


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(i2v.ConfigError, match="width = 16: allowed is a multiple of heads 3"):
        i2v.load_zeroi2v(authors(), heads=3, offsets=(0, 0, 0), scale=1.0)
