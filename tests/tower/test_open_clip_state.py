"""open_clip alone: for which models strict loading means equal outputs, and the README's lines for the others."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import i2vlib as i2v
from i2vlib.config import AdaptationConfig, CompressionConfig, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.course.ship import shipped
from i2vlib.measure import open_clip_tower

ROOT = Path(i2v.__file__).parents[1]
PLAIN = ModelConfig(TowerConfig(16, 8, 16, 2, 4, 2.0, 8, quick_gelu=True), frames=4, classes=3)
LINEAR = AdaptationConfig("linear", i2v.FOUR_ADAPTERS)


def drawn(config):
    torch.manual_seed(0)
    model = i2v.build_model(config).double().eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model


@torch.no_grad()
@pytest.mark.parametrize("config", [PLAIN, replace(PLAIN, adaptation=LINEAR), replace(PLAIN, temporal=TemporalConfig((0,) * 4)),
                                    replace(PLAIN, adaptation=AdaptationConfig("full"))])
def test_where_it_loads_the_outputs_are_equal(config):
    model, video = i2v.merge(drawn(config)), torch.randn(2, 4, 3, 16, 16, dtype=torch.float64)
    tower = open_clip_tower(config).double()
    tower.load_state_dict(i2v.open_clip_state(model), strict=True)
    tower.proj = None
    features = tower(video.flatten(0, 1)).unflatten(0, (2, 4))
    assert (features - model.frame_features(video)).abs().max() <= 1e-12
    assert (model.head(features.mean(1)) - model(video)).abs().max() <= 1e-12


@pytest.mark.parametrize("changes, named", [
    (dict(adaptation=LINEAR), r"adapters \(merge first\)"), (dict(temporal=TemporalConfig((0, 1, 0, 0))), "relocated heads"),
    (dict(temporal=TemporalConfig((), True)), "the temporal embedding"),
    (dict(temporal=TemporalConfig(local=True)), "UniFormerV2"),
    (dict(temporal=TemporalConfig(global_blocks=1)), "UniFormerV2"),
    (dict(compression=CompressionConfig("mean", (1,))), "compression 'mean'"),
    (dict(compression=CompressionConfig("tome", remove=1)), "compression 'tome'"),
])
def test_any_other_model_is_refused_with_what_would_be_lost(changes, named):
    model = i2v.VideoClassifier(replace(PLAIN, **changes))
    for form in (model, torch.compile(model, backend="eager")):
        with pytest.raises(ValueError, match=f"would leave out {named}.*README"):
            i2v.open_clip_state(form)


README = (ROOT / "README.md").read_text(encoding="utf-8")


def readme_lines() -> str:
    section = re.search(r"### Serving with open_clip\n(.*?)\n## ", README, re.S).group(1)
    return "\n".join(line[4:] for line in section.splitlines() if line.startswith("    ") or not line.strip())


@torch.no_grad()
def test_the_readmes_lines_give_the_shipped_models_outputs(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(readme_lines(), names)
    tower, model, (_, clips, labels, _) = names["tower"].eval(), names["model"], shipped("motion")
    scores = names["serve"](clips)
    assert torch.equal(scores.argmax(1), model(clips).argmax(1)) and (scores.argmax(1) == labels).float().mean() == 1
    for module in (tower, model):
        module.double()
    names["place"] = model.backbone.temporal_embedding
    few = clips[:4].double()
    assert (names["serve"](few) - model(few)).abs().max() <= 1e-12
    bare = open_clip_tower(model.config).double()  # what strict loading alone gives, as the README says
    bare.load_state_dict(model.backbone.image_state(), strict=True)
    bare.proj = None
    found = model.head(bare(clips.double().flatten(0, 1)).unflatten(0, (len(clips), -1)).mean(1)).argmax(1)
    assert f"would be right on {(found == labels).double().mean():.2f} of\nthe clips" in README


@torch.no_grad()
@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("offsets", [(3, -3, 2, 0), (-1, 1, 0, 0)])
def test_the_readmes_lines_serve_any_merged_zeroi2v_model(monkeypatch, quick, offsets):
    tower = replace(PLAIN.tower, quick_gelu=quick)
    config = replace(PLAIN, tower=tower, temporal=TemporalConfig(offsets, True), adaptation=LINEAR)
    model, names = drawn(config), {}
    monkeypatch.setattr(i2v, "load_checkpoint", lambda _: model)
    exec(readme_lines(), names)
    names["tower"].double()
    names["tower"].load_state_dict(i2v.merge(model).backbone.image_state(), strict=False)  # in float64
    video = torch.randn(2, 4, 3, 16, 16, dtype=torch.float64)
    assert (names["serve"](video) - model(video)).abs().max() <= 1e-12
