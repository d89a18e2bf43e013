"""The compressions over time beside InTI, and the site that a config asks for."""

from dataclasses import replace

import pytest
import torch

import i2vlib as i2v
from i2vlib.compression.inti import InTI
from i2vlib.compression.pooling import ConvPooling, LinearPooling, MeanPooling, make_site
from i2vlib.compression.tokens import STA

X = torch.randn(2 * 6, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
PAIRS = X.unflatten(0, (2, 3, 2))  # (B, P, 2, N, C)
MEAN = (PAIRS[:, :, 0] / 2 + PAIRS[:, :, 1] / 2).flatten(0, 1)


@pytest.mark.parametrize("module", [MeanPooling(), LinearPooling(), ConvPooling(4)], ids=lambda m: type(m).__name__)
def test_each_starts_as_the_mean(module):
    torch.testing.assert_close(module.double()(X, 6), MEAN, rtol=0, atol=1e-15)


def test_parameters():
    assert [sum(p.numel() for p in m.parameters()) for m in (MeanPooling(), LinearPooling(), ConvPooling(4))] == [0, 2, 36]


def test_linear_pooling_shares_two_weights_that_sum_to_one():
    module = LinearPooling().double()
    with torch.no_grad():
        module.predictor.logits.copy_(torch.tensor([0.0, 3.0]).log1p())  # weights 1/5 and 4/5
    y = module(X, 6)
    torch.testing.assert_close(y, (0.2 * PAIRS[:, :, 0] + 0.8 * PAIRS[:, :, 1]).flatten(0, 1))
    y.sum().backward()
    assert module.predictor.logits.grad.abs().min() > 0


def test_conv_pooling_is_the_strided_convolution():
    torch.manual_seed(1)
    module, conv = ConvPooling(4, "random").double(), torch.nn.Conv3d(4, 4, (2, 1, 1), (2, 1, 1)).double()
    with torch.no_grad():
        conv.weight.copy_(module.linear.weight.unflatten(1, (2, 4)).transpose(1, 2)[..., None, None])
        conv.bias.copy_(module.linear.bias)
        want = conv(X.unflatten(0, (2, 6)).permute(0, 3, 1, 2)[..., None])  # (B, C, T, N, 1)
        torch.testing.assert_close(module(X, 6), want[..., 0].permute(0, 2, 3, 1).flatten(0, 1))
    assert (module(X, 6) - MEAN).abs().max() > 0.1, "random does not start as the mean"


@pytest.mark.parametrize("module", [MeanPooling(), LinearPooling(), ConvPooling(4)], ids=lambda m: type(m).__name__)
def test_an_odd_number_of_frames_is_refused(module):
    with pytest.raises(ValueError, match="12 frames in clips of 3"):
        module.double()(X, 3)


def test_a_config_gets_its_module():
    config = i2v.PRESETS["inti-mini-corrupted"]
    for kind, module in (("inti", InTI), ("mean", MeanPooling), ("linear", LinearPooling), ("conv", ConvPooling), ("sta", STA)):
        site = make_site(replace(config, compression=i2v.CompressionConfig(kind, (1, 2))), 2)
        assert type(site) is module
    assert make_site(config, 2).frames == 2 and make_site(config, 1).frames == 4
    assert make_site(i2v.PRESETS["inti-sigmoid-mini-corrupted"], 1).predictor.head == "sigmoid"
    assert make_site(i2v.PRESETS["inti-token-frame-mini-corrupted"], 1).predictor.cube is None
