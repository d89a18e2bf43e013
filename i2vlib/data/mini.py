"""The embedded tasks: the world of i2vlib.data.drawing as labelled H.264 clips, rendered on first use.

Pre-training images and video frames come from the same `draw`, so that an image tower trained on the former meets
nothing new in the latter but time (and, in `corrupted`, junk). Everything is a function of a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from i2vlib.data import rendered
from i2vlib.data.drawing import (
    ATTRIBUTES,
    PATCH,
    REACH,
    SIZE,
    WIDE,
    corrupt,
    draw,
    junk_places,
    random_scene,
    random_words,
    uniform,
)
from i2vlib.data.transforms import unnormalised
from i2vlib.places import kept_in

VERSION = 2  # a change to anything that is drawn or stored raises it, and old caches are rendered anew


@dataclass(frozen=True)
class MiniTask(rendered.RenderedTask):
    """One task of the drawn world."""

    version = VERSION

    @property
    def junk(self) -> bool:
        """Whether its frames are junk in places, and the truth about which lies beside the clips."""
        return self.name == "corrupted"

    def draw(self, split: str, first: int, n: int, g: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        clips, labels, junk = _clips(self, first, n, g)
        return clips, labels, {} if junk is None else {"junk": junk}


_DIRECTIONS = ("moves left", "moves right", "moves up", "moves down")
_OBJECTS = tuple(f"{c} {s}" for s in ATTRIBUTES["shape"] for c in ATTRIBUTES["colour"])
TASKS: dict[str, MiniTask] = {t.name: t for t in (
    MiniTask("motion", 4, (*_DIRECTIONS, "goes away", "comes closer"), 4096, 384, True),
    MiniTask("appearance", 4, _OBJECTS, 2048, 384, False),
    MiniTask("blink", 8, _DIRECTIONS, 4096, 384, True),
    MiniTask("corrupted", 4, _OBJECTS, 4096, 384, False),
)}


# ---- clips ----

def _clips(task: MiniTask, first: int, n: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
    """Clips number first..first+n: uint8 (n,T,48,64,3), labels (n,) and, with junk, its places: bool (n,T,8,8).

    With twins: the clips of even label.
    """
    T, words = task.frames, random_words(n, g)
    kind = torch.arange(first, first + n) % (task.classes // 2 if task.twins else task.classes)
    if task.class_names == _OBJECTS:
        words[:, 0], words[:, 1] = kind // len(ATTRIBUTES["colour"]), kind % len(ATTRIBUTES["colour"])
        words[:, 5] = words[:, 5].clamp(min=1)  # not small: the task is to name the shape, not to find it
    scene = random_scene(words, g)
    time = torch.linspace(-0.5, 0.5, T)
    path = {k: scene[k][:, None].repeat(1, T) for k in ("x", "y", "radius")}
    if task.twins:
        span = uniform(0.6, 0.85, (n, 1), g) * 2 * REACH  # travelled from the first frame to the last
        middle = uniform(-1, 1, (n, 1), g) * (REACH - span / 2)
        for i, axis in enumerate(("x", "y")):
            path[axis] = torch.where((kind == i)[:, None], middle - span * time, path[axis])
        growth = uniform(0.75, 1.1, (n, 1), g)  # of log radius: to 1/2 or 1/3 of the size
        path["radius"] = torch.where((kind == 2)[:, None], 0.29 * torch.exp(-growth * time), path["radius"])
    elif not task.junk:  # somewhere else in every frame: what it is can be seen in each, where it goes means nothing
        path |= {k: uniform(-REACH, REACH, (n, T), g) for k in ("x", "y")}
    for k in ("x", "y"):
        path[k] = path[k] + 0.012 * torch.randn(n, T, generator=g)  # a quarter of a pixel: no frame is a plain copy
    visible = torch.ones(n, T)
    if task.name == "blink":
        phase = torch.randint(2, (n, 1), generator=g)
        visible = ((torch.arange(T) + phase) % 2 == 0).float()
    scene = {k: v.repeat_interleave(T, 0) for k, v in scene.items()}
    scene.update({k: v.flatten() for k, v in path.items()}, visible=visible.flatten())
    frames, junk = draw(scene, g, WIDE).permute(0, 2, 3, 1).reshape(n, T, SIZE, WIDE, 3), None
    if task.junk:
        junk = junk_places(n, T, g)
        frames = corrupt(frames, junk, g)
    return frames, kind * 2 if task.twins else kind, junk


# ---- files ----

def render(task: str, root: str | Path, seed: int = 0, progress: bool = True) -> Path:
    """Write the clips and list files of an embedded task into root/<task> and return that folder (see i2vlib.data.rendered).

    Beside the clips of `corrupted` lie {train,val}_junk.npy (see `junk_map`). Raises ValueError for an unknown task.
    """
    return rendered.render(TASKS, task, root, seed, progress)


def mini_data(task: str, root: str | Path | None = None, seed: int = 0) -> Path:
    """The folder of an embedded task, rendered on first use.

    root: default is data/mini of the repository, or of ~/.cache/i2vlib where that cannot be written (i2vlib.places).
    """
    return render(task, root or kept_in(f"data/mini/{task}").parent, seed)


def junk_map(folder: str | Path, split: str) -> Tensor:
    """The truth about a rendered `corrupted` task: bool (clips,T,8,8), True where that frame's patch is junk.

    Row i is the clip of line i of <split>.txt. The 8x8 places are the 6x6 patches of the middle 48 columns, which is
    what the model sees. Of the frames 2k and 2k+1 at most one is junk at a place. split: "train" or "val". Raises
    FileNotFoundError where the folder holds no such file, and ValueError for another split or a damaged file.
    """
    return rendered.read_truth(folder, split, "junk", TASKS["corrupted"], "of the embedded tasks only `corrupted` has one")


def object_place(clips: Tensor) -> Tensor:
    """Where the object is in clips of `motion`, (n,T,3,48,48) as the model sees them: bool (n,T,8,8).

    A patch counts where a tenth of its pixels are coloured: the largest and the smallest channel differ by over a fifth of the
    range. Walls are nearly grey, objects are not; notebook 07 tests the rule against the labels.
    """
    pixels = unnormalised(clips)
    coloured = (pixels.amax(2) - pixels.amin(2) > 0.2).float()
    return avg_pool2d(coloured, PATCH) >= 0.1


def twin(number):
    """The number of a clip's twin, which plays it backwards, or of the twin's class: 2k for 2k+1 and the other way round.

    number: an int, or integers in a tensor. Of the tasks that come in twins (motion, blink).
    """
    return number + 1 - 2 * (number % 2)
