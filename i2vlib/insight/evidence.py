"""What speaks for a class: Grad-CAM of a whole clip, and the drop when a frame or a patch is taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from i2vlib.layers import wide
from i2vlib.tower.classifier import plain_blocks
from i2vlib.tower.modes import at_rest

WHERE = ("ln_1", "attn", "ln_2", "mlp", "block")  # places in a block whose output Grad-CAM can read
REPLACEMENTS = ("previous", "grey", "mean")
SCORES = ("logit", "log_probability")


def clip_gradcam(model: nn.Module, video: Tensor, target: int | None = None, layer: int = -1, where: str = "ln_1") -> Tensor:
    """Where in a clip is the evidence for a class: Grad-CAM (Selvaraju et al. 2017, eq. 1-2) over all frames at once.

        α_c = 1/(T'·H·W) Σ_t,i,j ∂y/∂A_c[t,i,j]          map = relu(Σ_c α_c A_c)

    y is the logit of class `target`, A the patch tokens at `where` of block `layer`. One α and one scale serve the whole clip
    (0: its least, 1: its most), so that frames can be compared; frame by frame each would reach 1. Computed by the grad-cam
    package. At the output of the last block, and anywhere behind its attention, patches have no gradient: the head reads class
    tokens alone. Hence the default, ln_1 of the last block, which that attention reads. At this place the map can lie beside the
    evidence for classes of motion: check it against occlude_patches (notebook 14).

    model: a VideoClassifier with a head, any training mode, frozen or not; it stays as it was. video (1,T,3,S,S) float; target:
    a class, None for the predicted one; layer: a block, from the end if negative; where: one of WHERE ("block": its output).
    Returns (T',H,W) float32 on the CPU, one number a patch; T' < T behind sites of compression, for the fused frames there; all
    zero where nothing speaks for the class. Raises ValueError for another input, where patches have no gradient, where tokens
    lie on no grid (behind ToMe or STA), and where the logit does not depend on the clip.
    """
    blocks = plain_blocks(model)
    if where not in WHERE:
        raise ValueError(f"where = {where!r}: allowed is {', '.join(WHERE)}")
    if not -len(blocks) <= layer < len(blocks):
        raise ValueError(f"layer = {layer}: allowed is {-len(blocks)} to {len(blocks) - 1}, this model has {len(blocks)} blocks")
    place = blocks[layer] if where == "block" else blocks[layer].get_submodule(where)
    name = f"{'the output' if where == 'block' else where} of block {layer % len(blocks) + 1} of {len(blocks)}"
    video, side = _one_clip(model, video), model.config.tower.grid

    def on_grid(tokens: Tensor) -> Tensor:
        """(T',N,D) -> (1,D,T',H,W) float32 or wider, as the package wants a volume."""
        if tokens.shape[1] != model.config.tower.tokens:
            raise ValueError(f"{tokens.shape[1]} tokens a frame at {name}: allowed is a place that has the class token and all "
                             f"{side}·{side} patches; this model drops or merges some before it")
        return wide(tokens[:, 1:1 + side**2].unflatten(1, (side, side)).permute(3, 0, 1, 2)[None])

    # gradients flow from the clip: frozen weights need none, and none are left behind in those that train
    with torch.inference_mode(False), torch.enable_grad(), at_rest(model), _frozen(model), _gradcam(model, place, on_grid) as cam:
        video = video.detach().clone().requires_grad_()
        scaled = cam(video, [lambda logits: logits[_class(logits, target)]])[0]
        gradients = cam.activations_and_grads.gradients
        if not video.grad.any():
            raise ValueError("the logit does not change with the clip: is the head trained?")
        if not gradients or not gradients[0].any():
            raise ValueError(f"patches have no gradient at {name}: behind the last attention the head reads class tokens alone; "
                             "allowed is a place before it, such as where='ln_1'")
    return torch.from_numpy(scaled)


@torch.no_grad()
def occlude_frames(model: nn.Module, video: Tensor, target: int | None = None, by: str = "previous", *, score: str = "logit",
                   chunk: int = 16) -> Tensor:
    """Which frame matters: drop_t = y(clip) - y(clip with frame t replaced); above 0 the frame speaks for the class.

    by: what stands in for frame t. "previous": the frame before it (for the first: the one after), so that only what is new in
    frame t is lost and the clip stays a natural one; in a still clip every drop is 0. "mean": the mean of all other frames,
    blurred where things move. "grey": the mean colour of CLIP's training data, 0 after its normalisation; all of the frame's
    content is lost, but no model has seen such a frame, and part of the drop may be surprise.

    model: (B,T,3,S,S) -> logits (B,classes); it stays as it was. video (1,T,3,S,S) float, normalised; target: a class, None for
    the predicted one; score: y is its "logit", or its "log_probability" in nats, which other classes' logits move too; chunk:
    clips in a batch. Returns (T,) float32 or wider on the CPU. Raises ValueError for another input, and for one frame unless by
    is "grey".
    """
    video = _one_clip(model, video)
    frames = video.shape[1]
    if by not in REPLACEMENTS:
        raise ValueError(f"by = {by!r}: allowed is {', '.join(REPLACEMENTS)}")
    if frames == 1 and by != "grey":
        raise ValueError(f"by = {by!r} with 1 frame: allowed is 'grey', as there is no other frame")
    if by == "previous":
        stand_in = video[0, [1, *range(frames - 1)]]  # (T,3,S,S)
    else:
        stand_in = torch.zeros_like(video[0]) if by == "grey" else (video.sum(1) - video[0]) / (frames - 1)

    def without(t: int, clip: Tensor) -> None:
        clip[t] = stand_in[t]

    return _drops(model, video, frames, without, target, score, chunk)


@torch.no_grad()
def occlude_patches(model: nn.Module, video: Tensor, target: int | None = None, *, side: int = 1, score: str = "logit",
                    chunk: int = 16) -> Tensor:
    """Which place of which frame matters: y(clip) - y(clip with that patch painted over); above 0 it speaks for the class.

    Each patch of the tower's grid in turn takes the clip's mean colour, one number a channel. side: paint squares of so many
    patches a side, which is faster by its square and hides objects that a single patch cannot; every patch then shows its
    square's drop. One forward pass of a clip for each of T·H·W/side² variants. Otherwise as occlude_frames. Returns (T,H,W).
    Raises ValueError for another input.
    """
    video = _one_clip(model, video)
    grid, patch = model.config.tower.grid, model.config.tower.patch_size
    if not 1 <= side <= grid:
        raise ValueError(f"side = {side}: allowed is 1 to {grid} patches")
    squares, colour = -(-grid // side), video.mean((1, 3, 4))[0].view(3, 1, 1)  # the last square may be cut by the edge

    def without(i: int, clip: Tensor) -> None:
        t, row, column = i // squares**2, i // squares % squares * side * patch, i % squares * side * patch
        clip[t, :, row:row + side * patch, column:column + side * patch] = colour

    drops = _drops(model, video, video.shape[1] * squares**2, without, target, score, chunk).view(-1, squares, squares)
    return drops.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, :grid, :grid]


def _drops(model: nn.Module, video: Tensor, variants: int, without: Callable[[int, Tensor], None], target: int | None,
           score: str, chunk: int) -> Tensor:
    """y(video) - y(variant i), i < variants; without(i, clip) changes a copy of the clip in place."""
    if score not in SCORES:
        raise ValueError(f"score = {score!r}: allowed is {', '.join(SCORES)}")
    if chunk < 1:
        raise ValueError(f"chunk = {chunk}: allowed is 1 or more clips")

    def y(clips: Tensor) -> Tensor:
        logits = wide(model(clips))  # (B, classes)
        return logits if score == "logit" else logits.log_softmax(-1)

    with at_rest(model):
        whole = y(video)[0]
        chosen, drops = _class(whole, target), []
        for start in range(0, variants, chunk):
            clips = video.repeat(min(chunk, variants - start), 1, 1, 1, 1)
            for i, clip in enumerate(clips, start):
                without(i, clip)
            drops.append(whole[chosen] - y(clips)[:, chosen])
    return torch.cat(drops).cpu()


@contextmanager
def _gradcam(model: nn.Module, place: nn.Module, on_grid: Callable[[Tensor], Tensor]) -> Iterator:
    """The package's GradCAM with its hooks on `place`, taken off at the end. Its own `with` would swallow an IndexError."""
    from pytorch_grad_cam import GradCAM  # takes seconds, and pictures of other kinds need none of it

    cam = GradCAM(model, [place], on_grid)
    cam.get_target_width_height = lambda video: None  # stay on the grid of patches: it would take (T,3,S) for the clip's size
    try:
        yield cam
    finally:
        cam.activations_and_grads.release()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for gradients; then all as it was, gradients kept by an optimiser too."""
    weights = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        model.requires_grad_(False)
        yield
    finally:
        for p, required, gradient in weights:
            p.requires_grad_(required)
            p.grad = gradient  # the package calls zero_grad


def _one_clip(model: nn.Module, video: Tensor) -> Tensor:
    """The clip where the model's weights are, in their dtype."""
    if video.ndim != 5 or len(video) != 1 or not video.is_floating_point():
        raise ValueError(f"video {tuple(video.shape)} {video.dtype}: allowed is one clip, (1, T, 3, S, S) float")
    if not model.config.classes:
        raise ValueError("this model has no head: allowed is one that gives logits, ModelConfig.classes of 1 or more")
    return video.to(next(model.parameters()))


def _class(logits: Tensor, target: int | None) -> int:
    """The class asked for, or the one of the highest logit."""
    if target is not None and not 0 <= target < len(logits):
        raise ValueError(f"target = {target}: allowed is 0 to {len(logits) - 1}, or None for the predicted class")
    return int(logits.argmax()) if target is None else target
