"""Image weights load under whatever prefix and wrapping they lie, or the message says what is in the file and what to do."""

import argparse
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import i2vlib as i2v
from i2vlib.config import AdaptationConfig, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.tower.archives import read_tensors
from i2vlib.tower.families import form_of, renamed
from i2vlib.tower.names import check_finite
from i2vlib.tower.weights import WeightsError, find_weights

CONFIG = ModelConfig(TowerConfig(16, 8, 16, 2, 4, 2.0, 8, quick_gelu=True), frames=2, classes=3)
torch.manual_seed(0)
STATE = {k: v.clone() for k, v in i2v.build_model(CONFIG).backbone.image_state().items()}
TEXT = {"positional_embedding": torch.randn(5, 16), "token_embedding.weight": torch.randn(9, 16),
        "ln_final.weight": torch.ones(16), "logit_scale": torch.tensor(1.0),
        "transformer.resblocks.0.ln_1.weight": torch.ones(16), "transformer.resblocks.1.ln_1.weight": torch.ones(16)}


def under(prefix, state=STATE):
    return {f"{prefix}{k}": v for k, v in state.items()}


def transformers(state, layrnorm="pre_layrnorm", inner="vision_model."):
    """The same weights as transformers' CLIPVisionModelWithProjection names and lays them."""
    names = {"class_embedding": "embeddings.class_embedding", "positional_embedding": "embeddings.position_embedding.weight",
             "conv1.weight": "embeddings.patch_embedding.weight"}
    found = {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    for k, v in state.items():
        k = names.get(k, k).replace("ln_pre", layrnorm).replace("ln_post", "post_layernorm")
        k = k.replace("transformer.resblocks", "encoder.layers").replace("attn.out_proj", "self_attn.out_proj")
        for ours, theirs in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("c_fc", "fc1"), ("c_proj", "fc2")):
            k = k.replace(ours, theirs)
        if k == "proj":
            found["visual_projection.weight"] = v.T.contiguous()
        elif "in_proj" in k:
            start, kind = k.split("attn.in_proj_")
            parts = zip("qkv", v.chunk(3), strict=True)
            found |= {f"{inner}{start}self_attn.{letter}_proj.{kind}": part for letter, part in parts}
        else:
            found[f"{inner}{k}"] = v
    return found


def load(tmp_path, held, name="w.pt", config=CONFIG):
    path = tmp_path / name
    save_file({k: v.contiguous() for k, v in held.items()}, path) if name.endswith("safetensors") else torch.save(held, path)
    return i2v.build_model(config, weights=path)


