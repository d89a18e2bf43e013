import pytest
import torch

from i2vlib.temporal import relocate_heads, shift_heads, stdha_offsets
from i2vlib.tower.backbone import Attention


def naive_shift(x, offsets):
    """The definition, one frame and one head at a time."""
    y = x.clone()
    T = x.shape[1]
    for t in range(T):
        for i, offset in enumerate(offsets):
            source = t + offset if 0 <= t + offset < T else t
            y[:, t, i] = x[:, source, i]
    return y


OFFSETS = [(0, 0, 0, 0, 0), (-1, 1, 0, 0, 0), (-1, -1, 2, 2, 0), (0, 3, 0, -3, 1), (7, -7, 1, 1, -1)]


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("offsets", OFFSETS)
def test_shift_equals_the_loop(frames, offsets):
    x = torch.randn(2, frames, 5, 3, 4)
    before = x.clone()
    assert torch.equal(shift_heads(x, offsets), naive_shift(x, offsets))
    assert torch.equal(x, before), "a pure function leaves its input alone"


def test_one_entry_lands_where_it_must():
    x = torch.zeros(1, 4, 3, 2, 1)
    x[0, 2, 0, 1, 0] = 1  # frame 2, head 0 (offset -1): read by frame 3
    x[0, 2, 1, 1, 0] = 2  # head 1 (offset +1): read by frame 1
    y = shift_heads(x, (-1, 1, 0))
    assert y[0, 3, 0, 1, 0] == 1 and y[0, 1, 1, 1, 0] == 2 and y.count_nonzero() == 2


def test_edges_fall_back_on_their_own_frame():
    x = torch.arange(4.0).view(1, 4, 1, 1, 1)
    assert shift_heads(x, (-2,)).flatten().tolist() == [0, 1, 0, 1]
    assert shift_heads(x, (2,)).flatten().tolist() == [2, 3, 2, 3]
    assert shift_heads(x, (-4,)).flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("offsets", OFFSETS)
def test_gradients_by_finite_differences(offsets):
    x = torch.randn(2, 4, 5, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: shift_heads(x, offsets), (x,))
    assert torch.autograd.gradgradcheck(lambda x: shift_heads(x, offsets), (x,))


@pytest.mark.parametrize("grad", [False, True])
def test_packed_relocation_moves_k_and_v_only_and_in_place(grad):
    B, T, N, h, d = 2, 4, 3, 5, 2
    offsets = (-1, 1, 0, 2, 0)
    W = torch.randn(3 * h * d, h * d, dtype=torch.float64, requires_grad=grad)
    x = torch.randn(B * T, N, h * d, dtype=torch.float64)
    qkv = x @ W.T
    want = qkv.detach().clone()
    got = relocate_heads(qkv, T, offsets)
    assert got.data_ptr() == qkv.data_ptr(), "what stays is not copied"
    split = want.view(B, T, N, 3, h, d).permute(3, 0, 1, 4, 2, 5)
    q, k, v = got.view(B, T, N, 3, h, d).permute(3, 0, 1, 4, 2, 5)
    assert torch.equal(q, split[0])
    assert torch.equal(k, naive_shift(split[1], offsets)) and torch.equal(v, naive_shift(split[2], offsets))
    if grad:
        assert torch.autograd.gradcheck(lambda w: relocate_heads(x @ w.T, T, offsets), (W,))


def test_receptive_fields_are_those_of_the_released_settings():
    assert stdha_offsets(12, 1) == (0,) * 12
    assert stdha_offsets(12, 3) == (-1, 1) + (0,) * 10
    assert stdha_offsets(12, 5) == (-1, 1, -2, 2) + (0,) * 8
    assert stdha_offsets(16, 4, each=2) == (-1, -1, 1, 1, -2, -2) + (0,) * 10
    assert stdha_offsets(12, 8)[:7] == (-1, 1, -2, 2, -3, 3, -4)


def test_impossible_settings_say_what_is_allowed():
    with pytest.raises(ValueError, match="needs 6 temporal heads: the tower has 4"):
        stdha_offsets(4, 4, each=2)
    with pytest.raises(ValueError, match="field = 9: allowed is 1 to 8"):
        stdha_offsets(12, 9)
    with pytest.raises(ValueError, match="one offset a head"):
        shift_heads(torch.zeros(1, 2, 3, 4, 5), (1, 0))
    with pytest.raises(ValueError, match="4 offsets: allowed is one a head, 8, or none"):
        Attention(64, 8, (1, -1, 0, 0))
    with pytest.raises(ValueError, match="7 frames do not make whole clips of 4"):
        relocate_heads(torch.zeros(7, 2, 12), 4, (1, 0))


@pytest.mark.parametrize("offsets", OFFSETS)
def test_what_is_traced_moves_without_writing_in_place(offsets, monkeypatch):
    B, T, N, h, d = 2, 4, 3, 5, 2
    qkv = torch.randn(B * T, N, 3 * h * d, dtype=torch.float64)
    x = torch.randn(B, T, h, N, d, dtype=torch.float64, requires_grad=True)
    want, shifted = relocate_heads(qkv.clone(), T, offsets), shift_heads(x, offsets)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    before = qkv.clone()
    assert torch.equal(relocate_heads(qkv, T, offsets), want) and torch.equal(qkv, before)
    assert torch.equal(shift_heads(x, offsets), shifted) and torch.autograd.gradcheck(lambda x: shift_heads(x, offsets), (x,))
