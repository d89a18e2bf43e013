"""Plain ViTs of every origin: equal to timm's own forward, refused with the reason, and back into timm's unmodified model."""

import json
import re
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from plain_families import FAMILIES, REFUSED, TINY, our_features, small, timm_features
from safetensors.torch import save_file
from torch.nn import functional as F

import i2vlib as i2v
import i2vlib.tower.origins as origins
from i2vlib.config import (
    FOUR_ADAPTERS,
    SIX_ADAPTERS,
    AdaptationConfig,
    CompressionConfig,
    ConfigError,
    ModelConfig,
    TemporalConfig,
    TowerConfig,
)
from i2vlib.tower.archives import WeightsError
from i2vlib.tower.backbone import VideoViT
from i2vlib.tower.families import FORMS, form_of, refusal, renamed
from i2vlib.tower.names import check_fit, tower_part
from i2vlib.tower.positions import resize_grid
from i2vlib.tower.unmodified import timm_state, timm_tower
from i2vlib.tower.weights import load_image_weights, resolve_activation

ROOT = Path(i2v.__file__).parents[1]
IMAGES = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
# one name for each difference that tiny shapes leave
KINDS = {kind: name for kind, name in FAMILIES.items() if not kind.startswith(("DINOv2 B", "DINOv2 L", "DINO B", "CLIP L"))}
every_kind = pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)


def saved(path, state):
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    return path


def loaded(tower, path, dtype=torch.float64, **resize):
    backbone = VideoViT(ModelConfig(tower)).to(dtype).eval()
    load_image_weights(backbone, path, **resize)
    return backbone


@torch.no_grad()
@every_kind
def test_equals_timms_own_forward(tmp_path, name):
    theirs = small(name).double()
    path, tower = saved(tmp_path / "w.safetensors", theirs.state_dict()), i2v.tower_config(name, **TINY, num_classes=0)
    assert (our_features(loaded(tower, path), IMAGES) - timm_features(theirs, IMAGES)).abs().max() <= 1e-12
    path = saved(path, theirs.float().state_dict())
    ours = loaded(tower, path, torch.float32)
    assert (our_features(ours, IMAGES.float()) - timm_features(theirs, IMAGES.float())).abs().max() <= 1e-5


@torch.no_grad()
@every_kind
@pytest.mark.parametrize("size", [8, 28])
def test_at_another_image_size_too(tmp_path, name, size):
    theirs = small(name, dynamic_img_size=True).double()
    tower = i2v.tower_config(name, size, **TINY, num_classes=0)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    path = saved(tmp_path / "w.safetensors", theirs.state_dict())
    ours = loaded(tower, path, resize_positions=True)
    assert (our_features(ours, images) - timm_features(theirs, images)).abs().max() <= 1e-5
    with pytest.raises(WeightsError, match="resize_positions=True"):
        loaded(tower, path)


@torch.no_grad()
@every_kind
def test_merged_it_goes_back_into_timms_unmodified_model(tmp_path, name):
    theirs = small(name).double()
    path, tower = saved(tmp_path / "w.safetensors", theirs.state_dict()), i2v.tower_config(name, **TINY, num_classes=0)
    places = ("attn_out", "mlp_in", "mlp_out") if "miil" in name else SIX_ADAPTERS  # others give q, k, v a bias: see below
    config = ModelConfig(tower, TemporalConfig((0, 0)), AdaptationConfig("linear", places, dropout=0.0), 2, 3)
    model = i2v.build_model(config).double().eval()
    load_image_weights(model.backbone, path)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter) * parameter.requires_grad)
    plain, video = i2v.merge(model), IMAGES[None]
    bare = timm.create_model(name, pretrained=False, **TINY, num_classes=0).double().eval()
    bare.load_state_dict(i2v.timm_state(plain, name, **TINY), strict=True)
    changed = (model.frame_features(video)[0] - timm_features(theirs, IMAGES)[:, 0]).abs().max()
    assert changed > 1e-2 and (timm_features(bare, IMAGES) - our_features(plain.backbone, IMAGES)).abs().max() <= 1e-12
    assert (timm_features(bare, IMAGES)[:, 0] - model.frame_features(video)[0]).abs().max() <= 1e-12
    anyones = timm_tower(tower).double()
    anyones.load_state_dict(i2v.timm_state(plain), strict=True)
    assert (timm_features(anyones, IMAGES) - our_features(plain.backbone, IMAGES)).abs().max() <= 1e-12


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_the_real_shapes_fit_to_the_last_name(name):
    tower = replace(i2v.tower_config(name), output_dim=0)
    with torch.device("meta"):
        want = VideoViT(ModelConfig(tower)).image_state()
        check_fit(tower_part(origins.timm_model(name, num_classes=0).state_dict(), name), want, name)
    assert tower.ln_pre == ("clip" in name) and tower.norm_eps == (1e-5 if "clip" in name else 1e-6)
    assert tower.registers == (4 if "reg4" in name else 1 if "reg1" in name or "distilled" in name else 0)


