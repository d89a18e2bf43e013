import json
import os
import random
import warnings
from dataclasses import replace

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import load_file, save_file

import i2vlib as i2v
from i2vlib.config import AdaptationConfig, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.protocol import ClipConfig
from i2vlib.tower.backbone import VideoViT
from i2vlib.tower.weights import MINI_TOWER, WeightsError, find_weights, load_image_weights, resize_grid, resolve_activation

TOWER = TowerConfig(32, 8, 64, 2, 1, 4.0, 48, quick_gelu=False)


def full_clip(size=32):
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=2, width=64, patch_size=8, image_size=size)
    return CLIP(48, vision, CLIPTextCfg(8, 20, width=16, heads=2, layers=1)).eval()


def check_equal(path, clip):
    backbone = VideoViT(ModelConfig(TOWER))
    load_image_weights(backbone, path)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(backbone.embed_images(images), clip.encode_image(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["full", "visual", "wrapped", "module", "safetensors", "half"])
def test_local_files(tmp_path, form):
    clip, path = full_clip(), tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    state = clip.state_dict()
    if form == "half":
        state = {k: v.half() for k, v in state.items()}
        clip.load_state_dict(state)
    if form == "visual":
        state = clip.visual.state_dict()
    if form == "module":
        state = {f"module.{k}": v for k, v in state.items()}
    if form == "safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if form == "wrapped" else state, path)
    check_equal(path, clip)


def test_openais_torchscript_archive_is_read_but_not_run(tmp_path, monkeypatch):
    clip, path = full_clip(), tmp_path / "ViT.pt"

    class Archive(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = torch.nn.Module()
            for key, value in clip.visual.state_dict().items():
                *parents, last = key.split(".")
                node = self.visual
                for parent in parents:
                    if not hasattr(node, parent):
                        node.add_module(parent, torch.nn.Module())
                    node = getattr(node, parent)
                node.register_parameter(last, torch.nn.Parameter(value.half(), requires_grad=False))
            # OpenAI's archives hold these three numbers beside the weights
            for key, number in (("input_resolution", 32), ("context_length", 8), ("vocab_size", 20)):
                self.register_buffer(key, torch.tensor(number))

        def forward(self, x):
            return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Archive()).save(str(path))
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the archive's program must not be loaded"))
    quick = replace(TOWER, quick_gelu=None)
    config = resolve_activation(ModelConfig(quick), path)
    assert config.tower.quick_gelu is True, "OpenAI's own archives need QuickGELU"
    backbone = VideoViT(config)
    load_image_weights(backbone, path)
    for key, value in clip.visual.state_dict().items():
        torch.testing.assert_close(backbone.image_state()[key], value, rtol=0, atol=2e-3)


def test_activation_comes_from_the_origin(tmp_path):
    b16 = i2v.PRESETS["full-b16-8f-k400"]
    assert resolve_activation(b16, "openai").tower.quick_gelu is True
    assert resolve_activation(b16, "laion2b_s34b_b88k").tower.quick_gelu is False
    assert resolve_activation(b16, None).tower.quick_gelu is False
    with pytest.raises(WeightsError, match="trained with QuickGELU, but tower.quick_gelu is False"):
        resolve_activation(replace(b16, tower=replace(b16.tower, quick_gelu=False)), "openai")
    path = tmp_path / "w.pt"
    torch.save(full_clip().state_dict(), path)
    with pytest.raises(WeightsError, match="does not say whether it was trained with QuickGELU"):
        i2v.build_model(ModelConfig(replace(TOWER, quick_gelu=None)), path)


def test_every_tag_of_the_papers_towers_is_known_to_open_clip():
    for name in ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"):
        assert resolve_activation(ModelConfig(i2v.TOWERS[name]), "openai").tower.quick_gelu
        with torch.device("meta"):
            theirs = CLIP(**open_clip.get_model_config(name)).visual
            ours = VideoViT(ModelConfig(replace(i2v.TOWERS[name], quick_gelu=True)))
        assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_an_unknown_tag_lists_the_known(monkeypatch):
    with pytest.raises(WeightsError, match="neither a file nor an open_clip tag for this tower; its tags are: .*openai"):
        find_weights(i2v.TOWERS["ViT-B-16"], "openay")

    def offline(*args, **kwargs):
        raise RuntimeError("no network")
    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(WeightsError, match="could not be downloaded .RuntimeError.: connect, or give the path"):
        find_weights(i2v.TOWERS["ViT-B-16"], "openai")


def test_what_does_not_fit_is_listed_and_nothing_is_copied(tmp_path):
    state = full_clip().visual.state_dict()
    del state["ln_pre.bias"]
    state["extra"] = torch.zeros(1)
    state["proj"] = torch.zeros(3, 4)
    torch.save(state, tmp_path / "w.pt")
    backbone = VideoViT(ModelConfig(TOWER))
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load_image_weights(backbone, tmp_path / "w.pt")
    for part in ("3 tensors", "missing ln_pre.bias", "unexpected extra", "proj is (3, 4), the model's is (64, 48)"):
        assert part in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_positions_are_resized_only_on_request_and_as_open_clip_does(tmp_path):
    clip, path = full_clip(), tmp_path / "w.pt"
    torch.save(clip.state_dict(), path)
    backbone = VideoViT(ModelConfig(replace(TOWER, image_size=48)))
    with pytest.raises(WeightsError, match="resize_positions=True interpolates"):
        load_image_weights(backbone, path)
    load_image_weights(backbone, path, resize_positions=True)
    theirs = full_clip(48)
    state = {k: v.clone() for k, v in clip.state_dict().items()}
    open_clip.model.resize_pos_embed(state, theirs)
    torch.testing.assert_close(backbone.positional_embedding, state["visual.positional_embedding"], rtol=0, atol=1e-6)
    positions = torch.randn(17, 8)
    assert resize_grid(positions, 4) is positions


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 broken zip"])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_unreadable_files_name_themselves(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name}: not a readable weights file"):
        load_image_weights(VideoViT(ModelConfig(TOWER)), tmp_path / name)


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_a_pickle_with_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": Evil()}}, "w.pt")
    with pytest.raises(WeightsError):
        load_image_weights(VideoViT(ModelConfig(TOWER)), "w.pt")
    assert not (tmp_path / "pwned").exists()


