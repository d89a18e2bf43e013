"""What the training notebooks share: their parameters made into a run, its clips, its folder and its records.

    settings = settle("zeroi2v-mini-motion", steps=100)
    settings, sets = read_sets(settings)
    out = run_folder("", "04", changed)
    ... train on sets.train, validate on sets.val, score sets.test once ...
    write_json(out / "settings.json", settings.to_dict())
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import warnings
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from i2vlib.config import ConfigError, ModelConfig, TowerConfig
from i2vlib.course.experiments import strategy_rates
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.few_shot import few_shot
from i2vlib.data.lists import ListError
from i2vlib.data.mini import mini_data
from i2vlib.files import whole_file
from i2vlib.places import kept_in
from i2vlib.presets import PRESETS, PROTOCOLS, protocol_for
from i2vlib.protocol import ClipConfig, TrainConfig, same_scaling
from i2vlib.tower.archives import WeightsError
from i2vlib.tower.weights import origin_of
from i2vlib.towers import TOWERS, WEIGHTS

HELD_OUT = 256  # of the embedded training clips, the last ones (whole pairs of twins): they validate, and nothing trains on them
PACKAGES = ("i2vlib", "torch", "torchvision", "open_clip_torch", "accelerate", "av")


@dataclass(frozen=True)
class Settings:
    """A run by its names and its configurations. embedded: the clips are the course's own; else the lists are the user's."""

    preset: str
    protocol: str
    weights: str
    model: ModelConfig
    clip: ClipConfig
    train: TrainConfig
    embedded: bool
    train_list: str
    val_list: str
    test_list: str
    data_root: str
    first_label: int = 0

    def to_dict(self) -> dict:
        """All of it, and the versions of what ran, for a JSON file."""
        return {**asdict(self), "versions": {name: _version(name) for name in PACKAGES}}


@dataclass(frozen=True)
class Sets:
    """train: what is fitted. val: scored while training, chooses the best step. test: scored once, at the end.

    tested: what `test` is, in words. Without a list of its own it is the validation set, and says so.
    """

    train: VideoDataset
    val: VideoDataset
    test: VideoDataset
    tested: str

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, or their numbers."""
        return tuple(self.train.class_names) or tuple(str(i) for i in range(self.train.classes))