@torch.no_grad()
def test_the_projection_of_a_clip_comes_along_and_goes_back_and_a_classifier_does_not(tmp_path):
    name, images = FAMILIES["CLIP B, OpenAI"], IMAGES
    theirs = small(name, num_classes=8).double()
    theirs.head.bias.zero_()
    path, tower = saved(tmp_path / "w.safetensors", theirs.state_dict()), i2v.tower_config(name, **TINY, num_classes=8)
    assert tower.output_dim == 8 and tower.quick_gelu
    model = i2v.build_model(ModelConfig(tower)).double().eval()
    load_image_weights(model.backbone, path)
    assert (model.backbone.embed_images(images) - theirs(images)).abs().max() <= 1e-12
    bare = timm.create_model(name, pretrained=False, **TINY, num_classes=8).double().eval()
    bare.load_state_dict(timm_state(model, name, **TINY), strict=True)
    assert (bare(images) - theirs(images)).abs().max() <= 1e-12
    theirs.head.bias.fill_(0.1)
    saved(path, theirs.state_dict())
    with pytest.raises(WeightsError, match="(?s)missing proj.*output_dim says"):
        loaded(tower, path)
    assert loaded(replace(tower, output_dim=0), path)
    assert i2v.tower_config(FAMILIES["CLIP B, fine-tuned"]).output_dim == 0


# ---- the publishers' own files, and transformers' names: the same weights under them ----

def as_dinov2(state):
    """facebook's names: registers, a position for the class token whether or not there are any, and a mask token."""
    given = {k.replace("reg_token", "register_tokens"): v for k, v in state.items()} | {"mask_token": torch.zeros(1, 32)}
    if "reg_token" in state:
        given["pos_embed"] = torch.cat([torch.full((1, 1, 32), 0.5), state["pos_embed"]], 1)
        given["cls_token"] = state["cls_token"] - 0.5
    return given


def as_mae(state):
    return {"model": state | {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 32),
                              "decoder_pos_embed": torch.zeros(1, 17, 8), "decoder_norm.weight": torch.zeros(8),
                              "decoder_blocks.0.attn.qkv.weight": torch.zeros(24, 8), "decoder_pred.weight": torch.zeros(48, 8)}}


OLD = {"attn.proj": "attention.output.dense", "query": "attention.attention.query", "key": "attention.attention.key",
       "value": "attention.attention.value", "blocks": "encoder.layer"}
NEW = {"attn.proj": "attention.o_proj", "query": "attention.q_proj", "key": "attention.k_proj", "value": "attention.v_proj"}
DINO2 = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
VITS = {"norm1": "layernorm_before", "norm2": "layernorm_after"}


def as_transformers(state, names, prefix="", beside=()):
    names = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
             "register_tokens": "embeddings.register_tokens", "mask_token": "embeddings.mask_token",
             "dist_token": "embeddings.distillation_token", "patch_embed.proj": "embeddings.patch_embeddings.projection",
             "norm": "layernorm"} | names
    found = {name: torch.ones(3, 32) for name in beside}
    for name, value in state.items():
        parts = [(name, value)]
        if "attn.qkv" in name:
            parts = [(name.replace("attn.qkv", word), part) for word, part in zip(("query", "key", "value"), value.chunk(3),
                                                                                strict=True)]
        for part, tensor in parts:
            for ours, theirs in names.items():
                part = f".{part}.".replace(f".{ours}.", f".{theirs}.")[1:-1]
            found[prefix + part] = tensor
    return found