def test_checkpoint_alone_rebuilds_the_model(tmp_path):
    config = ModelConfig(TOWER, TemporalConfig((0,), True), AdaptationConfig("linear", i2v.SIX_ADAPTERS, scale=0.3), 4, 3)
    model = i2v.build_model(config).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    path = tmp_path / "m.safetensors"
    i2v.save_checkpoint(model, path, clip=ClipConfig(4, size=32), class_names=("a", "b", "c"))
    loaded = i2v.load_checkpoint(path)
    video = torch.randn(2, 4, 3, 32, 32)
    assert loaded.config == config and torch.equal(loaded(video), model(video))
    assert torch.equal(i2v.merge(loaded)(video), i2v.merge(model)(video)), "s travels with the checkpoint"
    info = i2v.checkpoint_info(path)
    assert info["class_names"] == ["a", "b", "c"] and ClipConfig.from_dict(info["clip"]) == ClipConfig(4, size=32)
    assert list(tmp_path.iterdir()) == [path], "no part file is left"
    i2v.save_checkpoint(i2v.merge(model).bfloat16(), path)
    assert i2v.load_checkpoint(path).head.weight.dtype == torch.bfloat16


def test_foreign_and_broken_checkpoints(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="not written by save_checkpoint"):
        i2v.load_checkpoint(tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        i2v.load_checkpoint(tmp_path / "none.safetensors")
    model = i2v.build_model(ModelConfig(TOWER))
    i2v.save_checkpoint(model, tmp_path / "m.safetensors")
    with open(tmp_path / "m.safetensors", "rb+") as file:
        file.truncate(1000)
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        i2v.load_checkpoint(tmp_path / "m.safetensors")


def test_the_shipped_tower():
    assert MINI_TOWER.stat().st_size < 3e6
    model = i2v.build_model(i2v.PRESETS["zeroi2v-mini-motion"], "mini")
    state = load_file(MINI_TOWER)
    assert all(torch.equal(v, state[f"visual.{k}"]) for k, v in model.backbone.image_state().items())
    assert json.loads(model.config.to_json())["tower"]["quick_gelu"] is False


def test_weights_of_the_wrong_activation_are_not_loaded():
    backbone = VideoViT(ModelConfig(replace(i2v.TOWERS["mini"], quick_gelu=True)))
    with pytest.raises(WeightsError, match="mini: trained with GELU, but tower.quick_gelu is True"):
        load_image_weights(backbone, "mini")


def test_a_tag_is_found_for_another_image_size_and_other_scaling_is_refused(monkeypatch):
    monkeypatch.setattr(open_clip, "download_pretrained", lambda entry: "file")
    large = replace(i2v.TOWERS["ViT-L-14"], image_size=448)
    assert resolve_activation(ModelConfig(large), "openai").tower.quick_gelu
    assert str(find_weights(large, "openai")) == "file"
    plain = ModelConfig(i2v.TOWERS["ViT-L-14"])
    with pytest.raises(WeightsError, match=r"laion2b_s32b_b82k: TowerConfig.mean = \(0.48.*these weights need \(0.5, 0.5, 0.5\)"):
        resolve_activation(plain, "laion2b_s32b_b82k")
    half = (0.5, 0.5, 0.5)
    assert resolve_activation(replace(plain, tower=replace(plain.tower, mean=half, std=half)), "laion2b_s32b_b82k")


def test_files_are_as_readable_as_the_umask_says(tmp_path):
    i2v.save_checkpoint(i2v.build_model(ModelConfig(TOWER)), tmp_path / "m.safetensors")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_random_damage_is_always_named(tmp_path):
    path, rng = tmp_path / "w.pt", random.Random(0)
    torch.save(full_clip().visual.state_dict(), path)
    whole, backbone = path.read_bytes(), VideoViT(ModelConfig(TOWER))
    for _ in range(60):
        data = bytearray(whole[:rng.randrange(len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(20):
            if data:
                data[rng.randrange(max(1, len(data) - 3000), len(data)) if len(data) > 3000 else 0] = rng.randrange(256)
        path.write_bytes(data)
        try:
            load_image_weights(backbone, path)
        except WeightsError as error:
            assert "w.pt" in str(error)
