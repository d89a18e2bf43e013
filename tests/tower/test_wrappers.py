"""A compiled or wrapped model is the same model: names, files, merges and counts."""

import copy

import pytest
import safetensors
import torch
from safetensors.torch import load_file

import i2vlib as i2v
from i2vlib.config import AdaptationConfig, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.own_video import further
from i2vlib.tower.wrappers import bare_copy, plain_name, unwrapped

CONFIG = ModelConfig(TowerConfig(16, 8, 16, 2, 4, 2.0, 8), TemporalConfig((-1, 1, 0, 0), True),
                     AdaptationConfig("linear", i2v.FOUR_ADAPTERS), 4, 3)


def model():
    torch.manual_seed(0)
    plain = i2v.build_model(CONFIG).eval()
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return plain


def compiled(module):
    return torch.compile(module, backend="eager")  # what a wrapper does to names needs no compiler


def blocks(m):
    for i, block in enumerate(m.backbone.transformer.resblocks):
        m.backbone.transformer.resblocks[i] = compiled(block)
    return m


def part(path):
    def wrap(m):
        *parents, last = path.split(".")
        parent = m.get_submodule(".".join(parents))
        setattr(parent, last, compiled(getattr(parent, last)))
        return m
    return wrap


def in_place(m):
    m.compile(backend="eager")
    return m


def metadata(path):
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()


WRAPPED = {
    "whole": compiled, "twice": lambda m: compiled(torch.nn.DataParallel(m)), "data parallel": torch.nn.DataParallel,
    "in place": in_place, "backbone": part("backbone"), "transformer": part("backbone.transformer"), "head": part("head"),
    "blocks": blocks, "mlp": part("backbone.transformer.resblocks.1.mlp"), "whole and blocks": lambda m: compiled(blocks(m)),
}


@pytest.fixture(params=WRAPPED)
def wrapped(request):
    return WRAPPED[request.param](model())


def test_it_saves_merges_loads_and_counts_like_the_plain_one(wrapped, tmp_path):
    plain, video = model(), torch.randn(2, 4, 3, 16, 16)
    i2v.save_checkpoint(plain, tmp_path / "plain.safetensors")
    i2v.save_checkpoint(wrapped, tmp_path / "wrapped.safetensors")
    assert metadata(tmp_path / "plain.safetensors") == metadata(tmp_path / "wrapped.safetensors"), "a hash of all content in it"
    assert torch.equal(i2v.load_checkpoint(tmp_path / "wrapped.safetensors")(video), plain(video))
    assert torch.equal(i2v.merge(wrapped)(video), i2v.merge(plain)(video))
    assert i2v.count(wrapped, 4, 16) == i2v.count(plain, 4, 16)
    assert list(unwrapped(wrapped).state_dict()) == list(plain.state_dict())
    theirs, ours = i2v.zeroi2v_state(wrapped), i2v.zeroi2v_state(plain)
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[k], v) for k, v in ours.items())
    inner = unwrapped(wrapped)
    assert torch.equal(inner.frame_features(video), plain.frame_features(video))
    assert list(inner.backbone.image_state()) == list(plain.backbone.image_state())


def test_it_takes_names_with_and_without_wrappers(wrapped):
    other = unwrapped(wrapped)
    state = {f"module.{k.replace('backbone.', 'backbone._orig_mod.')}": v + 1 for k, v in model().state_dict().items()}
    other.load_state_dict(state)
    assert torch.equal(other.state_dict()["backbone.conv1.weight"], model().backbone.conv1.weight + 1)
    other.load_state_dict(model().state_dict())
    assert all(torch.equal(v, model().state_dict()[k]) for k, v in other.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({k: v for k, v in state.items() if not k.endswith("proj")})


def test_weights_go_into_a_compiled_tower_and_on_from_one(tmp_path):
    torch.save(model().backbone.image_state(), tmp_path / "image.pt")
    from i2vlib.tower.weights import load_image_weights
    other = i2v.build_model(CONFIG)
    other.backbone.transformer = compiled(other.backbone.transformer)
    load_image_weights(other.backbone, tmp_path / "image.pt")
    assert torch.equal(other.state_dict()["backbone.proj"], model().backbone.proj)
    merged = blocks(i2v.merge(model()))
    new = further(merged, AdaptationConfig("full"), 5)
    assert torch.equal(new.backbone.transformer.resblocks[1].ln_1.weight, model().backbone.transformer.resblocks[1].ln_1.weight)


def test_a_bare_copy_has_no_wrapper_left_and_the_original_keeps_its(wrapped):
    copied, before = bare_copy(wrapped), [type(m) for m in wrapped.modules()]
    assert [type(m) for m in copied.modules()] == [type(m) for m in model().modules()]
    assert [type(m) for m in wrapped.modules()] == before
    copied.backbone.conv1.weight.data.zero_()
    assert torch.equal(unwrapped(wrapped).backbone.conv1.weight, model().backbone.conv1.weight)


def test_copies_keep_plain_names(tmp_path):
    m = part("backbone")(copy.deepcopy(model()))
    assert list(m.state_dict()) == list(model().state_dict())
    i2v.save_checkpoint(m, tmp_path / "m.safetensors")
    assert not [k for k in load_file(tmp_path / "m.safetensors") if "_orig_mod" in k]


def test_plain_names():
    assert plain_name("module._orig_mod.backbone._orig_mod.proj") == "backbone.proj"
    assert plain_name("backbone.modules.proj") == "backbone.modules.proj"
