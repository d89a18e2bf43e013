"""A person's own videos: a prediction for a file, a model fine-tuned on a folder of classes, an upload button."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

from i2vlib.config import FOUR_ADAPTERS, AdaptationConfig, ModelConfig, TemporalConfig
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.drawing import ATTRIBUTES, WIDE, draw, generator, random_scene, random_words
from i2vlib.data.folders import FolderLists, recordings
from i2vlib.data.sampling import view_indices
from i2vlib.data.strict import refuse_short
from i2vlib.data.transforms import test_views
from i2vlib.data.uploads import answer_upload, uploaded_files
from i2vlib.data.video import VideoError, VideoFile
from i2vlib.presets import tower_at
from i2vlib.protocol import ClipConfig, TrainConfig, check_scaling, clip_for
from i2vlib.temporal.heads import stdha_offsets
from i2vlib.tower.archives import WeightsError
from i2vlib.tower.checkpoints import save_checkpoint
from i2vlib.tower.classifier import VideoClassifier, build_model, merge
from i2vlib.tower.fetched import cached_path
from i2vlib.tower.modes import at_rest
from i2vlib.training.evaluate import Result, evaluate
from i2vlib.training.features import keep_features
from i2vlib.training.train import train


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
    if model.config.adaptation.adds:
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

TUNING = TrainConfig(steps=120, batch_size=8, lr=1e-4, backbone_lr=10.0, warmup=0.1, clip_norm=1.0, precision="bf16", workers=0)


@dataclass(frozen=True, eq=False)
class Tuned:
    """A model fine-tuned on a folder, merged, and what it scored on the clips held out, which chose nothing."""

    model: VideoClassifier
    clip: ClipConfig
    class_names: tuple[str, ...]
    result: Result  # of the clips held out
    recordings: int  # that these come from, by their names
    summary: dict  # train()'s: steps, loss, seconds, ...
    warning: str = ""  # see FolderLists

    @property
    def right(self) -> int:
        return int(self.result.confusion.diagonal().sum())

    @property
    def chance(self) -> float:
        """What calling every clip by the most frequent class would get: 1/C where all are as frequent."""
        return self.result.confusion.sum(1).max().item() / len(self.result.labels)

    @property
    def interval(self) -> tuple[float, float]:
        """Rates that would make such a score unsurprising, at 95 %. Recordings count, not clips: two pieces of one are not two
        independent trials."""
        return wilson(self.result.top1, self.recordings)

    def __str__(self) -> str:
        n, (low, high) = len(self.result.labels), self.interval
        of = f" of {self.recordings} recordings" if self.recordings < n else ""
        words = (f"{self.right} of {n} held-out clips{of} right, {self.result.top1:.0%}; 95 % interval {low:.0%} to {high:.0%}; "
                 f"chance {self.chance:.0%}")
        words += ": no better than chance, as far as so few clips can tell" if low <= self.chance else ""
        return words + (f"; {self.warning}" if self.warning else "")


def tower_at_hand() -> str:
    """The real tower that `python -m i2vlib.fetch` has brought to this machine: its name; empty where there is none."""
    return next((name for name in ("dinov2-s14", "saliency-vit-s14") if cached_path(name).is_file()), "")


def start_real(weights: str, classes: int, *, frames: int = 4, size: int = 112, upper: int = 4) -> VideoClassifier:
    """A fetched tower with heads relocated by -1 and +1 and linear adapters in its last `upper` blocks, and a new head.

    weights: a name of presets.TOWERS, such as tower_at_hand(); size: pixels, a multiple of its patches. The blocks below never
    change, so that fine_tune computes them once. Raises WeightsError where the weights are not here, ConfigError for a size.
    """
    tower = tower_at(weights, size)
    adapters = AdaptationConfig("linear", FOUR_ADAPTERS, scale=1.0, dropout=0.0)
    config = ModelConfig(tower, TemporalConfig(stdha_offsets(tower.heads, 3)), adapters, frames, classes, 0.0, upper=upper)
    return build_model(config, weights, resize_positions=True)


def fine_tune(model: VideoClassifier, lists: FolderLists, out: str | Path, clip: ClipConfig | None = None,
              config: TrainConfig = TUNING, *, progress: bool = True) -> Tuned:
    """Train the model, in place, on a folder's clips, score those held out once, write the merged one to out/mine.safetensors.

    lists: of folder_lists, or FolderLists(train, val, root) of list files of your own. clip: by default clip_for the model, with
    one frame of each of T segments. Where the model has frozen lower blocks (ModelConfig.upper; start_real) their features are
    kept (i2vlib.training.features) and each clip is always the same: flips, crops and moments that training draws anew cannot be
    had. config: the rate of TUNING suits start_real; its steps are fixed beforehand, and nothing is chosen by the clips held out.
    Files that cannot be read are named, left out, and count nowhere. out/run keeps the run (i2vlib.training.train). Raises what
    train() and evaluate() raise, also OSError where the disk has no room for the features.
    """
    out, kept = Path(out), bool(model.config.upper)
    clip = clip or clip_for(model.config.tower, frames=model.config.frames, flip=0.0)
    train_set, val_set = (VideoDataset(path, lists.root, clip, train=part == "train" and not kept, seed=config.seed)
                          for part, path in (("train", lists.train), ("val", lists.val)))
    if kept:
        train_set, val_set = (keep_features(model, data, workers=config.workers, progress=progress)
                              for data in (train_set, val_set))
    summary = train(model, train_set, config, out / "run", resume=False, progress=progress)
    result = evaluate(model, val_set, workers=config.workers, progress=progress)
    names = [val_set.entries[i].path for i in result.indices.tolist()]
    merged, classes = merge(model).cpu(), tuple(train_set.class_names)
    save_checkpoint(merged, out / "mine.safetensors", clip=clip, class_names=classes)
    return Tuned(merged, clip, classes, result, len(set(recordings(names))), summary, lists.warning)


def wilson(rate: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval for a rate that was measured in n trials, at 95 %: between 0 and 1 however small n is."""
    middle, half = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2)
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


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
