"""Features that are computed once: what the frozen lower blocks make of each clip, for training the upper blocks alone.

Where ModelConfig.upper adapts the last blocks only, the tokens that reach them never change. Kept on disk, they spare every
later pass over a set the decoding and the lower blocks. That is exact for clips that are the same each time they are taken:
the test views of a set. What training draws anew (crops, flips, moments) would be frozen into one draw, and is refused.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from i2vlib.config import ConfigError
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.loading import bad_clips, clip_path, name_bad_files
from i2vlib.data.survival import load
from i2vlib.files import whole_file
from i2vlib.places import kept_in
from i2vlib.protocol import TrainConfig, check_scaling
from i2vlib.tower.classifier import VideoClassifier
from i2vlib.tower.modes import at_rest
from i2vlib.tower.wrappers import unwrapped
from i2vlib.training.runs import weights_hash

CHUNK = 16  # clips that go through the lower blocks together and lie in one file
VERSION = 1  # a change to what is kept raises it, and older files are computed anew


class FeatureSet(Dataset):
    """The clips of a VideoDataset as the tokens that lower blocks gave: train() and evaluate() take it in place of the set.

    Items are those of the set, in its order, with video (V,T,N,D) in the weights' dtype. Clips that could not be read have
    weight 0 here too. tower: a hash of the blocks that the tokens come from; a model with others is refused. The videos are not
    needed any more.
    """

    def __init__(self, source: VideoDataset, chunks: Sequence[Path], tower: str):
        self.entries, self.clip, self.classes, self.class_names = source.entries, source.clip, source.classes, source.class_names
        self.chunks, self.tower, self.places = list(chunks), tower, range(len(source.entries))

    def part(self, rows: Sequence[int]) -> FeatureSet:
        """Some of the clips as a set of their own, such as those that are held out."""
        some = copy.copy(self)
        some.entries, some.places = [self.entries[i] for i in rows], [self.places[i] for i in rows]
        return some

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict:
        chunk, row = divmod(self.places[index], CHUNK)
        with safetensors.safe_open(self.chunks[chunk], "pt") as file:
            video, error = file.get_slice("video")[row], json.loads(file.metadata()["errors"])[row]
        return {"video": video, "label": self.entries[index].label, "index": index, "weight": float(not error), "error": error}


def keep_features(model: nn.Module, dataset: VideoDataset, folder: str | Path | None = None, *, workers: int = 0,
                  progress: bool = True) -> FeatureSet:
    """The set as a FeatureSet of this model's lower blocks, computed where `folder` does not hold it yet.

    model: with ModelConfig.upper, on whatever device; it is left as it was. dataset: with train=False, so that each clip is the
    same every time. folder: default is data/features of the repository (i2vlib.places); what is kept there is found again by the
    blocks' weights, the clip settings and each file's path, size and time, so that one folder serves all. It takes V·T·N·D
    numbers a clip: 400 KB for 4 frames of 112 pixels through ViT-S/14, 4.8 MB for 8 of 224 through ViT-B/16. A call that is
    interrupted goes on where it was, and clips that could not be read are tried again. Raises ConfigError where the lower blocks
    are trained or the clips change, and OSError where the disk has no room for all of it, before anything is computed.
    """
    model, folder = unwrapped(model), Path(folder or kept_in("data/features"))
    if not model.config.upper:
        raise ConfigError("ModelConfig.upper = 0: all blocks are adapted, and nothing stays the same to be kept: allowed is 1 or "
                          "more")
    if dataset.train:
        raise ConfigError("the set draws its training clips anew each time: allowed is VideoDataset(..., train=False)")
    check_scaling(model.config.tower, dataset.clip)
    tower = tower_hash(model)
    places = [list(range(first, min(first + CHUNK, len(dataset)))) for first in range(0, len(dataset), CHUNK)]
    chunks = [folder / f"{_digest(tower, dataset, rows)}.safetensors" for rows in places]
    missing = [i for i, path in enumerate(chunks) if not _is_sound(path)]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(folder, model, dataset, sum(len(places[i]) for i in missing))
        _compute(model, dataset, {chunks[i]: places[i] for i in missing}, workers, progress)
    return FeatureSet(dataset, chunks, tower)


def tower_hash(model: nn.Module) -> str:
    """What decides the tokens that a model's lower blocks give: their weights and the tower's configuration, as SHA-256."""
    model = unwrapped(model)
    config, state = model.config, model.backbone.image_state()
    above = ("ln_post", "proj", *(f"transformer.resblocks.{i}" for i in range(config.lower, config.tower.layers)))
    lower = {name: value for name, value in state.items() if not f"{name}.".startswith(tuple(f"{part}." for part in above))}
    return hashlib.sha256(f"{VERSION} {config.tower.to_json()} {weights_hash(lower)}".encode()).hexdigest()


def check_clips(model: nn.Module, dataset, config: TrainConfig | None = None) -> None:
    """Raise ConfigError where the clips of a set are not what the model takes: of another mean or std than its tower's; of a
    FeatureSet not of this model's lower blocks, or to be mixed by a run as if they were pixels."""
    tower, clip = getattr(model.config, "tower", None), getattr(dataset, "clip", None)
    if tower and clip:
        check_scaling(tower, clip)
    if not isinstance(dataset, FeatureSet):
        return
    if tower_hash(model) != dataset.tower:
        raise ConfigError("the features come from another tower, or from another number of lower blocks, than this model's: "
                          "allowed is keep_features(model, ...) of the same image weights and ModelConfig.upper")
    if config and (config.mixup or config.cutmix):
        raise ConfigError("TrainConfig.mixup and cutmix blend pictures, and kept features are none: allowed is 0")


