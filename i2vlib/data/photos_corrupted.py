"""A cut-out of a photograph at rest, with junk in places: a task for compressions, on the photographs of i2vlib.data.photos.

The label is the photograph that the cut-out comes from. Training sees the left parts of all twelve, validation the right parts of
six and test those of the other six, so that no pixel is in two splits. In each pair of frames, (0,1) and (2,3), at each of the
8x8 places, one of the two is filled with shards of colour with probability one half, and the other is clean
(i2vlib.data.drawing.corrupt).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from i2vlib.data import photos, rendered
from i2vlib.data.drawing import corrupt, junk_places, uniform
from i2vlib.data.photos import PHOTOS, SIZE
from i2vlib.places import kept_in

VERSION = 1  # a change to anything that is drawn or stored raises it, and old caches are rendered anew
DRIFT = 1.5  # pixels from frame to frame at most, each way: both frames of a pair show the cut-out at the same places


@dataclass(frozen=True)
class CorruptedPhotos(rendered.RenderedTask):
    """Clips of 112x128 pixels, of which the model sees the middle 112 columns; the truth about the junk lies beside them."""

    test: int  # clips
    radius: tuple[float, float]  # of a cut-out, in pixels, lowest and highest

    version = VERSION
    splits = ("train", "val", "test")

    def draw(self, split: str, first: int, n: int, g: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        own = torch.tensor([i for i, photo in enumerate(PHOTOS.values()) if split in ("train", photo.split)])
        kind = torch.arange(first, first + n) % len(own)
        cuts, backs = _pieces(split, kind.tolist(), g)
        image = photos.background(backs, torch.zeros(n, self.frames, 2))
        image, _ = photos.paste(image, cuts, self._path(n, g))
        image = image + photos.NOISE * torch.randn(image.shape, generator=g)
        frames = image.round().clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()
        junk = junk_places(n, self.frames, g)
        return corrupt(frames, junk, g), own[kind], {"junk": junk}

    def _path(self, n: int, g: torch.Generator) -> Tensor:
        """Middle and radius of n cut-outs in each frame, in pixels from the middle of the frame: (n,T,3), all of it in sight."""
        radius, time = uniform(*self.radius, (n, 1, 1), g), torch.arange(self.frames)[:, None] - (self.frames - 1) / 2
        reach = SIZE / 2 - radius - DRIFT * self.frames / 2
        place = uniform(-1, 1, (n, 1, 2), g) * reach + uniform(-DRIFT, DRIFT, (n, 1, 2), g) * time
        return torch.cat([place, radius.expand(-1, self.frames, -1)], -1)


# so small that a linear probe on the real tower's class tokens, fitted on 360 clips, loses by junk: .52 of 120 on a clean frame,
# .35 on one with junk, .42 on the mean of two (radius 14 to 20: .55 and, on the mean of two with junk, .59)
TASK = CorruptedPhotos("photos-corrupted", 4, tuple(PHOTOS), 2000, 400, False, 600, (10.0, 14.0))


def _pieces(split: str, kind: list[int], g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut-outs (n,4,96,96) of a split's parts number `kind` and, of other photographs, backgrounds (n,3,140,156) for them."""
    source, backs, cuts = photos.parts(split), [], []
    for label in kind:
        other = (label + torch.randint(1, len(source), (1,), generator=g).item()) % len(source)
        backs.append(photos.backdrop(source[other], g))
        cuts.append(photos.cutout([source[label]] * 2, backs[-1], g))
    return torch.stack(cuts), torch.stack(backs).clamp(0, 255)


def corrupted_photos(root: str | Path | None = None, seed: int = 0) -> Path:
    """The folder of the task, rendered on first use (i2vlib.data.rendered), with {train,val,test}_junk.npy (see `junk_map`).

    root: default is data/photos of the repository, or of ~/.cache/i2vlib where that cannot be written (i2vlib.places). Raises
    FileNotFoundError and ValueError where a photograph is missing or another.
    """
    return rendered.render({TASK.name: TASK}, TASK.name, root or kept_in(f"data/photos/{TASK.name}").parent, seed, progress=True)


def junk_map(folder: str | Path, split: str) -> Tensor:
    """The truth about the junk: bool (clips,T,8,8), True where that frame's patch is junk.

    Row i is the clip of line i of <split>.txt. The 8x8 places are the 14x14 patches of the middle 112 columns, which is what the
    model sees. Of frames 2k and 2k+1 at most one is junk at a place. split: "train", "val" or "test". Raises FileNotFoundError
    where the folder holds no such file, and ValueError for another split or a damaged file.
    """
    return rendered.read_truth(folder, split, "junk", TASK, f"of the photographs' tasks only `{TASK.name}` has one")