DINOV2, REGISTERS, DINO = FAMILIES["DINOv2 S"], FAMILIES["DINOv2 S, registers"], FAMILIES["DINO S"]
OLD_VIT = OLD | VITS | {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
DISTILLED = FAMILIES["DeiT S, distilled"]
FORMS_OF = {
    "facebook's DINOv2": (DINOV2, as_dinov2), "facebook's DINOv2, registers": (REGISTERS, as_dinov2),
    "facebook's DINO": (DINO, lambda state: state), "facebook's DeiT": (FAMILIES["DeiT S"], lambda state: {"model": state | {
        "head.weight": torch.ones(5, 32), "head.bias": torch.ones(5)}}),
    "facebook's DeiT, distilled": (DISTILLED, lambda state: {"model": state | {
        f"{head}.{part}": torch.ones(5, 32) for head in ("head", "head_dist") for part in ("weight", "bias")}}),
    "facebook's DeiT III": (FAMILIES["DeiT III S"], lambda state: {"model": {
        k.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v for k, v in state.items()}}),
    "facebook's MAE, with the decoder": (FAMILIES["MAE B"], as_mae),
    "a DINO student's backbone": (DINO, lambda state: {"student": {f"module.backbone.{k}": v for k, v in state.items()} | {
        "module.head.mlp.0.weight": torch.ones(2)}}),
    "open_clip with timm's trunk": (DINO, lambda state: {f"visual.trunk.{k}": v for k, v in state.items()}),
    "transformers' Dinov2Model": (DINOV2, lambda state: as_transformers(as_dinov2(state), OLD | DINO2)),
    "transformers' Dinov2ForImageClassification": (DINOV2, lambda state: as_transformers(
        as_dinov2(state), OLD | DINO2, "dinov2.", ("classifier.weight",))),
    "transformers' Dinov2WithRegistersModel": (REGISTERS, lambda state: as_transformers(as_dinov2(state), OLD | DINO2)),
    "transformers' ViTModel": (DINO, lambda state: as_transformers(state, OLD_VIT, beside=("pooler.dense.weight",))),
    "transformers' ViTForImageClassification": (DINO, lambda state: as_transformers(
        state, OLD_VIT, "vit.", ("classifier.weight",))),
    "transformers' ViTMAEForPreTraining": (FAMILIES["MAE B"], lambda state: as_transformers(
        state, OLD_VIT, "vit.", ("decoder.mask_token", "decoder.decoder_pred.weight"))),
    "transformers' DeiTModel": (DISTILLED, lambda state: as_transformers(state, OLD_VIT, beside=("pooler.dense.bias",))),
    "transformers 5 in memory, ViT": (DINO, lambda state: as_transformers(state, NEW | VITS | {"blocks": "layers"}, "vit.")),
    "transformers 5 in memory, DINOv2": (REGISTERS, lambda state: as_transformers(
        as_dinov2(state), NEW | DINO2 | {"blocks": "encoder.layer"}, "dinov2_with_registers.")),
}


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS_OF)
def test_every_form_of_the_names_gives_the_same_tower(tmp_path, form):
    name, given = FORMS_OF[form]
    theirs = small(name)
    torch.save(given(theirs.state_dict()), tmp_path / "w.pth")
    ours = loaded(i2v.tower_config(name, **TINY, num_classes=0), tmp_path / "w.pth", torch.float32)
    assert (our_features(ours, IMAGES.float()) - timm_features(theirs, IMAGES.float())).abs().max() <= 1e-5


def test_a_tensor_that_nobody_knows_is_still_an_error(tmp_path):
    name = FAMILIES["DINO S"]
    tower, path = i2v.tower_config(name, **TINY, num_classes=0), tmp_path / "w.pth"
    for extra in ("extra.weight", "blocks.0.attn.scale", "blocks.0.ls3.gamma"):
        torch.save(small(name).state_dict() | {extra: torch.ones(32)}, path)
        with pytest.raises(WeightsError, match="1 tensors do not fit the model:\n  unexpected"):
            loaded(tower, path)
    torch.save({k: v for k, v in small(name).state_dict().items() if "norm.bias" not in k}, path)
    with pytest.raises(WeightsError, match="missing ln_post.bias"):
        loaded(tower, path)
    for other in (replace(tower, ln_pre=True, quick_gelu=False), replace(tower, registers=1), replace(tower, output_dim=8)):
        with pytest.raises(WeightsError, match="missing (ln_pre.weight|registers|proj)"):
            loaded(other, path)


