"""Fewer tokens in each frame: ToMe merges similar ones, STA drops those that an earlier frame already showed.

ToMe: Bolya et al. 2022, arXiv:2210.09461. STA: Ding et al. 2023, arXiv:2308.04549. Both leave the number of frames as it is,
learn nothing, and protect the class token, which is token 0. Tensors only, no model.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vlib.layers import as_clips, wide

# --- ToMe ----------------------------------------------------------------------------------------------------------------


class Matching(NamedTuple):
    """Who merges into whom, in every frame. Index tensors (long), so that one matching serves tokens, sizes and maps alike.

    order (F, N-r): the input token at each output place. source (F, r): the input tokens that are merged away.
    target (F, r): the output place that each of them merges into.
    """

    order: Tensor
    source: Tensor
    target: Tensor


@torch.no_grad()
def match(keys: Tensor, remove: int) -> Matching:
    """The `remove` best pairs of each frame, by bipartite matching (ToMe section 3).

    Tokens at even places are set A, at odd places set B. Every token of A finds the B of highest cosine similarity; the
    `remove` most similar of A merge into theirs. The class token is in A and never merges. Output places: the rest of A in
    their order, then B in theirs. Equal similarities: the earlier token first.

    keys (F,N,C), any float dtype: in ToMe the attention keys, averaged over heads. At most (N-1)//2 tokens can merge: a
    larger `remove` is reduced to that. 0 gives the identity. No gradient. Raises ValueError for a negative `remove`.
    """
    if keys.ndim != 3 or remove < 0:
        raise ValueError(f"keys {tuple(keys.shape)}, remove = {remove}: allowed is (F, N, C) and 0 or more tokens")
    frames, tokens, _ = keys.shape
    remove = min(remove, max(0, tokens - 1) // 2)
    place = torch.arange(tokens, device=keys.device).expand(frames, -1)
    if remove == 0:
        return Matching(place, place[:, :0], place[:, :0])
    unit = F.normalize(keys, dim=-1)
    similarity = unit[:, 2::2] @ unit[:, 1::2].mT  # (F, A, B), the class token left out of A
    best, partner = similarity.max(dim=-1)  # max gives the first of equals
    ranked = best.argsort(dim=-1, descending=True, stable=True)
    merged, kept = ranked[:, :remove], ranked[:, remove:].sort(dim=-1).values
    order = torch.cat([place[:, :1], 2 * kept + 2, place[:, 1::2]], dim=1)
    target = partner.gather(1, merged) + (1 + kept.shape[1])  # set B starts behind the class token and the rest of A
    return Matching(order, 2 * merged + 2, target)


def merge_tokens(x: Tensor, size: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
    """Mean of merged tokens, weighted by the number of patches that each stands for; the sizes add (ToMe section 3).

    x (F,N,D), any float dtype; size (F,N) -> (F,N-r,D) and (F,N-r). Differentiable in x. With r = 0 x and size themselves are
    returned. Raises ValueError where the three do not fit each other.
    """
    order, source, target = matching
    if x.ndim != 3 or x.shape[:2] != size.shape or x.shape[0] != order.shape[0] or x.shape[1] != order.shape[1] + source.shape[1]:
        raise ValueError(f"x {tuple(x.shape)}, size {tuple(size.shape)}: this matching is for {order.shape[0]} frames of "
                         f"{order.shape[1] + source.shape[1]} tokens")
    if source.shape[1] == 0:
        return x, size
    merged_size = size.gather(1, source)
    new_size = size.gather(1, order).scatter_add(1, target, merged_size)
    # b + Σ_a (size_a / new size)·(a - b) is the weighted mean of b and all a: it touches r rows, all others are only copied
    tokens, rows = x.flatten(0, 1), _rows(order, x.shape[1])
    y = tokens.index_select(0, rows.flatten())
    weight = (merged_size / new_size.gather(1, target)).to(x.dtype).flatten().unsqueeze(1)
    sources = tokens.index_select(0, _rows(source, x.shape[1]).flatten())
    targets = tokens.index_select(0, rows.gather(1, target).flatten())
    y = y.index_add(0, _rows(target, order.shape[1]).flatten(), weight * (sources - targets))
    return y.unflatten(0, order.shape), new_size


def assign(where: Tensor, matching: Matching) -> Tensor:
    """The current place of every original token after one more merge: (F,N0) long -> (F,N0) long."""
    order, source, target = matching
    if source.shape[1] == 0:
        return where
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    moved = torch.empty(order.shape[0], order.shape[1] + source.shape[1], dtype=torch.long, device=order.device)
    return moved.scatter_(1, order, place).scatter_(1, source, target).gather(1, where)


class Merging:
    """The record of one forward pass: how many patches each token stands for, and who merged into whom.

    x (F,N,D): the tokens at the start; remove: tokens merged away at each `apply`. size (F,N'), float32 or wider, starts as
    ones; matchings: one for each `apply`, in order.
    """

    def __init__(self, x: Tensor, remove: int):
        if remove < 0:
            raise ValueError(f"remove = {remove}: allowed is 0 or more tokens a merge")
        self.remove, self.keys = remove, None  # keys: what the block's attention leaves for `apply`
        self.size = wide(x.new_ones(x.shape[:2]))
        self.tokens, self.matchings = x.shape[1], []

    @property
    def where(self) -> Tensor:
        """Where every original token went: its current place, (F,N) long. At the start the identity."""
        start = torch.arange(self.tokens, device=self.size.device).expand(self.size.shape[0], -1)
        return reduce(assign, self.matchings, start)

    def log_size(self, dtype: torch.dtype | None = None) -> Tensor:
        """(F,1,1,N'): added to the attention logits, it makes a token that stands for s patches count s times (ToMe eq. 1)."""
        return self.size.log().to(dtype or self.size.dtype)[:, None, None]

    def apply(self, x: Tensor, keys: Tensor) -> Tensor:
        """Match by keys (F,N',C) and merge x (F,N',D); size and matchings follow."""
        if x.shape[:2] != keys.shape[:2]:
            raise ValueError(f"x {tuple(x.shape)} with keys {tuple(keys.shape)}: allowed is one key a token")
        matching = match(keys, self.remove)
        x, self.size = merge_tokens(x, self.size, matching)
        self.matchings.append(matching)
        return x


def tome_multiply_adds(tokens: int, remove: int, head_width: int) -> int:
    """Multiply-adds of one matching in one frame: the similarities of A and B, keys of `head_width` channels."""
    return (tokens - 1) // 2 * (tokens // 2) * head_width if remove else 0


# --- STA -----------------------------------------------------------------------------------------------------------------


def accumulated_similarity(x: Tensor) -> Tensor:
    """Temporal redundancy ρ of every patch when none is dropped: high where earlier frames already showed the same.

        P_t[j,i] = softmax over i of cos(x_{t-1,j}, x_{t,i})        ρ_0[i] = 1        ρ_t[i] = Σ_j ρ_{t-1}[j] P_t[j,i]

    x (B,T,P,D), patches without the class token -> (B,T,P), float32 or wider; the mean over a frame is 1.
    """
    return _sweep(x, wide(x.new_zeros(x.shape[:-1])), 0)[0]


@torch.no_grad()
def select(x: Tensor, remove: int, keys: Tensor | None = None) -> Tensor:
    """The tokens that each frame keeps, ascending, the class token always among them.

    The rule is that of the authors' released code. From frame t > 0 go the `remove` patches of highest score

        ρ_t[i] · (1 - a_t[i])        a = the L1 norm of x, scaled to 0..1 over the patches of its frame

    with ρ as in `accumulated_similarity`, except that patches already dropped pass nothing on. The first frame has no frame
    before it and is compared with itself: every second patch finds the most similar of the others, and those with the most
    similar partner go (if they do not suffice, then the others by the same measure). Equal scores: the later patch goes.
    Ours: every frame keeps the same number at every depth; the authors pool 2, then 4 time steps at the later sites.

    x (B,T,N,D), class token first; keys (B,T,N,C): what is compared, in the authors' code the attention keys averaged over heads;
    None compares x itself -> (B, T, N-remove) long. No gradient. Raises ValueError unless 0 <= remove <= N-2.
    """
    if x.ndim != 4 or not 0 <= remove <= max(0, x.shape[2] - 2):
        raise ValueError(f"x {tuple(x.shape)}, remove = {remove}: allowed is (B, T, N, D) and 0 to N-2 tokens, so that one "
                         "patch is left")
    if keys is not None and keys.shape[:3] != x.shape[:3]:
        raise ValueError(f"x {tuple(x.shape)} with keys {tuple(keys.shape)}: allowed is one key a token")
    if remove == 0:
        return torch.arange(x.shape[2], device=x.device).expand(x.shape[:3])
    magnitude = x[:, :, 1:].abs().sum(dim=-1, dtype=wide(x[:0]).dtype)  # (B, T, P); no wide copy of x
    low, high = magnitude.aminmax(dim=-1, keepdim=True)
    importance = (magnitude - low) / (high - low).clamp_min(torch.finfo(magnitude.dtype).tiny)
    kept = _sweep((x if keys is None else keys)[:, :, 1:], importance, remove)[1]
    return torch.cat([torch.zeros_like(kept[..., :1]), kept + 1], dim=-1)


def _sweep(keys: Tensor, importance: Tensor, remove: int) -> tuple[Tensor, Tensor]:
    """ρ (B,T,P) and the patches kept (B,T,P-remove), frame by frame, for keys (B,T,P,C) and importance (B,T,P)."""
    patches = keys.shape[2]
    unit = F.normalize(keys, dim=-1)
    # row j does not depend on what is kept, so all frames go through one product; a dropped j is left out below
    transition = (unit[:, :-1] @ unit[:, 1:].mT).softmax(dim=-1, dtype=importance.dtype)  # (B, T-1, P, P)
    rho = [torch.ones_like(importance[:, 0])]
    kept = [_lowest(_likeness(unit[:, 0]) if remove else rho[0], patches - remove)]
    passed = rho[0]  # the first frame passes on all of its patches, as in the authors' code
    for t in range(1, keys.shape[1]):
        rho.append((passed.unsqueeze(2) * transition[:, t - 1]).sum(dim=1))  # no matmul: autocast would round ρ
        kept.append(_lowest(rho[t] * (1 - importance[:, t]), patches - remove))
        passed = torch.zeros_like(passed).scatter(1, kept[t], rho[t].gather(1, kept[t]))
        passed = passed * (patches / passed.sum(dim=1, keepdim=True))  # one factor a frame: no rank changes, no underflow
    return torch.stack(rho, dim=1), torch.stack(kept, dim=1)


def _likeness(unit: Tensor) -> Tensor:
    """How close each patch of a frame comes to the other half: (B,P,C) of length 1 -> (B,P). The odd places rank last."""
    similarity = unit[:, ::2] @ unit[:, 1::2].mT
    score = similarity.new_empty(unit.shape[:2])
    score[:, ::2] = similarity.amax(dim=2)
    score[:, 1::2] = similarity.amax(dim=1) - 3  # a cosine is at most 2 away from any other
    return score


def _lowest(score: Tensor, keep: int) -> Tensor:
    """Indices of the `keep` lowest scores, ascending; the earlier of equals."""
    return score.argsort(dim=-1, stable=True)[:, :keep].sort(dim=-1).values


class STA(nn.Module):
    """Drop `remove` patches of every frame by semantic-aware temporal accumulation; see `select` for the rule.

    x (B·T,N,D) -> (B·T,N-remove,D). No parameters; remove = 0 returns x itself. `reverse` walks from the last frame to the
    first: the authors do so at the second of their three sites. Inside a model x itself is compared, where the authors compare
    attention keys [ours: a site stands between blocks and has no keys]. Raises ValueError where the batch is not whole clips.
    """

    def __init__(self, remove: int, reverse: bool = False):
        super().__init__()
        if remove < 0:
            raise ValueError(f"remove = {remove}: allowed is 0 or more patches a frame")
        self.remove, self.reverse = remove, reverse

    def forward(self, x: Tensor, frames: int, keys: Tensor | None = None) -> Tensor:
        kept = self.keep(x, frames, keys).flatten(0, 1)
        if self.remove == 0:
            return x
        return x.flatten(0, 1).index_select(0, _rows(kept, x.shape[1]).flatten()).unflatten(0, kept.shape)

    def keep(self, x: Tensor, frames: int, keys: Tensor | None = None) -> Tensor:
        """The tokens kept, (B, T, N-remove) long, ascending; x (B·T,N,D), keys (B·T,N,C) or None to compare x itself."""
        clips = [None if y is None else as_clips(y, frames) for y in (x, keys)]
        if not self.reverse:
            return select(clips[0], self.remove, clips[1])
        return select(clips[0].flip(1), self.remove, None if keys is None else clips[1].flip(1)).flip(1)

    def extra_repr(self) -> str:
        return f"remove={self.remove}, reverse={self.reverse}"


def sta_multiply_adds(frames: int, tokens: int, width: int) -> int:
    """Multiply-adds of one STA site for one clip: the similarities of neighbouring frames and within the first.

    tokens: those before the site, the class token included; width: the channels that are compared. A site with remove = 0
    computes nothing.
    """
    patches = tokens - 1
    return (frames - 1) * patches**2 * width + (patches + 1) // 2 * (patches // 2) * width


def _rows(index: Tensor, tokens: int) -> Tensor:
    """Token indices (F,K) within frames as row numbers of the tensor with F and N = `tokens` folded."""
    return index + tokens * torch.arange(index.shape[0], device=index.device).unsqueeze(1)
