"""A person's own videos: a prediction for a file, list files for a folder of classes, uploads as files."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

from i2vlib.config import AdaptationConfig
from i2vlib.data.classes import class_names, write_names
from i2vlib.data.drawing import ATTRIBUTES, WIDE, draw, generator, random_scene, random_words
from i2vlib.data.isolated import Isolated, IsolatedError
from i2vlib.data.lists import Entry, ListError, read_list, write_list
from i2vlib.data.sampling import view_indices
from i2vlib.data.strict import damage, fault, refuse_short
from i2vlib.data.transforms import test_views
from i2vlib.data.uploads import answer_upload, uploaded_files
from i2vlib.data.video import VideoError, VideoFile
from i2vlib.protocol import ClipConfig, check_scaling
from i2vlib.tower.backbone import at_rest
from i2vlib.tower.classifier import VideoClassifier, build_model
from i2vlib.tower.weights import WeightsError


class FolderError(ValueError):
    """A folder cannot be trained on. The message names the folder or class, and what is expected."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says about one file, and what it looked at. V = test_clips · test_crops views, crops side by side."""

    probabilities: Tensor  # (C,) float32: softmax of the logits, averaged over the views
    per_view: Tensor  # (V, C) float32
    class_names: tuple[str, ...]
    total: int  # frames of the file
    indices: list[list[int]]  # test_clips lists of T frame numbers
    frames: Tensor  # uint8 (test_clips, T, H, W, 3): these frames as decoded
    views: Tensor  # float32 (V, T, 3, S, S): what the model was given

    @property
    def best(self) -> int:
        """The class of the highest probability; of equal ones the first."""
        return int(self.probabilities.argmax())

    @property
    def entropy(self) -> float:
        """-Σ p·ln p in nats: 0 where one class has all of the probability, ln C where all classes have the same."""
        return torch.special.entr(self.probabilities.double()).sum().item()


# ---- one file ----

def predict(model: nn.Module, path: str | Path, clip: ClipConfig, class_names: Sequence[str] = ()) -> Prediction:
    """The model's probabilities for the video at `path`, cut into the test views of `clip`.

    model: (B,T,3,S,S) -> logits (B,C), with .config a ModelConfig; its mode and weights stay as they are. class_names:
    C names; empty: their numbers. Raises VideoError (path and reason) for a file that cannot be decoded or has fewer
    frames than a clip takes: repeated frames are no motion. Raises ValueError where model, clip and names do not fit, also in the
    clip's mean and std.
    """
    config = model.config
    if not config.classes:
        raise ValueError("the model has no head: allowed is one with ModelConfig.classes of 1 or more")
    if (clip.frames, clip.size) != (config.frames, config.tower.image_size):
        raise ValueError(f"the clip has {clip.frames} frames of {clip.size} pixels: the model takes {config.frames} of "
                         f"{config.tower.image_size}")
    check_scaling(config.tower, clip)
    names = tuple(class_names) or tuple(str(i) for i in range(config.classes))
    if len(names) != config.classes:
        raise ValueError(f"{len(names)} class names: the model has {config.classes} classes")
    with VideoFile(path) as video:
        total = len(video)
        refuse_short(path, total, clip.frames)
        indices = view_indices(total, clip)
        frames = video.frames(sum(indices, [])).unflatten(0, (len(indices), -1))  # (clips, T, H, W, 3)
    transform = test_views(clip)
    views = torch.cat([transform(f) for f in frames])  # (V, T, 3, S, S)
    with at_rest(model), torch.inference_mode():
        logits = model(views.to(next(model.parameters()))).float()  # (V, C)
    if not logits.isfinite().all():
        raise ValueError("the logits are not finite: look at the model's weights and precision")
    per_view = logits.softmax(-1).cpu()
    return Prediction(per_view.mean(0), per_view, names, total, indices, frames, views)


def further(model: VideoClassifier, adaptation: AdaptationConfig, classes: int) -> VideoClassifier:
    """A new model that goes on from a trained one: its tower and all weights in it, other adaptation, a new head.

    What may be missing in the old weights are the new adapters alone. `model` stays as it was; one with adapters must be
    merged first. Raises ValueError where it is not, and WeightsError where weights have no place.
    """
    if model.config.adaptation.kind in ("linear", "gelu"):
        raise ValueError(f"the model has {model.config.adaptation.kind} adapters: allowed is one without; merge them first")
    new = build_model(replace(model.config, adaptation=adaptation, classes=classes))
    missing, unknown = new.backbone.load_state_dict(model.backbone.state_dict(), strict=False)
    lost = [name for name in missing if ".adapters." not in name] + list(unknown)
    if lost:
        raise WeightsError(f"weights without a place: {', '.join(lost)}")
    return new