FORMS = {
    "bare": STATE, "visual": under("visual."), "with text": TEXT | under("visual."), "module": under("module.visual."),
    "compiled": under("_orig_mod.visual."), "both": under("module._orig_mod."), "inside": under("visual._orig_mod."),
    "lightning": {"state_dict": under("model.visual."), "pytorch-lightning_version": "2",
                  "hyper_parameters": argparse.Namespace(a=1)},
    "lightning net": {"state_dict": under("net.") | {"loss.weight": torch.ones(2)}, "callbacks": {}, "optimizer_states": [{}]},
    "image_encoder": under("module.image_encoder."),
    "model": {"model": under("visual."), "epoch": 1, "args": argparse.Namespace(lr=1)},
    "model_state_dict": {"model_state_dict": STATE, "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "deep": {"a": {"state_dict": {"module": under("clip.visual.")}}}, "one dict twice": {"model": STATE, "state_dict": STATE},
    "text beside a bare tower": STATE | under("text.", TEXT) | {"logit_scale": torch.tensor(1.0)},
    "transformers": transformers(STATE), "transformers, spelt right": transformers(STATE, "pre_layernorm"),
    "transformers with text": transformers(STATE) | {
        "text_model.embeddings.position_embedding.weight": torch.ones(5, 16), "logit_scale": torch.tensor(1.0),
        "text_model.encoder.layers.0.self_attn.q_proj.weight": torch.ones(2, 2), "text_projection.weight": torch.ones(8, 16)},
    "transformers in lightning": {"state_dict": under("model.", transformers(STATE))},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_tower_is_found_wherever_it_lies(tmp_path, form):
    loaded = load(tmp_path, FORMS[form]).backbone.image_state()
    assert all(torch.equal(loaded[k], v) for k, v in STATE.items())


def test_in_safetensors_and_in_half_precision_too(tmp_path):
    for held in (transformers(STATE), under("model.visual.")):
        loaded = load(tmp_path, held, "w.safetensors").backbone.image_state()
        assert all(torch.equal(loaded[k], v) for k, v in STATE.items())
        loaded = load(tmp_path, {k: v.half() for k, v in held.items()}).backbone.image_state()
        assert all(torch.equal(loaded[k], v.half().float()) for k, v in STATE.items())


@pytest.mark.parametrize("held, prefixes", [
    ({"model": STATE, "model_ema": {k: v + 1 for k, v in STATE.items()}}, ("'model.'", "'model_ema.'")),
    (under("student.backbone.") | under("teacher.backbone."), ("'student.backbone.'", "'teacher.backbone.'")),
    ({"state_dict": transformers(STATE), "ema": under("visual.")}, ("'state_dict.visual.'", "'ema.visual.'")),
])
def test_two_towers_are_refused_by_name_and_the_remedy_works(tmp_path, held, prefixes):
    with pytest.raises(WeightsError, match="w.pt: holds 2 image towers, under") as error:
        load(tmp_path, held)
    assert all(prefix in str(error.value) for prefix in prefixes)
    path, start = tmp_path / "w.pt", prefixes[-1].strip("'")
    one = {k: v for k, v in read_tensors(path).items() if k.startswith(start)}
    assert load(tmp_path, one, "one.pt")


def test_where_nothing_fits_the_files_own_names_are_shown(tmp_path):
    convnet = {"stem.0.weight": torch.ones(1), "stages.0.blocks.0.gamma": torch.ones(1), "head.fc.weight": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"no tensor class_embedding, conv1.weight, pos.*holds 3 tensors: stem.0.weight"):
        load(tmp_path, convnet)
    with pytest.raises(WeightsError, match="it holds no tensor"):
        load(tmp_path, {"epoch": 3, "state_dict": {}})
    deeper = replace(CONFIG, tower=replace(CONFIG.tower, layers=4))
    renamed = {k.replace("mlp.", "ffn."): v for k, v in STATE.items()}
    with pytest.raises(WeightsError) as error:
        load(tmp_path, renamed, config=deeper)
    for part in ("missing transformer.resblocks.0.mlp.c_fc.weight", "unexpected transformer.resblocks.0.ffn.c_fc.weight",
                 "and 24 more like it"):
        assert part in str(error.value)


def test_a_file_of_another_kind_names_the_function_that_loads_it(tmp_path):
    video = replace(CONFIG, temporal=TemporalConfig((1, 0, 0, 0), True), adaptation=AdaptationConfig("linear", i2v.FOUR_ADAPTERS))
    model = i2v.build_model(video)
    with pytest.raises(WeightsError, match="i2v.load_zeroi2v"):
        load(tmp_path, {"state_dict": i2v.zeroi2v_state(model)})
    i2v.save_checkpoint(model, tmp_path / "ours.safetensors")
    with pytest.raises(WeightsError, match="i2v.load_checkpoint"):
        i2v.build_model(CONFIG, tmp_path / "ours.safetensors")
    torch.save({"state_dict": i2v.zeroi2v_state(model)}, tmp_path / "theirs.pth")
    save_file(i2v.zeroi2v_state(model), tmp_path / "theirs.safetensors")
    for name in ("theirs.pth", "theirs.safetensors"):
        with pytest.raises(WeightsError, match="i2v.load_zeroi2v"):
            i2v.load_checkpoint(tmp_path / name)
    torch.save(under("visual."), tmp_path / "clip.pt")
    save_file(under("visual."), tmp_path / "clip.safetensors")
    for name in ("clip.pt", "clip.safetensors"):
        with pytest.raises(WeightsError, match=r"i2v.build_model\(config, weights=path\)"):
            i2v.load_checkpoint(tmp_path / name)
        with pytest.raises(WeightsError, match=r"no temporal_embedding.*i2v.build_model\(config, weights=path\)"):
            i2v.load_zeroi2v(tmp_path / name, heads=4, offsets=(0,) * 4, scale=1.0)
    with pytest.raises(WeightsError, match="i2v.load_checkpoint"):
        i2v.load_zeroi2v(tmp_path / "ours.safetensors", heads=4, offsets=(0,) * 4, scale=1.0)
    assert i2v.load_zeroi2v(tmp_path / "theirs.safetensors", heads=4, offsets=(0,) * 4, scale=1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["proj", "transformer.resblocks.1.mlp.c_fc.weight", "class_embedding"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, name, value):
    state = STATE | {name: STATE[name].clone()}
    state[name].view(-1)[-1] = value
    with pytest.raises(WeightsError, match=f"not finite, in {name}"):
        load(tmp_path, under("visual.", state))


def test_what_is_no_weight_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="proj is torch.int8: allowed are floating-point weights"):
        load(tmp_path, STATE | {"proj": torch.ones(16, 8, dtype=torch.int8)})
    check_finite({"a": torch.ones(3).to(torch.float8_e4m3fn), "n": torch.tensor(3)}, "x")
    with pytest.raises(WeightsError, match="in a, b, c, d, e and 2 more"):
        check_finite({k: torch.tensor(float("nan")) for k in "abcdefg"}, "x")


def test_without_proj_the_config_that_fits_is_named(tmp_path):
    state = {k: v for k, v in STATE.items() if k != "proj"}
    with pytest.raises(WeightsError, match="missing proj\n.*TowerConfig.output_dim"):
        load(tmp_path, transformers(state))
    without = replace(CONFIG, tower=replace(CONFIG.tower, output_dim=0))
    assert load(tmp_path, transformers(state), config=without)
    with pytest.raises(WeightsError, match="unexpected proj\n.*TowerConfig.output_dim"):
        load(tmp_path, STATE, config=without)


def test_a_name_is_a_file_a_home_or_a_tag_but_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "openai").mkdir()
    monkeypatch.setattr("open_clip.download_pretrained", lambda entry: "downloaded")
    assert str(find_weights(i2v.TOWERS["ViT-B-16"], "openai")) == "downloaded"
    with pytest.raises(WeightsError, match="weights 'folder': a folder, not a file"):
        (tmp_path / "folder").mkdir()
        i2v.build_model(CONFIG, "folder")
    torch.save(STATE, tmp_path / "w.pt")
    assert torch.equal(i2v.build_model(CONFIG, "~/w.pt").backbone.proj, STATE["proj"])
    i2v.save_checkpoint(i2v.build_model(CONFIG), "~/m.safetensors")
    assert i2v.load_checkpoint("~/m.safetensors").config == CONFIG and i2v.checkpoint_info("~/m.safetensors")["clip"] is None


def test_other_names_stay_as_they_are():
    assert renamed(STATE, form_of(STATE)) == STATE
    half = {k: v for k, v in transformers(STATE).items() if "layers.0.self_attn.k_proj" not in k}
    assert "visual.transformer.resblocks.0.attn.q_proj.weight" in renamed(half, form_of(half)), "shown where a part is missing"
