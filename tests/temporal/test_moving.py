"""Runs along any dimension read other frames, in place and as a new tensor, with the gradients of the loop."""

import pytest
import torch

from i2vlib.temporal.moving import move, moved


def loop(x, runs, dim):
    """One frame and one place along `dim` at a time."""
    y, T = x.clone(), x.shape[1]
    offsets = [offset for length, offset in runs for _ in range(length)]
    for t in range(T):
        for i, offset in enumerate(offsets):
            source = t + offset if 0 <= t + offset < T else t
            y[:, t].select(dim - 1 if dim > 0 else dim, i).copy_(x[:, source].select(dim - 1 if dim > 0 else dim, i))
    return y


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("runs, dim", [([(1, -1), (1, 2), (1, 0)], 2), ([(2, 1), (0, 0), (3, -3)], -1), ([(4, 0)], 3),
                                       ([(1, 0), (3, 7)], 3)])
def test_runs_read_the_frames_of_the_loop(runs, dim, frames):
    x = torch.randn(2, frames, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    want = loop(x, runs, dim)
    assert torch.equal(moved(x, runs, dim), want) and torch.equal(move(x.clone(), runs, dim), want)
    weight = torch.randn_like(x)
    gradients = [torch.autograd.grad(y, x, weight)[0] for y in (want, moved(x, runs, dim), move(x.clone(), runs, dim))]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-15)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=0, atol=1e-15)


def test_only_what_is_movable_is_written():
    x = torch.randn(2, 3, 4)
    before = x.clone()
    assert move(x, [(1, 1), (1, 0)], -1, lambda x: x[..., 2:]) is x
    assert torch.equal(x[..., [0, 1, 3]], before[..., [0, 1, 3]]) and torch.equal(x[:, :2, 2], before[:, 1:, 2])