def drawn_video(shape: str, reach: float, *key: object, frames: int = 40) -> Tensor:
    """uint8 (frames,48,64,3): a shape of the drawn world that goes from -reach to reach across the picture, evenly.

    reach is in units of half the picture's height. All else is random, a function of shape, reach and key. Raises ValueError
    for a shape that is not drawn.
    """
    shapes = ATTRIBUTES["shape"]
    if shape not in shapes:
        raise ValueError(f"shape {shape!r}: allowed is {', '.join(shapes)}")
    g = generator("own video", shape, reach, *key)
    words = random_words(1, g)
    words[:, 0], words[:, 5] = shapes.index(shape), words[:, 5].clamp(min=1)  # not small
    scene = {k: v.repeat_interleave(frames, 0) for k, v in random_scene(words, g).items()}
    scene["x"] = torch.linspace(-reach, reach, frames)
    return draw(scene, g, WIDE).permute(0, 2, 3, 1)


# ---- a folder ----

@dataclass(frozen=True)
class FolderLists:
    """List files of a folder: what VideoDataset takes, with root = the folder. classes.txt lies beside them."""

    train: Path
    val: Path
    class_names: tuple[str, ...]
    counts: dict[str, tuple[int, int]]  # class: clips to train on, clips held out
    skipped: dict[str, str] = field(default_factory=dict)  # class/clip.mp4: reason


def folder_lists(folder: str | Path, out: str | Path, val_share: float = 0.25, seed: int = 0, *, frames: int = 1,
                 strict: bool = True) -> FolderLists:
    """Write train.txt, val.txt and classes.txt into `out` for videos that lie as `folder/class/clip.mp4`.

    Classes are the folders inside, sorted by name, those with a dot in front left out. Of each class round(val_share ·
    clips) clips are held out, at least 1 and at most all but 1, drawn by (seed, class): other classes do not change
    them. Every file is tried, in a process that may hang or die of it: it must have `frames` frames or more, its first,
    middle and last one are read, and all of it is searched for damage (i2vlib.data.strict; strict=False leaves that out, and
    keeps what can be read). What fails is printed once with the reason, listed in `skipped`, and left out.
    Raises FolderError: no such folder, not two class folders, a class with no readable video or with only one, a name
    that cannot stand in a list file. Raises ValueError for a val_share outside 0 to 1.
    """
    folder, out = Path(folder), Path(out)
    if not 0 < val_share < 1:
        raise ValueError(f"val_share = {val_share}: allowed is above 0 and below 1")
    if not folder.is_dir():
        raise FolderError(f"{folder}: there is no such folder")
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    for place in classes:
        if place.name != _unicode(place.name):
            raise FolderError(f"{folder}: the name of the folder {place.name!r} is no Unicode text: rename it")
    if len(classes) < 2:
        found = f"only the folder {classes[0].name!r}" if classes else "no folders"
        raise FolderError(f"{folder}: holds {found}; expected are two or more, one a class, with videos in them: class/clip.mp4")
    skipped: dict[str, str] = {}
    parts: dict[str, list[Entry]] = {"train": [], "val": []}
    counts = {}
    with Isolated() as call:
        for label, place in enumerate(classes):
            train, held = _split(place, _readable(place, frames, strict, skipped, call), val_share, seed)
            counts[place.name] = len(train), len(held)
            for split, clips in (("train", train), ("val", held)):
                parts[split] += [Entry(clip, label) for clip in clips]
    for name, reason in skipped.items():
        print(f"left out: {name}: {reason}")
    out.mkdir(parents=True, exist_ok=True)
    names = tuple(c.name for c in classes)
    return FolderLists(*_write_lists(out, names, parts), names, counts, skipped)


def _readable(place: Path, frames: int, strict: bool, skipped: dict[str, str], call: Isolated) -> list[str]:
    """The videos of a class as `class/clip.mp4`, sorted; the others go into `skipped`."""
    found, first = [], None
    for path in sorted(p for p in place.iterdir() if not p.name.startswith(".")):
        name = f"{place.name}/{path.name}"
        if (shown := _unicode(name)) != name:
            skipped[shown] = "has a name that is no Unicode text: rename it"
            continue
        try:
            reason = call(fault, path, frames) or (call(damage, path) if strict else "")
        except IsolatedError as error:
            reason = error.reason
        if not reason:
            found.append(name)
            continue
        skipped[name] = reason
        first = first or f"; the first file: {path.name}: {reason}"
    if not found:
        raise FolderError(f"class {place.name!r} has no readable video{first or ': its folder is empty'}")
    return found


