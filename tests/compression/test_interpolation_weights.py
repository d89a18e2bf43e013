"""i2vlib.compression.weights: weights read and replaced in a forward pass, followed through sites, laid on pixels."""

from dataclasses import replace

import pytest
import torch

import i2vlib as i2v
from i2vlib.compression.inti import Interpolation
from i2vlib.compression.weights import cascade, fuse_frames, interpolation_weights, to_pixels

VIDEO = torch.randn(2, 4, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def model(preset="inti-mini-corrupted"):
    torch.manual_seed(0)
    model = i2v.build_model(i2v.PRESETS[preset], "mini").eval()
    for name, parameter in model.named_parameters():
        if "score" in name:
            torch.nn.init.normal_(parameter, std=0.5)  # away from the mean
    return model


def test_the_maps_of_every_site_and_their_cascade():
    net = model()
    with torch.no_grad(), interpolation_weights(net) as maps:
        assert maps == []
        net(VIDEO[:1])
        net(VIDEO)
    assert [tuple(m.shape) for m in maps] == [(2, 4, 65), (2, 2, 65)], "of the last pass only"
    together = cascade(maps)
    assert together.shape == (2, 4, 65) and (together - 0.25).abs().max() > 0.05
    torch.testing.assert_close(together.sum(1), torch.ones(2, 65), rtol=0, atol=1e-6)
    torch.testing.assert_close(together[:, 2], maps[0][:, 2] * maps[1][:, 1])


def test_hooks_are_gone_afterwards_even_after_an_error():
    net = model()
    with pytest.raises(RuntimeError), interpolation_weights(net):
        raise RuntimeError
    assert not [m for m in net.modules() if m._forward_hooks]


def test_replaced_weights_take_effect_and_are_reported():
    net = model()
    with torch.no_grad():
        plain = net(VIDEO)
        with interpolation_weights(net, {0: torch.tensor([1.0, 0.0, 1.0, 0.0])[None, :, None]}) as maps:
            first = net(VIDEO)
        doubled = VIDEO[:, [0, 0, 2, 2]]
        with interpolation_weights(net, {0: torch.full((1, 1, 1), 0.5), 1: maps[1]}):
            same = net(doubled)  # a frame fused with itself; only blocks before the site see it
    assert (plain - first).abs().max() > 1e-3
    torch.testing.assert_close(first, same, rtol=1e-4, atol=1e-5)
    assert maps[0][:, 0].min() == 1 and maps[0][:, 1].max() == 0


def test_the_mean_and_linear_pooling_report_theirs():
    for preset in ("mean-mini-corrupted", "linearpool-mini-corrupted"):
        with torch.no_grad(), interpolation_weights(net := model(preset)) as maps:
            net(VIDEO)
        assert all((m == 0.5).all() for m in maps) and (cascade(maps) == 0.25).all()


def test_pixels_and_fused_frames_by_hand():
    weights = torch.zeros(1, 2, 5)
    weights[0, 0, 1:] = torch.tensor([1.0, 0.75, 0.5, 0.0])
    weights[0, 1] = 1 - weights[0, 0]
    pixels = to_pixels(weights, (2, 2), (4, 4))
    assert pixels.shape == (1, 2, 4, 4) and (pixels[0, 0, :2, 2:] == 0.75).all() and (pixels[0, 1, 2:, 2:] == 1).all()
    video = torch.stack([torch.full((3, 4, 4), 8.0), torch.zeros(3, 4, 4)])[None]
    fused = fuse_frames(video, weights, (2, 2), 1)
    assert fused.shape == (1, 1, 3, 4, 4) and fused[0, 0, 0, 0, 3] == 6 and fused[0, 0, 0, 3, 0] == 4
    assert fuse_frames(video.repeat(1, 2, 1, 1, 1), weights.repeat(1, 2, 1), (2, 2), 2).shape == (1, 2, 3, 4, 4)


def test_gradients_reach_the_weights():
    net = model()
    with interpolation_weights(net) as maps:
        net(VIDEO)
    maps[0][:, 0].sum().backward()  # the sum over a pair would be constant
    site = next(m for m in net.modules() if isinstance(m, Interpolation))
    assert site.predictor.token.linear.weight.grad.abs().max() > 1e-4


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="weighs no frames"), interpolation_weights(model("naive-mini-corrupted")):
        pass
    with pytest.raises(ValueError, match="site 2: allowed is 0 to 1"), interpolation_weights(model(), {2: torch.ones(1)}):
        pass
    with pytest.raises(ValueError, match="expands to it"), interpolation_weights(net := model(), {0: torch.ones(4)}):
        net(VIDEO)
    with pytest.raises(ValueError, match="inside `with"):
        cascade([])
    with pytest.raises(ValueError, match="each site halves"):
        cascade([torch.ones(1, 4, 3), torch.ones(1, 4, 3)])
    with pytest.raises(ValueError, match="3 tokens"):
        to_pixels(torch.ones(1, 2, 3), (2, 2), (4, 4))
    with pytest.raises(ValueError, match="whole groups"):
        fuse_frames(torch.ones(1, 3, 3, 4, 4), torch.ones(1, 3, 5), (2, 2), 2)


def test_a_model_of_other_frames_is_refused():
    with pytest.raises(ValueError, match="video of 6 frames: this model has compression sites for 4"):
        model()(torch.randn(1, 6, 3, 48, 48))
    with pytest.raises(i2v.ConfigError, match="1 frame\\(s\\) arrive after block 3: allowed is an even number"):
        replace(i2v.PRESETS["inti-mini-corrupted"], compression=i2v.CompressionConfig("inti", (1, 2, 3)))
