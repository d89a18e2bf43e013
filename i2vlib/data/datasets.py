"""List files and the videos that they name, as training and test items."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from i2vlib.data import isolated
from i2vlib.data.classes import class_names
from i2vlib.data.lists import Entry, read_list
from i2vlib.data.sampling import dense_indices, uniform_indices, view_indices
from i2vlib.data.transforms import test_views, train_transform
from i2vlib.data.video import VideoError, VideoFile
from i2vlib.protocol import ClipConfig

# number of frames of a video -> frame numbers of each clip to take from it
Choice = Callable[[int], list[list[int]]]


class VideoDataset(Dataset):
    """The clips of a list file: an item is a dict that `collate` stacks.

    video float32 (V,T,3,size,size), V = test_clips * test_crops views in testing (a clip's crops side by side), 1 in
    training; label int (after a flip, its partner's); index int; weight 1.0; error "". A file that cannot be read,
    whatever the exception, gives zeros, weight 0.0 and error `path: reason`: one in a hundred thousand must not end a run.

    What is random in item i of epoch e is a function of (seed, e, i) alone, however many workers there are and
    wherever a run was resumed. cache=True keeps decoded frames in `memory`: for small data, put together in this process.
    encoding and options (outside, first_label, ending): of the list, as read_list has them.
    Raises ListError for a bad list and FileNotFoundError for a missing root.
    """

    def __init__(self, list_file: str | Path, root: str | Path, clip: ClipConfig, train: bool, seed: int = 0,
                 cache: bool = False, *, encoding: str = "", **options) -> None:
        self.root, self.clip, self.train, self.seed = Path(root), clip, train, seed
        self.entries = read_list(list_file, root=root, encoding=encoding, **options)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{root}: there is no such folder; the paths in {list_file} are relative to it")
        self.class_names = class_names(list_file, encoding)
        self.classes = len(self.class_names) or max(e.label for e in self.entries) + 1
        self._transform = train_transform(clip) if train else test_views(clip)
        self.memory: dict[int, Tensor | VideoError] | None = {} if cache else None
        self._epoch = 0

    def __len__(self) -> int:
        return len(self.entries)

    def set_epoch(self, epoch: int) -> None:
        """Choose the random numbers of the following items."""
        self._epoch = epoch

    def __getitem__(self, index: int) -> dict:
        label = self.entries[index].label
        try:
            video, label = self._train_item(index) if self.train else (self._test_item(index), label)
            weight, error = 1.0, ""
        except Exception as reason:  # whatever a decoder raises, or a transform on the frames that it gave
            views = 1 if self.train else self.clip.test_clips * self.clip.test_crops
            video = torch.zeros(views, self.clip.frames, 3, self.clip.size, self.clip.size)
            weight, error = 0.0, str(self._named(index, reason))
        return {"video": video, "label": label, "index": index, "weight": weight, "error": error}

    def _train_item(self, index: int) -> tuple[Tensor, int]:
        clip = self.clip
        with self._draws(index) as g:
            frames = self._frames(index, lambda total: [
                dense_indices(total, clip.frames, clip.stride, generator=g) if clip.sampling == "dense"
                else uniform_indices(total, clip.frames, jitter=g)])
            video, label = self._transform(frames[0], self.entries[index].label)
        return video[None], label

    @contextmanager
    def _draws(self, index: int) -> Iterator[torch.Generator]:
        """torch's random numbers as (seed, epoch, index) alone decide them, and behind it as they were."""
        key = hashlib.blake2b(f"{self.seed}/{self._epoch}/{index}".encode(), digest_size=8).digest()
        with torch.random.fork_rng(devices=[]):
            yield torch.random.default_generator.manual_seed(int.from_bytes(key, "big") >> 1)

    def _test_item(self, index: int) -> Tensor:
        frames = self._frames(index, lambda total: view_indices(total, self.clip))
        return torch.cat([self._transform(f) for f in frames])

    def _frames(self, index: int, choose: Choice) -> Tensor:
        """uint8 (clips,T,H,W,3) of the frames that `choose` picks."""
        if self.memory is None:
            return self._read(self.entries[index], choose)
        if index not in self.memory:
            self.memory[index] = self.whole(index)
        whole = self.memory[index]
        if isinstance(whole, VideoError):
            raise whole
        return whole[torch.tensor(choose(len(whole)))]

    def whole(self, index: int) -> Tensor:
        """Every frame of a clip's file as it is decoded: uint8 (T,H,W,3). Raises VideoError, whatever went wrong."""
        try:
            return self._read(self.entries[index], lambda total: [list(range(total))])[0]
        except Exception as error:
            raise self._named(index, error) from error

    def _named(self, index: int, error: Exception) -> VideoError:
        if isinstance(error, VideoError):
            return error
        return VideoError(self.root / self.entries[index].path, isolated.text_of(error))

    def _read(self, entry: Entry, choose: Choice) -> Tensor:
        path = self.root / entry.path
        if entry.total_frames is not None:
            wanted = choose(_total(path, entry.total_frames))
            frames = _read_images(path, sum(wanted, []))
        else:
            with VideoFile(path) as video:
                wanted = choose(len(video))
                frames = video.frames(sum(wanted, []))
        return frames.unflatten(0, (len(wanted), -1))


def _total(folder: Path, total: int) -> int:
    if not folder.is_dir():
        raise VideoError(folder, "there is no such folder of frames")
    if total < 1:
        raise VideoError(folder, f"the list gives it {total} frames: allowed is 1 or more")
    return total


def _read_images(folder: Path, wanted: list[int]) -> Tensor:
    frames = []
    for i in wanted:
        name = f"img_{i + 1:05d}.jpg"
        try:
            with Image.open(folder / name) as image:
                frames.append(torch.from_numpy(np.array(image.convert("RGB"))))
        except Exception as error:  # PIL has a dozen kinds, one for a header that promises too many pixels
            reason = "there is none" if isinstance(error, FileNotFoundError) else isolated.text_of(error)
            raise VideoError(folder, f"{name} cannot be read ({reason})") from error
        if frames[-1].shape != frames[0].shape:
            sizes = " and ".join(f"{w}x{h}" for h, w, _ in (frames[0].shape, frames[-1].shape))
            raise VideoError(folder, f"its images differ in size: {sizes} in {name}")
    return torch.stack(frames)


def collate(items: list[dict]) -> dict:
    """Items of a VideoDataset as a batch: video (B,V,T,3,S,S), label, index, weight (B,), error: a list of B texts."""
    return default_collate(items)
