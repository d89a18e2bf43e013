"""The interpolation weights of a model: read and replaced during a forward pass, followed to the input frames, laid on pixels.

A weight map (B,T,N) holds one number for each token that enters a site: T frames, N tokens, the class token first,
registers, if there are any, behind the patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional as F

from i2vlib.compression.inti import Interpolation


@contextmanager
def interpolation_weights(model: nn.Module, replace: Mapping[int, Tensor] | None = None) -> Iterator[list[Tensor]]:
    """The weight maps of every site in a forward pass: `with interpolation_weights(model) as maps: model(video)`.

    maps: a list that each forward pass fills anew, one (B,T,N) a site, in order; T halves from one to the next. They keep their
    gradients. replace: {site: map} puts other weights in a site's place, of any shape that expands to (B,T,N): (T,1) for one
    number a frame. Of two contexts, one inside the other, the inner has the last word and the outer sees what was there before.
    Works for InTI, LinearPooling and the mean, on models that are not compiled. Raises ValueError where the model has no such
    site, or weights do not fit.
    """
    sites = [module for module in model.modules() if isinstance(module, Interpolation)]
    if not sites:
        raise ValueError("this model weighs no frames: allowed are models with InTI, LinearPooling or mean compression")
    replace = dict(replace or {})
    if unknown := sorted(set(replace) - set(range(len(sites)))):
        raise ValueError(f"replace has site {unknown[0]}: allowed is 0 to {len(sites) - 1}")
    maps: list[Tensor] = []

    def record(site: int):
        def hook(module, inputs, output):
            if site in replace:
                output = _fitting(replace[site], output)
            maps[site:] = [output]
            return output
        return hook

    hooks = [site.predictor.register_forward_hook(record(i)) for i, site in enumerate(sites)]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def _fitting(weights: Tensor, output: Tensor) -> Tensor:
    try:
        return weights.to(output).expand_as(output)
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f"replace: {tuple(getattr(weights, 'shape', ())) or weights!r} for a site of {tuple(output.shape)}: "
                         "allowed is a tensor that expands to it, such as (T,1) for one number a frame") from error


def cascade(maps: Sequence[Tensor]) -> Tensor:
    """The weight of each input frame in the final one: the product along its way through the sites (InTI figures 4 and 5).

    maps: (B,T,N), (B,T/2,N), ... as interpolation_weights gives them. Returns (B,T,N). Where each site's pairs sum to 1, so does
    each group of 2^sites frames, at every place.
    """
    if not maps:
        raise ValueError("no maps: the model has to run inside `with interpolation_weights(model) as maps`")
    product = maps[-1]
    for earlier in reversed(maps[:-1]):
        if earlier.shape[1] != 2 * product.shape[1]:
            raise ValueError(f"maps of {earlier.shape[1]} and then {product.shape[1]} frames: each site halves the frames")
        product = earlier * product.repeat_interleave(2, dim=1)
    return product


def to_pixels(weights: Tensor, grid: tuple[int, int], size: tuple[int, int], registers: int = 0) -> Tensor:
    """A weight map (B,T,N) on the pixels that its patches cover, without class token and registers: (B,T,H,W), each patch a flat
    square."""
    patches = grid[0] * grid[1]
    if weights.shape[2] != 1 + patches + registers:
        raise ValueError(f"a map of {weights.shape[2]} tokens: allowed is 1 + {grid[0]}·{grid[1]} for grid {tuple(grid)}, and "
                         f"{registers} registers")
    return F.interpolate(weights[:, :, 1:1 + patches].unflatten(2, grid), size, mode="nearest")


def fuse_frames(video: Tensor, weights: Tensor, grid: tuple[int, int], frames: int, registers: int = 0) -> Tensor:
    """Frames drawn together by their weights, as pictures of what is left (InTI figures 4 and 5).

    video (B,T,3,H,W) float; weights (B,T,N), one for each input frame and place, from one site or from `cascade`; frames: how
    many are left of T. Returns (B,frames,3,H,W): the weighted sum of each group of T/frames neighbours. The plain average is that
    with equal weights.
    """
    if video.shape[1] != weights.shape[1] or video.shape[1] % frames:
        raise ValueError(f"{video.shape[1]} frames with weights for {weights.shape[1]} into {frames}: allowed is one weight map "
                         "a frame, and whole groups")
    pixels = to_pixels(weights, grid, tuple(video.shape[-2:]), registers).unsqueeze(2) * video
    return pixels.unflatten(1, (frames, -1)).sum(2)
