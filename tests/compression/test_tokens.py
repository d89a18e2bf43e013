import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from i2vlib.compression.tokens import (
    STA,
    Merging,
    accumulated_similarity,
    assign,
    match,
    merge_tokens,
    select,
    sta_multiply_adds,
    tome_multiply_adds,
)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    return float(sum(p * q for p, q in zip(a, b, strict=True)) / (a.norm() * b.norm()))


def naive_tome(x, keys, size, remove):
    """One frame, as lists: the output tokens, their sizes, and the input tokens in each."""
    A, B = list(range(0, len(x), 2)), list(range(1, len(x), 2))
    edges = []
    for a in A[1:]:
        partner = max(B, key=lambda b: cosine(keys[a], keys[b]))
        edges.append((cosine(keys[a], keys[partner]), a, partner))
    edges = sorted(edges, reverse=True)[:remove]
    gone = {a for _, a, _ in edges}
    members = [[a] for a in A if a not in gone] + [[b] + [a for _, a, p in edges if p == b] for b in B]
    sizes = [sum(size[i] for i in group) for group in members]
    means = [sum(size[i] * x[i] for i in group) / total for group, total in zip(members, sizes, strict=True)]
    return torch.stack(means), torch.stack(sizes), members


@pytest.mark.parametrize("tokens", [2, 3, 4, 9, 16, 17])
@pytest.mark.parametrize("remove", [1, 2, 3, 5, 100])
def test_merging_equals_the_loop(tokens, remove):
    x, keys, size = random(3, tokens, 4), random(3, tokens, 5, seed=1), random(3, tokens, seed=2).abs() * 5 + 1
    matching = match(keys, remove)
    y, new_size = merge_tokens(x, size, matching)
    where = assign(torch.arange(tokens).expand(3, -1), matching)
    assert y.shape == (3, tokens - min(remove, (tokens - 1) // 2), 4), "reduced to what is possible"
    for f in range(3):
        want, want_size, members = naive_tome(x[f], keys[f], size[f], remove)
        torch.testing.assert_close(y[f], want)
        torch.testing.assert_close(new_size[f], want_size)
        assert all(where[f, i] == k for k, group in enumerate(members) for i in group)


def test_several_tokens_may_merge_into_one():
    keys = torch.tensor([[[0, 0, 1], [1, 0, 0], [1, 0.1, 0], [0, 1, 0], [1, 0.2, 0], [0, 1, 1], [1, 0.3, 0]]])
    x = torch.tensor([[[9.0], [0], [3], [7], [6], [8], [3]]])
    y, size = merge_tokens(x, torch.ones(1, 7), match(keys, 3))
    assert y.flatten().tolist() == [9, 3, 7, 8] and size.tolist() == [[1, 4, 1, 1]]


def test_the_two_equal_tokens_are_the_ones_that_merge():
    x = random(1, 12, 6)
    x[0, 8] = x[0, 3]  # 8 is in A, 3 in B
    merging = Merging(x, 1)
    y = merging.apply(x, x)
    assert merging.where[0, 8] == merging.where[0, 3] and merging.size.sort().values.tolist() == [[1.0] * 10 + [2.0]]
    torch.testing.assert_close(y[0, merging.where[0, 3]], x[0, 3])


def test_equal_similarities_are_settled_by_place():
    matching = match(torch.ones(2, 9, 3), 2)
    assert matching.source.tolist() == [[2, 4]] * 2 and matching.order.tolist() == [[0, 6, 8, 1, 3, 5, 7]] * 2
    assert matching.target.tolist() == [[3, 3]] * 2


@pytest.mark.parametrize("tokens", [10, 21, 32])
def test_after_three_rounds_each_token_is_the_mean_of_its_members(tokens):
    x = random(2, tokens, 6)
    merging, y = Merging(x, 4), x
    for seed in range(3):
        y = merging.apply(y, y + 0.1 * random(*y.shape, seed=seed + 5))
    assert y.shape[1] == merging.size.shape[1] == {10: 3, 21: 9, 32: 20}[tokens]
    for f in range(2):
        for k in range(y.shape[1]):
            members = merging.where[f] == k
            assert members.sum() == merging.size[f, k]
            torch.testing.assert_close(y[f, k], x[f, members].mean(0))
    assert torch.equal(merging.size.sum(1), torch.full((2,), float(tokens), dtype=torch.float64)), "sizes add up to all tokens"
    assert torch.equal(y[:, 0], x[:, 0]) and (merging.size[:, 0] == 1).all() and (merging.where[:, 0] == 0).all(), "class token"


def test_the_class_token_stays_even_where_it_is_the_most_similar():
    x = random(1, 9, 4)
    x[0, 1] = x[0, 0]
    y, size = merge_tokens(x, torch.ones(1, 9), match(x, 100))
    assert torch.equal(y[0, 0], x[0, 0]) and size[0, 0] == 1 and y.shape[1] == 5


def test_nothing_to_merge_returns_x_itself():
    x, size = random(2, 7, 3), torch.ones(2, 7)
    matching = match(x, 0)
    y, new_size = merge_tokens(x, size, matching)
    where = torch.arange(7).flip(0).expand(2, -1)
    assert y is x and new_size is size and assign(where, matching) is where
    assert matching.order.tolist() == [list(range(7))] * 2
    merging = Merging(x, 0)
    assert merging.apply(x, x) is x and torch.equal(merging.log_size(), torch.zeros(2, 1, 1, 7, dtype=torch.float64))
    assert match(x[:, :2], 3).source.shape == (2, 0), "class token and one patch: nothing can merge"


def test_gradients_by_finite_differences():
    matching, size = match(random(2, 9, 4), 3), random(2, 9, seed=1).abs() + 1
    x = random(2, 9, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: merge_tokens(x, size, matching)[0], (x,))


def test_log_size_makes_a_merged_token_count_as_often_as_its_members():
    keys, values, query = random(1, 9, 4), random(1, 9, 4, seed=1), random(1, 1, 2, 4, seed=2)
    keys[0, 4], keys[0, 6], values[0, 4], values[0, 6] = keys[0, 3], keys[0, 3], values[0, 3], values[0, 3]
    merging = Merging(keys, 2)
    both = merging.apply(torch.cat([keys, values], dim=-1), keys)[:, None]
    got = scaled_dot_product_attention(query, both[..., :4], both[..., 4:], attn_mask=merging.log_size())
    torch.testing.assert_close(got, scaled_dot_product_attention(query, keys[:, None], values[:, None]))
    assert merging.size.max() == 3


def test_autocast_and_the_meta_device():
    """What training and the counter of multiply-adds run under. Under autocast only the similarities are rounded."""
    x = random(6, 9, 4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        merged, kept = Merging(x, 3).apply(x, x), STA(3)(x, 3)
        assert accumulated_similarity(x.unflatten(0, (2, 3))).dtype == torch.float32
    assert merged.dtype == kept.dtype == torch.float32 and merged.shape == kept.shape == (6, 6, 4)
    x = x.to("meta")
    assert Merging(x, 3).apply(x, x).shape == STA(3)(x, 3).shape == STA(3, reverse=True)(x, 3).shape == (6, 6, 4)


def test_half_precision_keeps_its_dtype_and_whole_sizes():
    x = random(2, 40, 8).bfloat16()
    merging = Merging(x, 10)
    assert merging.apply(x, x).dtype == torch.bfloat16 and merging.size.dtype == torch.float32
    assert merging.log_size(x.dtype).dtype == torch.bfloat16 and torch.equal(merging.size, merging.size.round())
    assert STA(5)(x, 2).dtype == torch.bfloat16


# --- STA -----------------------------------------------------------------------------------------------------------------


def naive_sta(x, keys, remove):
    """One clip (T,N,D), as lists: ρ of the patches and the tokens kept, frame by frame."""
    T, P = x.shape[0], x.shape[1] - 1
    k = keys[:, 1:]
    likeness = [max(cosine(k[0, i], k[0, o]) for o in range(1 - i % 2, P, 2)) - 3 * (i % 2) for i in range(P)]
    drop = sorted(range(P), key=lambda i: -likeness[i])[:remove]
    rho, kept = [[1.0] * P], [[i for i in range(P) if i not in drop]]
    passing = {j: 1.0 for j in range(P)}
    for t in range(1, T):
        now = [0.0] * P
        for j, mass in passing.items():
            e = [torch.tensor(cosine(k[t - 1, j], k[t, i]), dtype=torch.float64).exp().item() for i in range(P)]
            for i in range(P):
                now[i] += mass * e[i] / sum(e)
        norms = [float(x[t, i + 1].abs().sum()) for i in range(P)]
        score = [now[i] * (1 - (norms[i] - min(norms)) / (max(norms) - min(norms))) for i in range(P)]
        drop = sorted(range(P), key=lambda i: -score[i])[:remove]
        rho.append(now)
        kept.append([i for i in range(P) if i not in drop])
        passing = {j: now[j] * P / sum(now[i] for i in kept[t]) for j in kept[t]}
    return torch.tensor(rho, dtype=torch.float64), torch.tensor([[0] + [i + 1 for i in row] for row in kept])


@pytest.mark.parametrize("tokens", [3, 8, 13])
@pytest.mark.parametrize("remove", [1, 4, 6, 11])
def test_selection_equals_the_loop(tokens, remove):
    remove = min(remove, tokens - 2)
    # keys close to each other between frames, so that ρ is far from flat and dropping patches matters to later frames
    x, keys = random(2, 5, tokens, 4), random(2, 5, tokens, 3, seed=1) + random(2, 1, tokens, 3, seed=2)
    for given in (None, keys):
        got = select(x, remove, given)
        for b in range(2):
            assert torch.equal(got[b], naive_sta(x[b], (x if given is None else given)[b], remove)[1])


def test_dropped_patches_pass_nothing_on():
    """Selection with and without the patches dropped before must differ somewhere, or the loop above tests less than it says."""
    x = random(1, 6, 13, 4) * torch.linspace(0.2, 3, 13)[:, None]
    rho, _ = naive_sta(x[0], x[0], 6)
    assert (rho[2:] - accumulated_similarity(x[:, :, 1:])[0, 2:]).abs().max() > 0.01


def test_a_long_clip_does_not_lose_rho():
    """Where three patches of four go at every frame, what is passed on would be 1e-70 of its start after 120 frames."""
    x = random(1, 120, 9, 4)
    assert torch.equal(select(x.float(), 6)[0], naive_sta(x[0], x[0], 6)[1])


def test_accumulation_equals_the_loop():
    x = random(2, 5, 9, 3)
    got = accumulated_similarity(x[:, :, 1:])
    for b in range(2):
        torch.testing.assert_close(got[b], naive_sta(x[b], x[b], 0)[0])
    torch.testing.assert_close(got.mean(-1), torch.ones(2, 5, dtype=torch.float64))


def test_a_patch_seen_before_goes_and_a_new_or_strong_one_stays():
    x = torch.eye(8).mul(2).tile(1, 2, 1, 1)[:, :, :6]  # a still clip of one class token and five patches
    x[0, 1, 2] = torch.tensor([0.0] * 7 + [2])  # something new appears in place of patch 2
    assert accumulated_similarity(x[:, :, 1:])[0, 1].argmin() == 1
    x[0, 1, 4] *= 3  # seen, but strong
    assert select(x, 3)[0, 1].tolist() == [0, 2, 4]


def test_of_two_equal_patches_in_the_first_frame_one_goes():
    x = random(1, 1, 9, 6)
    x[0, 0, 6] = x[0, 0, 3]
    kept = select(x, 1)[0, 0].tolist()
    assert len({3, 6} & set(kept)) == 1 and len(kept) == 8


def test_patches_of_equal_score_are_settled_by_place():
    assert select(torch.ones(1, 3, 7, 2), 4)[0].tolist() == [[0, 2, 4], [0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("remove", [0, 1, 5, 7])
def test_sta_keeps_the_selected_tokens_as_they_are(remove):
    x, sta = random(6, 9, 4), STA(remove)
    kept, y = sta.keep(x, 3), sta(x, 3)
    assert kept.shape == (2, 3, 9 - remove) and (kept[..., 0] == 0).all() and (kept.diff(dim=-1) > 0).all()
    assert all(torch.equal(y[f], x[f, kept.flatten(0, 1)[f]]) for f in range(6))
    assert not list(sta.parameters()) and (y is x) == (remove == 0)
    x.requires_grad_()
    STA(remove)(x, 3).sum().backward()
    assert x.grad.sum() == 6 * (9 - remove) * 4 and x.grad.max() == 1


def test_reverse_walks_from_the_last_frame():
    x, keys = random(6, 9, 4), random(6, 9, 2, seed=1)
    back = STA(3).keep(x.unflatten(0, (2, 3)).flip(1).flatten(0, 1), 3, keys.unflatten(0, (2, 3)).flip(1).flatten(0, 1)).flip(1)
    assert torch.equal(STA(3, reverse=True).keep(x, 3, keys), back) and not torch.equal(STA(3).keep(x, 3, keys), back)
    assert torch.equal(STA(3, reverse=True)(x, 3, keys)[4], x[4, back[1, 1]])


@pytest.mark.parametrize("compress", [lambda x: STA(3)(x, 4), lambda x: Merging(x, 3).apply(x, x)], ids=["STA", "ToMe"])
def test_clips_do_not_meet(compress):
    x, order = random(3, 4, 9, 5), [2, 0, 1]
    got = compress(x[order].flatten(0, 1)).unflatten(0, (3, 4))
    assert torch.equal(got, compress(x.flatten(0, 1)).unflatten(0, (3, 4))[order])


# --- cost and errors -----------------------------------------------------------------------------------------------------


def counted(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("tokens", [8, 13, 50])
@pytest.mark.parametrize("remove", [0, 3])
def test_multiply_adds_by_hand_are_those_counted(tokens, remove):
    x, keys = torch.randn(4, tokens, 12), torch.randn(4, tokens, 6)
    assert counted(lambda: Merging(x, remove).apply(x, keys)) == 4 * tome_multiply_adds(tokens, remove, 6)
    assert counted(lambda: STA(remove)(x, 4)) == (sta_multiply_adds(4, tokens, 12) if remove else 0)
    assert counted(lambda: STA(remove)(x, 2, keys)) == (2 * sta_multiply_adds(2, tokens, 6) if remove else 0)


def test_errors_say_what_is_allowed():
    x = torch.zeros(4, 9, 3)
    with pytest.raises(ValueError, match="remove = -1: allowed is .* 0 or more"):
        match(x, -1)
    with pytest.raises(ValueError, match="0 or more tokens a merge"):
        Merging(x, -1)
    with pytest.raises(ValueError, match="this matching is for 4 frames of 9 tokens"):
        merge_tokens(x[:, :8], torch.ones(4, 8), match(x, 2))
    with pytest.raises(ValueError, match="one key a token"):
        Merging(x, 1).apply(x, x[:, :8])
    with pytest.raises(ValueError, match="one key a token"):
        STA(1)(x, 2, x[:, :8])
    with pytest.raises(ValueError, match="remove = 8: allowed is .* 0 to N-2"):
        STA(8)(x, 2)
    with pytest.raises(ValueError, match="0 or more patches"):
        STA(-1)
    with pytest.raises(ValueError, match="4 frames do not make whole clips of 3"):
        STA(1)(x, 3)