@torch.no_grad()
def test_layer_scale_of_open_clip_folds_as_well(tmp_path):
    vision = open_clip.model.CLIPVisionCfg(layers=2, width=64, patch_size=8, image_size=16, ls_init_value=0.3)
    theirs = open_clip.model.CLIP(8, vision, open_clip.model.CLIPTextCfg(8, 20, width=16, heads=2, layers=1)).double().eval()
    for name, parameter in theirs.named_parameters():
        parameter.add_(0.1 * torch.randn_like(parameter) * ("ls_" in name))
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    ours = loaded(TowerConfig(16, 8, 64, 2, 1, 4.0, 8, False), tmp_path / "w.pt")
    assert (ours.embed_images(IMAGES) - theirs.encode_image(IMAGES)).abs().max() <= 1e-12


@pytest.mark.parametrize("form, antialias, offset", [
    ("facebook's DINOv2", False, 0.1), ("facebook's DINOv2, registers", True, 0.0), ("transformers' Dinov2Model", False, 0.0),
    ("facebook's DINO", True, 0.0), ("facebook's MAE, with the decoder", False, 0.0),
    ("transformers' Dinov2WithRegistersModel", True, 0.0), ("transformers' DeiTModel", False, 0.0)])
def test_positions_are_resized_as_their_origin_does(tmp_path, form, antialias, offset):
    name, given = FORMS_OF[form]
    torch.save(given(small(name).state_dict()), tmp_path / "w.pth")
    at_home = loaded(i2v.tower_config(name, **TINY, num_classes=0), tmp_path / "w.pth").positional_embedding.detach()
    ours = loaded(i2v.tower_config(name, 8, **TINY, num_classes=0), tmp_path / "w.pth", resize_positions=True)
    patches = at_home[1:].T.reshape(1, 32, 4, 4)
    how = {"scale_factor": (2 + offset) / 4} if offset else {"size": (2, 2)}
    want = F.interpolate(patches, **how, mode="bicubic", antialias=antialias)[0].flatten(1).T
    torch.testing.assert_close(ours.positional_embedding[1:], want, rtol=0, atol=1e-6)
    others = [resize_grid(at_home, 2, *rule) for rule in ((True, 0.0), (False, 0.0), (False, 0.1)) if rule != (antialias, offset)]
    assert all((other[1:] - want).abs().max() > 1e-3 for other in others), "the rules differ"


# ---- what cannot be expressed ----