def _unicode(name: str) -> str:
    """The name itself, or with \\udcff and the like where it holds bytes of another encoding."""
    return name.encode("utf-8", "backslashreplace").decode()


def _split(place: Path, clips: list[str], val_share: float, seed: int) -> tuple[list[str], list[str]]:
    if len(clips) < 2:
        raise FolderError(f"class {place.name!r} has 1 readable video: allowed is 2 or more, to train on and to hold out")
    shuffled = random.Random(f"{seed}/{place.name}").sample(clips, len(clips))
    held = min(max(round(val_share * len(clips)), 1), len(clips) - 1)
    return sorted(shuffled[held:]), sorted(shuffled[:held])


def _write_lists(out: Path, classes: Sequence[str], parts: Mapping[str, list[Entry]]) -> list[Path]:
    """classes.txt and a list a part, written and read back: a name that they cannot hold must not become another's."""
    try:
        write_names(out / "classes.txt", classes)
        if class_names(out / "any.txt") != list(classes):
            raise FolderError(f"{out / 'classes.txt'} cannot hold the classes' names as they are")
        for part, entries in parts.items():
            write_list(out / f"{part}.txt", entries)
            for wanted, found in zip(entries, read_list(out / f"{part}.txt"), strict=False):
                if wanted != found:
                    raise FolderError(f"{wanted.path!r} cannot stand in a list file, where it reads as {found.path!r}: rename it")
    except (UnicodeEncodeError, ListError) as error:
        raise FolderError(f"a name cannot stand in a list file, rename it: {error}") from error
    return [out / f"{part}.txt" for part in parts]


# ---- an upload ----

def upload_box(answer: Callable[[Path], Sequence]) -> object:
    """A widget: a button that takes a video, or a path, a line that says what became of it, and the figures of answer(path).

    Works with ipywidgets 7 and 8. Whatever fails gives a message in place. The figures before it go when the button is pressed:
    of a file too large for the server the kernel hears nothing. They are shown as PNG: nothing depends on where output is put.
    """
    import ipywidgets as widgets  # a notebook's package: predictions need none of it

    button = widgets.FileUpload(accept="video/*,.mkv,.avi,.mov,.webm", multiple=False, description="A video")
    limit = widgets.Label("up to 10 MiB, or 512 MiB in a Jupyter that `make lab` started; larger ones by their path:")
    place, line = widgets.Text(placeholder="path of a video, then Enter", continuous_update=False), widgets.HTML("No file yet.")
    pictures, pressed, script = widgets.VBox(), widgets.Text(layout={"display": "none"}), widgets.Output()
    code = (Path(__file__).parent / "assets" / "upload.js").read_text(encoding="utf-8")
    script.outputs = ({"output_type": "display_data", "data": {"text/html": f"<script>{code}</script>"}, "metadata": {}},)

    def say(text: str, bad: bool = False) -> None:
        line.value = f'<span style="color:{"#B00020" if bad else "inherit"}">{escape(text)}</span>'

    def show(name: str, figures: Callable[[], Sequence]) -> None:
        pictures.children = ()
        say(f"{name}: reading ...")
        try:
            pictures.children = [widgets.Image(value=_png(f), format="png") for f in figures()]
            say(name)
        except VideoError as error:
            say(f"This file cannot be used. {error}", bad=True)
        except Exception as error:  # a traceback in a callback is lost in some front ends
            say(f"{name}: {type(error).__name__}: {error}", bad=True)

    def arrived(change: dict) -> None:
        for name, content in uploaded_files(change["new"])[-1:]:
            show(f"{name}: {len(content) / 1e6:.1f} MB", lambda name=name, content=content: answer_upload(name, content, answer))

    def named(change: dict) -> None:
        if change["new"].strip():
            show(change["new"], lambda: answer(Path(change["new"].strip()).expanduser()))

    def waits(change: dict) -> None:
        pictures.children = ()
        say("No file has arrived. If you chose one, it is on its way, or was too large: then run this cell again and give "
            "the file's path.", bad=True)

    for widget, function in ((button, arrived), (place, named), (pressed, waits)):
        widget.observe(function, names="value")
    box = widgets.VBox([widgets.HBox([button, limit, place]), line, pictures, pressed, script])
    for widget, name in ((box, "i2v-upload"), (pressed, "i2v-pressed")):
        widget.add_class(name)
    return box


def _png(figure) -> bytes:
    target = BytesIO()
    figure.savefig(target, format="png", dpi=110, bbox_inches="tight")
    return target.getvalue()
