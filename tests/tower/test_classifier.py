import pytest
import torch

import i2vlib as i2v
from i2vlib.config import AdaptationConfig, ModelConfig, TemporalConfig, TowerConfig

TOWER = TowerConfig(16, 8, 16, 2, 4, 4.0, 8)


def test_logits_are_the_head_on_the_mean_of_the_frames():
    model = i2v.build_model(ModelConfig(TOWER, frames=4, classes=5)).eval()
    video = torch.randn(2, 4, 3, 16, 16)
    features = model.frame_features(video)
    assert features.shape == (2, 4, 16)
    for b in range(2):
        mean = sum(features[b, t] for t in range(4)) / 4
        torch.testing.assert_close(model(video)[b], model.head.weight @ mean + model.head.bias, rtol=0, atol=1e-6)


def test_without_a_head_the_mean_feature():
    model = i2v.build_model(ModelConfig(TOWER, frames=4)).eval()
    video = torch.randn(2, 4, 3, 16, 16)
    assert model.head is None
    assert torch.equal(model(video), model.frame_features(video).mean(1))
    assert i2v.merge(model).head is None


def test_head_dropout_acts_in_training_only():
    model = i2v.build_model(ModelConfig(TOWER, frames=2, classes=3, head_dropout=0.9))
    video = torch.randn(2, 2, 3, 16, 16)
    assert not torch.equal(model.train()(video), model(video))
    assert torch.equal(model.eval()(video), model(video))


@pytest.mark.parametrize("kind, places", [("frozen", ()), ("full", ()), ("linear", i2v.FOUR_ADAPTERS)])
def test_one_training_step_moves_what_trains_and_nothing_else(kind, places):
    torch.manual_seed(0)
    config = ModelConfig(TOWER, TemporalConfig((-1, 1, 0, 0), True), AdaptationConfig(kind, places), 4, 3)
    model = i2v.build_model(config)
    before = {n: p.clone() for n, p in model.named_parameters()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    torch.nn.functional.cross_entropy(model(torch.randn(4, 4, 3, 16, 16)), torch.tensor([0, 1, 2, 0])).backward()
    optimiser.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    still = {n for n in trains if n.endswith(("down.weight", "down.bias"))}  # U = 0: no gradient reaches D_ in the first step
    assert moved == trains - still


def test_a_merged_model_keeps_mode_dtype_and_temporal_embedding():
    config = ModelConfig(TOWER, TemporalConfig((-1, 1, 0, 0), True), AdaptationConfig("linear", i2v.FOUR_ADAPTERS), 4, 3)
    model = i2v.build_model(config).double()
    torch.nn.init.normal_(model.backbone.temporal_embedding)
    merged = i2v.merge(model)
    assert merged.training and merged.head.weight.dtype == torch.float64
    assert torch.equal(merged.backbone.temporal_embedding, model.backbone.temporal_embedding)
    assert merged.config.temporal == config.temporal and merged.config.adaptation.kind == "frozen"