@pytest.mark.parametrize("name, reason", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_expressed_is_refused_by_its_name_with_the_reason(name, reason):
    with pytest.raises(WeightsError, match=f"{name}: a tower that VideoViT cannot be: it has .*{reason}"):
        i2v.tower_config(name)


BY_KEYS = {kind: row for kind, row in REFUSED.items() if kind != "a ResNet"}


@pytest.mark.parametrize("name, reason", BY_KEYS.values(), ids=BY_KEYS)
def test_and_by_the_names_in_a_file(name, reason):
    state = origins.timm_model(name, num_classes=0).state_dict()
    reason = {"eva02_base_patch14_224": "SwiGLU", "vit_small_patch16_dinov3": "positions are rotary"}.get(name, reason)
    with pytest.raises(WeightsError, match=f"w.pt: a tower that VideoViT cannot be: it has .*{reason}"):
        tower_part({f"model.{k}": v for k, v in state.items()}, "w.pt")


HF_KEYS = {
    "SwiGLU": ("encoder.layer.0.mlp.weights_in.weight",), "relative position": (
        "encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table",),
    "windows": ("encoder.layers.0.blocks.0.attention.self.query.weight",), "no class token": (),
    "RoPE": ("embeddings.cls_token", "rope_embeddings.inv_freq"), "no position embeddings": ("embeddings.cls_token",)}


@pytest.mark.parametrize("reason", HF_KEYS)
def test_and_by_transformers_names(reason):
    names = ("embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.projection.bias", *HF_KEYS[reason])
    names += ("embeddings.position_embeddings",) if reason == "no class token" else ("layernorm.weight",)
    with pytest.raises(WeightsError, match=reason):
        tower_part({f"dinov2.{name}": torch.zeros(2, 2) for name in names}, "w.pt")
    rotary = {"embeddings.patch_embeddings.weight": torch.zeros(2), "rope_embeddings.inv_freq": torch.zeros(2)}
    with pytest.raises(WeightsError, match="not weights of an image tower.*RoPE"):  # DINOv3's
        tower_part(rotary, "w.pt")


def test_a_plain_clip_is_refused_nothing():
    state = VideoViT(ModelConfig(TowerConfig(16, 8, 16, 2, 4, 2.0, 8))).image_state()
    assert refusal(state) == "" and form_of(state) not in FORMS and renamed(state, form_of(state)) == state
    assert tower_part(state, "w.pt").keys() == state.keys()


# ---- names, and what they say ----

@pytest.fixture
def by_name(tmp_path, monkeypatch):
    """A name of timm's whose weights are at hand, and the model that they need."""
    name = "vit_tiny_patch16_224.augreg_in21k"
    theirs = timm.create_model(name, pretrained=False, num_classes=0, depth=1)
    path, config = saved(tmp_path / "w.safetensors", theirs.state_dict()), i2v.tower_config
    monkeypatch.setattr("i2vlib.tower.weights.tower_config", lambda name: config(name, depth=1))
    monkeypatch.setattr("i2vlib.tower.weights.find_file", lambda name: path)
    return name, ModelConfig(i2v.tower_config(name, depth=1), frames=1)


def test_a_name_loads_into_the_tower_that_it_needs(by_name):
    name, config = by_name
    for word in (name, f"timm/{name}"):
        model = i2v.build_model(replace(config, tower=replace(config.tower, quick_gelu=None)), word)
        assert model.config.tower.quick_gelu is False and model.config.tower.mean == (0.5, 0.5, 0.5)
    near = replace(config.tower, mean=(0.5005, 0.4995, 0.5))
    assert resolve_activation(replace(config, tower=near), name)


@pytest.mark.parametrize("field, value", [("norm_eps", 1e-5), ("quick_gelu", True), ("ln_pre", True), ("registers", 1),
                                          ("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225)), ("heads", 4),
                                          ("layers", 2)])
def test_what_a_name_says_and_the_config_does_not_is_an_error(by_name, field, value):
    name, config = by_name
    wrong, needed = replace(config, tower=replace(config.tower, **{field: value})), getattr(config.tower, field)
    says = "tower.quick_gelu is True: allowed is False" if field == "quick_gelu" else \
        rf"TowerConfig.{field} = {value}: these weights need {needed}".replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(WeightsError, match=says):
        i2v.build_model(wrong, name)
    with pytest.raises(WeightsError, match=says):
        load_image_weights(VideoViT(wrong), name)


def test_names_that_nobody_knows_and_files_that_do_not_come(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match="Invalid pretrained tag .nix.*Its tags are: lvd142m"):
        i2v.tower_config("vit_small_patch14_dinov2.nix")
    with pytest.raises(WeightsError, match="'vit_unknown': neither a model of timm nor a repository"):
        i2v.tower_config("vit_unknown")
    with pytest.raises(ConfigError, match="image_size = 100: allowed is a multiple of patch_size 14"):
        i2v.tower_config("vit_small_patch14_dinov2", 100)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    for call in (lambda: i2v.tower_config("facebook/dinov2-small"), lambda: origins.find_file("vit_small_patch16_224.dino")):
        with pytest.raises(WeightsError, match="could not be downloaded .OSError.: connect, or give the path"):
            call()


def repository(folder, **changes):
    """A folder as the hub's repositories are, with a tiny DINOv2 of transformers in it."""
    folder.mkdir()
    says = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 4,
            "image_size": 16, "patch_size": 4, "layer_norm_eps": 1e-6, "hidden_act": "gelu"} | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in says.items() if v is not None}))
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}')
    saved(folder / "model.safetensors", FORMS_OF["transformers' Dinov2Model"][1](small(DINOV2).state_dict()))
    return str(folder)


@torch.no_grad()
def test_a_repository_of_the_hub_says_what_tower_it_needs_and_loads(tmp_path):
    name = repository(tmp_path / "dinov2")
    tower = i2v.tower_config(name)
    assert tower == replace(i2v.tower_config(DINOV2, **TINY, num_classes=0))
    model = i2v.build_model(ModelConfig(tower, frames=1), name).eval()
    theirs = small(DINOV2)
    assert (our_features(model.backbone, IMAGES.float()) - timm_features(theirs, IMAGES.float())).abs().max() <= 1e-5
    with pytest.raises(WeightsError, match="norm_eps = 1e-05: these weights need 1e-06"):
        i2v.build_model(ModelConfig(replace(tower, norm_eps=1e-5), frames=1), name)


