"""What the layers of every axis build on."""

import copy

import pytest
import torch
from torch import nn

from i2vlib.layers import QuickGELU, as_clips, grid_conv, patch_grid, wide


@pytest.mark.parametrize("trains", [False, True])
def test_quick_gelu_is_its_equation_and_leaves_its_input(trains):
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    y = QuickGELU()(x.requires_grad_(trains))
    assert y.requires_grad is trains and torch.equal(x, torch.linspace(-4, 4, 9, dtype=torch.float64))
    torch.testing.assert_close(y, x / (1 + (-1.702 * x).exp()), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("given", "wanted"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32),
                                               (torch.float32, torch.float32), (torch.float64, torch.float64)])
def test_wide_is_float32_or_wider(given, wanted):
    x = torch.ones(3, dtype=given)
    assert wide(x).dtype == wanted and (wide(x) is x) == (given == wanted)


def test_clips_and_their_grids_are_views_in_which_each_patch_keeps_its_place():
    x = torch.arange(6 * 7 * 2).view(6, 7, 2)  # 2 clips of 3 frames, a class token and 2x3 patches, D = 2
    clips = as_clips(x, 3)
    grid = patch_grid(clips, (2, 3))
    assert clips.shape == (2, 3, 7, 2) and grid.shape == (2, 2, 3, 2, 3)
    assert clips.data_ptr() == x.data_ptr() and grid.data_ptr() == x[:, 1:].data_ptr()
    for clip, frame, row, column in [(0, 0, 0, 0), (0, 2, 1, 0), (1, 1, 0, 2), (1, 2, 1, 2)]:
        assert torch.equal(grid[clip, :, frame, row, column], x[3 * clip + frame, 1 + 3 * row + column])


def test_refuses_what_does_not_fit():
    x = torch.zeros(6, 7, 2)
    for frames in (-3, 0, 4, 12):
        with pytest.raises(ValueError, match=f"6 frames do not make whole clips of {frames} frames"):
            as_clips(x, frames)
    for wrong in (torch.zeros(6, 7), torch.zeros(6, 0, 2)):
        with pytest.raises(ValueError, match=r"allowed is \(B·T, N, D\)"):
            as_clips(wrong, 3)
    for grid in (None, (2, 4)):
        with pytest.raises(ValueError, match=r"for 7 tokens a frame, .* H·W = 6"):
            patch_grid(as_clips(x, 3), grid)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=["autocast", "bfloat16", "float16"])
@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_a_convolution_over_the_grid_has_the_gradient_of_float64_in_half_precision(frames, dtype):
    """PyTorch's own, in bfloat16 on a CPU, is off by its whole size for two frames, or not a number."""
    torch.manual_seed(frames)
    exact = nn.Conv3d(16, 16, 3, padding=1, groups=16).double()
    x = torch.randn(2, frames, 1 + 6 * 6, 16, dtype=torch.float64)
    grid_conv(exact, x, (6, 6)).square().sum().backward()
    conv = copy.deepcopy(exact).to(dtype or torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is None):
        out = grid_conv(conv, x.to(conv.weight.dtype), (6, 6))
    out.double().square().sum().backward()
    for ours, right in zip(conv.parameters(), exact.parameters(), strict=True):
        assert (ours.grad - right.grad).abs().max() < 0.02 * right.grad.abs().max()


def test_a_convolution_over_the_grid_is_the_module_itself_in_full_precision():
    conv, x = nn.Conv3d(4, 4, 3, padding=1, groups=4), torch.randn(2, 3, 1 + 2 * 3, 4)
    torch.testing.assert_close(grid_conv(conv, x, (2, 3)), conv(patch_grid(x, (2, 3))).permute(0, 2, 3, 4, 1), rtol=0, atol=0)