def _digest(tower: str, dataset: VideoDataset, rows: list[int]) -> str:
    files = [(clip_path(dataset, i), dataset.entries[i].total_frames, *_stamp(clip_path(dataset, i))) for i in rows]
    return hashlib.sha256(repr((tower, dataset.clip.to_json(), files)).encode()).hexdigest()[:32]


def _stamp(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0  # it is named when it is read, and looked for again by the next call
    return found.st_size, found.st_mtime_ns


def _is_sound(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, "pt") as file:
            return not any(json.loads(file.metadata()["errors"]))  # what could not be read is tried again
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError):
        return False


def _check_room(folder: Path, model: VideoClassifier, dataset: VideoDataset, clips: int) -> None:
    clip, tower, size = dataset.clip, model.config.tower, next(model.parameters()).element_size()
    need = clips * clip.test_clips * clip.test_crops * clip.frames * tower.tokens * tower.width * size
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OSError(f"{folder}: the features of {clips} clips take {need / 2**30:.1f} GiB, {free / 2**30:.1f} are free")


def _compute(model: VideoClassifier, dataset: VideoDataset, wanted: dict[Path, list[int]], workers: int, progress: bool) -> None:
    weight = next(model.parameters())
    bar = tqdm(total=sum(map(len, wanted.values())), desc="features", unit="clip", disable=not progress)
    stream = load(dataset, list(wanted.values()), workers)
    with at_rest(model), torch.inference_mode(), bar, closing(stream):
        for path, batch in zip(wanted, stream, strict=True):
            name_bad_files(dict(bad_clips(dataset, batch)))
            video = batch["video"].to(weight.device, weight.dtype)
            tokens = model.backbone.lower(video.flatten(0, 1)).unflatten(0, video.shape[:2])
            _write(path, tokens.cpu(), batch["error"])
            bar.update(len(video))


def _write(path: Path, tokens: Tensor, errors: list[str]) -> None:
    with whole_file(path) as file:
        file.write(safetensors.torch.save({"video": tokens.contiguous()}, {"errors": json.dumps(errors)}))