@pytest.mark.parametrize("changes, says", [
    ({"use_swiglu_ffn": True}, "SwiGLU"), ({"model_type": "dinov3_vit"}, "RoPE"), ({"model_type": "swin"}, "windows"),
    ({"model_type": "bert"}, "of the kind 'bert': allowed are vit, "), ({"hidden_act": "gelu_new"}, "the activation gelu_new"),
    ({"layer_norm_eps": None}, "does not say 'layer_norm_eps'"), ({"model_type": "siglip"}, "no class token")])
def test_a_repository_with_another_tower_is_refused(tmp_path, changes, says):
    with pytest.raises(WeightsError, match=says):
        i2v.tower_config(repository(tmp_path / "other", **changes))


def test_the_tower_of_each_kind_of_repository(tmp_path):
    sizes = {"mlp_ratio": None, "intermediate_size": 64}
    assert i2v.tower_config(repository(tmp_path / "vit", model_type="vit", **sizes)).mlp_ratio == 2
    assert i2v.tower_config(repository(tmp_path / "deit", model_type="deit", **sizes)).registers == 1
    four = repository(tmp_path / "four", model_type="dinov2_with_registers", num_register_tokens=4)
    assert i2v.tower_config(four, 32) == replace(i2v.tower_config(four), image_size=32, registers=4)


@torch.no_grad()
def test_the_readmes_lines_run(tmp_path, monkeypatch):
    section = re.search(r"### Other image towers\n(.*?)\n### ", (ROOT / "README.md").read_text(encoding="utf-8"), re.S).group(1)
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    path = saved(tmp_path / "w.safetensors", timm.create_model(DINOV2, pretrained=False).state_dict())
    monkeypatch.setattr("i2vlib.tower.weights.find_file", lambda name: path)
    names = {}
    exec("\n".join(lines), names)
    images = torch.randn(1, 3, 224, 224)
    ours = names["model"].eval().frame_features(images[:, None])[:, 0]
    assert (names["plain"].eval()(images) - ours).abs().max() <= 1e-5 and names["clip"].mean == (0.485, 0.456, 0.406)


# ---- back into timm ----

PLAIN = ModelConfig(TowerConfig(16, 4, 32, 2, 2, 2.0, 0, False, False, 1e-6), frames=4)


@pytest.mark.parametrize("changes, named", [
    ({"adaptation": AdaptationConfig("linear", FOUR_ADAPTERS)}, r"adapters \(merge first\)"),
    ({"temporal": TemporalConfig((0, 1))}, "relocated heads"), ({"temporal": TemporalConfig((), True)}, "the temporal embedding"),
    ({"temporal": TemporalConfig(local=True)}, "UniFormerV2"), ({"compression": CompressionConfig("mean", (1,))}, "compression"),
])
def test_what_would_be_lost_is_named(changes, named):
    with pytest.raises(ValueError, match=f"timm's model would leave out {named}"):
        timm_state(i2v.VideoClassifier(replace(PLAIN, **changes)))


def test_a_family_that_has_no_place_for_it_says_so():
    name, shapes = "vit_base_patch16_224_miil", TINY | {"mlp_ratio": 2.0}
    model = i2v.VideoClassifier(ModelConfig(i2v.tower_config(name, **shapes, num_classes=0), frames=1))
    assert timm_state(model, name, **shapes)
    torch.nn.init.ones_(model.backbone.transformer.resblocks[1].attn.in_proj_bias)
    with pytest.raises(ValueError, match="has no place for transformer.resblocks.1.attn.in_proj_bias, which is not 0"):
        timm_state(model, name, **shapes)
    for field, value, needed in (("registers", 2, 0), ("norm_eps", 1e-5, 1e-6), ("quick_gelu", True, False), ("heads", 4, 2)):
        other = i2v.VideoClassifier(replace(PLAIN, tower=replace(PLAIN.tower, **{field: value})))
        with pytest.raises(ValueError, match=f"its {field} is {needed}, TowerConfig.{field} is {value}"):
            timm_state(other, "vit_small_patch16_224", **shapes)
