from pathlib import Path

import numpy as np
import pytest
import torch

import i2vlib as i2v
from i2vlib.config import AdaptationConfig, ModelConfig, TemporalConfig, TowerConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "zeroi2v_base_w64h8_t8_div8_n2_s1_l3"
SETTINGS = dict(heads=8, offsets=(-1, 1) + (0,) * 6, scale=1.0)


def golden(suffix=".npz"):
    data = np.load(f"{GOLDEN}{suffix}")
    return {k[3:]: torch.tensor(data[k]) for k in data.files if k.startswith("sd/")}, data


def ours(x):
    """Their layouts in ours: (B,C,T,H,W) -> (B,T,C,H,W) and (B,D,T,1,1) -> (B,T,D)."""
    x = torch.tensor(x)
    return x.transpose(1, 2) if x.shape[-1] > 1 else x[..., 0, 0].transpose(1, 2)


@torch.no_grad()
def test_unmerged_and_merged_equal_the_released_code():
    state, data = golden()
    model = i2v.load_zeroi2v(state, **SETTINGS)
    assert (model.frame_features(ours(data["x"])) - ours(data["out"])).abs().max() <= 1e-5
    merged, want = i2v.merge(model), ours(data["out_f64"])
    assert (merged.frame_features(ours(data["x"])) - ours(data["out"])).abs().max() <= 1e-5
    model = model.double()
    assert (model.frame_features(ours(data["x"]).double()) - want).abs().max() <= 1e-12
    assert (i2v.merge(model).frame_features(ours(data["x"]).double()) - want).abs().max() <= 1e-12


@torch.no_grad()
def test_their_merged_checkpoint_loads_and_equals_ours():
    state, data = golden(".merged.npz")
    theirs = i2v.load_zeroi2v(state, **SETTINGS)
    assert (theirs.frame_features(ours(golden()[1]["x"])) - ours(data["out"])).abs().max() <= 1e-5
    mine = i2v.merge(i2v.load_zeroi2v(golden()[0], **SETTINGS))
    for name, value in mine.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=0, atol=1e-6)


@torch.no_grad()
def test_first_block_reads_the_frames_that_theirs_reads():
    from i2vlib.temporal import shift_heads
    reads = torch.tensor(golden()[1]["attn0/kv_reads"]).int().argmax(-1)  # (head, query frame) -> key frame
    frames = torch.arange(8.0).view(1, 8, 1, 1, 1).expand(1, 8, 8, 1, 1)
    assert torch.equal(shift_heads(frames, SETTINGS["offsets"])[0, :, :, 0, 0].T.long(), reads)


@torch.no_grad()
def test_activations_of_every_block():
    state, data = golden()
    backbone = i2v.load_zeroi2v(state, **SETTINGS).backbone
    x = backbone.embed(ours(data["x"]))
    torch.testing.assert_close(x, torch.tensor(data["act/ln_pre"]), rtol=0, atol=1e-5)
    for i, block in enumerate(backbone.transformer.resblocks):
        x = block(x, 8)
        want = torch.tensor(data[f"act/block{i}"]).transpose(0, 1)
        # before ln_post the activations are larger than 1, and so is a unit of their rounding
        torch.testing.assert_close(x, want, rtol=0, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize("places", [i2v.THREE_ADAPTERS, i2v.FOUR_ADAPTERS, i2v.SIX_ADAPTERS, ()])
@pytest.mark.parametrize("form", ["bare", "prefixed", "wrapped", "file"])
def test_there_and_back(tmp_path, places, form):
    adaptation = AdaptationConfig("linear", places, 0.25, 0.5) if places else AdaptationConfig()
    config = ModelConfig(TowerConfig(16, 8, 16, 2, 4, 4.0, 0, True), TemporalConfig((-1, 1, 0, 0), True), adaptation, 4, 7)
    model = i2v.build_model(config).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    state = i2v.zeroi2v_state(model)
    assert {"cls_head.fc_cls.weight", "backbone.temporal_embedding"} <= set(state)
    if form == "bare":
        state = {k.removeprefix("backbone."): v for k, v in state.items() if not k.startswith("cls_head")}
    given = {"state_dict": state} if form in ("wrapped", "file") else state
    if form == "file":
        torch.save(given, tmp_path / "k400.pth")
        given = tmp_path / "k400.pth"
    back = i2v.load_zeroi2v(given, heads=4, offsets=(-1, 1, 0, 0), scale=0.5)
    video = torch.randn(2, 4, 3, 16, 16)
    assert torch.equal(back.frame_features(video), model.frame_features(video))
    if form != "bare":
        assert torch.equal(back(video), model(video)) and back.config == config


def test_key_names_are_the_released_ones():
    state, _ = golden()
    back = i2v.zeroi2v_state(i2v.load_zeroi2v(state, **SETTINGS))
    assert set(back) == {f"backbone.{k}" for k in state}
    assert all(torch.equal(back[f"backbone.{k}"], v) for k, v in state.items())


def test_long_offsets_survive_the_merge():
    """The released evaluation class drops offsets beyond +-1; ours must not."""
    state, data = golden()
    model = i2v.load_zeroi2v(state, heads=8, offsets=(-1, 1, -2, 2, -3, 0, 0, 0), scale=1.0).double()
    x = ours(data["x"]).double()
    with torch.no_grad():
        want = model.frame_features(x)
        assert (i2v.merge(model).frame_features(x) - want).abs().max() <= 1e-12
        short = i2v.load_zeroi2v(state, **SETTINGS).double()
        assert (short.frame_features(x) - want).abs().max() > 0.1


def test_what_is_no_checkpoint_of_theirs():
    with pytest.raises(i2v.WeightsError, match="not a ZeroI2V checkpoint, no tensor"):
        i2v.load_zeroi2v({"a": torch.zeros(1)}, **SETTINGS)
    state, _ = golden()
    del state["transformer.resblocks.1.S_Adapter.D_fc1.bias"]
    with pytest.raises(i2v.WeightsError, match="missing backbone.transformer.resblocks.1.adapters.attn_out.down.bias"):
        i2v.load_zeroi2v(state, **SETTINGS)
    with pytest.raises(i2v.ConfigError, match="offsets has 2 entries: allowed is one a head, 8"):
        i2v.load_zeroi2v(golden()[0], heads=8, offsets=(-1, 1), scale=1.0)


def test_gelu_adapters_are_not_exported_as_linear_ones():
    config = ModelConfig(TowerConfig(16, 8, 16, 1, 4), adaptation=AdaptationConfig("gelu", ("qkv",)))
    with pytest.raises(i2v.WeightsError, match="adaptation 'gelu' has no place in the released format"):
        i2v.zeroi2v_state(i2v.build_model(config))


def test_the_given_state_is_not_shared():
    state, _ = golden()
    model = i2v.load_zeroi2v(state, **SETTINGS)
    model.backbone.conv1.weight.data.zero_()
    assert state["conv1.weight"].abs().max() > 0