def settle(preset: str, protocol: str = "", *, train_list: str = "", val_list: str = "", test_list: str = "",
           data_root: str = "", first_label: int = 0, weights: str = "", quick_gelu: bool | None = None, steps: int = 0,
           batch_size: int = 0, lr: float = 0.0, workers: int = -1, validate_every: int = 0, seed: int = 0) -> Settings:
    """The run that these parameters name. Empty, zero or -1 keeps what the preset and the protocol say.

    Without lists the clips are the embedded ones, for which a miniature preset is needed; any preset takes lists. Where the
    length is counted in steps and validate_every is 0, it validates five times. first_label: 1 for lists whose labels count from
    1. Raises ConfigError, which names the parameter.
    """
    config = _pick("preset", PRESETS, preset)
    protocol = protocol or protocol_for(preset)
    recipe = _pick("protocol", PROTOCOLS, protocol)
    if (recipe.clip.frames, recipe.clip.size) != (config.frames, config.tower.image_size):
        raise ConfigError(f"parameter protocol = {protocol!r}: its clips have {recipe.clip.frames} frames of {recipe.clip.size} "
                          f"pixels, the model of preset {preset!r} takes {config.frames} of {config.tower.image_size}")
    if protocol == "ava":
        raise ConfigError(f"preset {preset!r} scores boxes, not clips: i2vlib.detection.run.train_detector trains it")
    embedded = not (train_list or val_list or test_list or data_root)
    if embedded and not protocol.startswith("mini-"):
        raise ConfigError(f"preset {preset!r} with protocol {protocol!r} needs clips: give train_list, val_list and data_root, "
                          "or a miniature preset, which brings its own")
    for name, given in (("train_list", train_list), ("val_list", val_list), ("data_root", data_root)):
        if not embedded and not given:
            raise ConfigError(f"parameter {name} is empty: with lists of your own train_list, val_list and data_root are needed")
    if quick_gelu is not None:
        config = replace(config, tower=replace(config.tower, quick_gelu=quick_gelu))
    given = {"steps": steps, "batch_size": batch_size, "lr": lr, "validate_every": validate_every}
    given = {name: value for name, value in given.items() if value} | ({"workers": workers} if workers >= 0 else {})
    train = replace(strategy_rates(preset, recipe.train), seed=seed, **given)
    if train.steps and not train.validate_every:
        train = replace(train, validate_every=-(-train.steps // 5))
    own = next((WEIGHTS[name] for name in WEIGHTS if TOWERS[name] == config.tower), "openai")
    weights = weights or ("mini" if "-mini-" in preset else own)
    tower = replace(config.tower, **_scaling(config.tower, weights))
    clip = replace(recipe.clip, mean=tower.mean, std=tower.std)
    return Settings(preset, protocol, weights, replace(config, tower=tower), clip, train, embedded, train_list, val_list,
                    test_list, data_root, first_label)


def _scaling(tower: TowerConfig, weights: str) -> dict[str, tuple[float, ...]]:
    """The mean and std that named weights need, where these are others than the tower's; what is wrong with a name build_model
    says."""
    try:
        said = origin_of(tower, weights)
    except WeightsError:
        return {}
    return {name: said[name] for name in ("mean", "std") if name in said and not same_scaling(said[name], getattr(tower, name))}


def read_sets(settings: Settings) -> tuple[Settings, Sets]:
    """The clips, and the settings with a head for their classes.

    Labels are held against each other here, before anything trains: raises ListError for a label of the validation or the
    test list that the training list does not have, or classes of another name; warns of one that no training clip shows.
    """
    if settings.embedded:
        return settings, _embedded(settings)
    s = settings
    train = VideoDataset(s.train_list, s.data_root, s.clip, train=True, seed=s.train.seed, first_label=s.first_label)
    others = [_scored(name, given, train, s) for name, given in (("val_list", s.val_list), ("test_list", s.test_list)) if given]
    tested = "the clips of test_list" if s.test_list else "the validation clips, which chose the step: no test_list was given"
    return replace(s, model=replace(s.model, classes=train.classes)), Sets(train, others[0], others[-1], tested)


def _embedded(settings: Settings) -> Sets:
    task, _, shots = settings.protocol.removeprefix("mini-").partition("-")
    folder = mini_data(task)
    files = {"train": "train.txt", "val": "train.txt", "test": "val.txt"}
    sets = {name: VideoDataset(folder / file, folder, settings.clip, train=name == "train", seed=settings.train.seed, cache=True)
            for name, file in files.items()}
    every = sets["train"].entries
    sets["train"].entries, sets["val"].entries = every[:-HELD_OUT], every[-HELD_OUT:]
    if shots:  # "4shot": a fold a seed
        sets["train"].entries = few_shot(every[:-HELD_OUT], int(shots.removesuffix("shot")), settings.train.seed + 1)
    return Sets(**sets, tested="the test clips of the embedded task")


def _scored(parameter: str, list_file: str, train: VideoDataset, settings: Settings) -> VideoDataset:
    found = VideoDataset(list_file, settings.data_root, settings.clip, train=False, first_label=settings.first_label)
    for number, entry in enumerate(found.entries, 1):
        if entry.label >= train.classes:
            raise ListError(f"{parameter} {list_file}, entry {number} ({entry.path}): label {entry.label}: the training list has "
                            f"{train.classes} classes, allowed is 0 to {train.classes - 1}")
    for label, (theirs, ours) in enumerate(zip(found.class_names, train.class_names, strict=False)):
        if theirs != ours:
            raise ListError(f"{parameter} {list_file}: the classes.txt beside it calls class {label} {theirs!r}, that of the "
                            f"training list {ours!r}: allowed is the same classes in the same order")
    if unseen := sorted({e.label for e in found.entries} - {e.label for e in train.entries}):
        warnings.warn(f"{parameter} {list_file}: no training clip has label {', '.join(map(str, unseen[:8]))}: nothing can learn "
                      "these classes; are both lists numbered alike?", stacklevel=4)
    return found


def run_folder(out: str, name: str, changed: dict | None = None) -> Path:
    """The folder that a notebook writes into, made. `out` as it is given, or where it is empty one of the course's own.

    That is build/NAME in the repository, whatever the working directory (in ~/.cache/i2vlib where the repository cannot be
    written, see i2vlib.places). changed: the parameters that are not the defaults; they become part of NAME, so that two runs
    do not meet.
    """
    words = "-".join(f"{key}={value}" for key, value in (changed or {}).items())
    if not re.fullmatch(r"[\w.=+-]{0,80}", words):
        words = hashlib.sha256(words.encode()).hexdigest()[:12]
    own = f"{name}-{words}" if words else name
    folder = Path(out) if out else kept_in(f"build/{own}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(path: Path, facts: dict) -> None:
    """Replace a file by these facts as JSON, whole or not at all."""
    with whole_file(path) as file:
        file.write((json.dumps(facts, indent=1) + "\n").encode())


def read_metrics(out: Path, split: str) -> list[dict]:
    """The lines of out/metrics.jsonl of one split, "train" or "val": {"step": ..., "loss": ...} or {"step": ..., "top1": ...}."""
    lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["split"] == split]


def _pick(parameter: str, table: dict, name: str):
    if name not in table:
        near = get_close_matches(name, table, 6, 0.0)
        raise ConfigError(f"parameter {parameter} = {name!r}: allowed are {len(table)} names, the nearest {', '.join(near)}")
    return table[name]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
