"""Batches of clips out of processes that may die: whatever happens while a clip is read costs that clip alone.

A process reads a batch, clip by clip. An exception belongs to its clip. Where the process dies, or is silent too long, the
clip that it was at is read again in a process of its own; if that dies too, the clip's file is harmful: it is named and left
out from then on, and the batch is read again without it. Where no clip is found guilty so (another may have broken the
process, or the system took its memory), each clip of the batch is read in a process of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

import torch
from torch import Tensor

from i2vlib.data.loading import clip_path
from i2vlib.data.reader import FORKS, Died, Here, LoadingError, Part, Reader
from i2vlib.data.video import VideoError

HARMFUL = "harmful to read: "  # so begins the reason of a file that ended the process that read it
SEARCHED = 100  # clips that are tried when none has shown yet what an item looks like


def load(dataset, batches: Sequence[Sequence[int]], workers: int, known: Mapping[str, str] | None = None) -> Iterator[dict]:
    """Yield each of `batches` (lists of what `dataset` takes as an index) as one dict of stacked items, in order.

    `workers` processes read a batch ahead each; with 0 there is one, so that this process cannot die of a file. (Only
    Linux can do that for 0 workers: elsewhere the clips are read here, and what kills a decoder is survived with workers
    alone.) Frames that a set keeps in memory are decoded in such a process and put together here. A clip that cannot be
    read has weight 0 and an error `path: reason`; the items are the same whatever the number of workers.

    known: path -> reason of files that the run left out before; those that are harmful are not opened again. It may
    grow meanwhile. Close what this returns (contextlib.closing): an error on your side, whose traceback is kept, would
    keep the processes. Raises LoadingError, and RuntimeError for items that do not stack.
    """
    kept = not workers and getattr(dataset, "memory", None) is not None
    readers = [(Reader if workers or FORKS and not kept else Here)(dataset) for _ in range(max(workers, 1))]
    loader, todo = _Loader(dataset, known or {}), iter(_decoded(dataset, batches, known) if kept else batches)
    flying: deque[tuple[Reader, Sequence[int]]] = deque()

    def send(reader: Reader) -> None:
        places = next(todo, None)
        if places is not None:
            reader.ask(places, loader.left_out(places))
            flying.append((reader, places))

    try:
        for reader in readers:
            send(reader)
        while flying:
            reader, places = flying.popleft()
            batch = loader.take(reader, places)
            send(reader)
            yield batch
    finally:
        for reader in readers:
            reader.close()
        if kept:
            todo.close()


def _decoded(dataset, batches: Sequence[Sequence[int]], known: Mapping[str, str] | None) -> Iterator[Sequence[int]]:
    """Yield each batch when the frames of its clips are in the set's memory, decoded in the order of need."""
    missing = dict.fromkeys(i for i in range(len(dataset)) if i not in dataset.memory)

    def needed() -> Iterator[list[int]]:
        for places in batches:
            if not missing:
                return
            for index in {place % len(dataset): None for place in places}:
                if index in missing:
                    del missing[index]
                    yield [index]

    with closing(load(_Frames(dataset), needed(), 0, known)) as stream:
        for places in batches:
            for place in places:
                while place % len(dataset) not in dataset.memory:
                    batch = next(stream)
                    index = int(batch["index"][0])
                    path = clip_path(dataset, index)
                    dataset.memory[index] = (batch["video"][0].clone() if batch["weight"][0]
                                             else VideoError(path, batch["error"][0].removeprefix(f"{path}: ")))
            yield places


class _Frames:
    """All frames of the clips of a set that keeps them in memory, as items."""

    def __init__(self, dataset) -> None:
        self.dataset, self.entries, self.root = dataset, dataset.entries, dataset.root

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        try:
            video, weight, error = self.dataset.whole(index), 1.0, ""
        except VideoError as reason:
            video, weight, error = torch.zeros(1, dtype=torch.uint8), 0.0, str(reason)
        return {"video": video, "label": 0, "index": index, "weight": weight, "error": error}


class _Loader:
    """What a pass over a set knows about its clips: which files are harmful, what an item looks like."""

    def __init__(self, dataset, known: Mapping[str, str]) -> None:
        self.dataset, self.known, self.harmful, self.like = dataset, known, {}, None

    def left_out(self, places: Sequence[int]) -> dict[int, str]:
        """row -> reason of the clips that are not to be opened."""
        if not self.harmful and not self.known:
            return {}
        paths = [self._path(place) for place in places]
        reasons = [self.harmful.get(path) or self.known.get(path, "") for path in paths]
        return {row: reason for row, reason in enumerate(reasons) if reason.startswith(HARMFUL)}

    def take(self, reader: Reader, places: Sequence[int]) -> dict:
        """The batch that `reader` was asked for, whatever becomes of it."""
        while True:
            try:
                return self._whole(places, *reader.answer())
            except Died as death:
                if death.row is None or not self._convicted(places[death.row]):
                    return self._whole(places, *self._one_by_one(places))
                reader.ask(places, self.left_out(places))

    def _convicted(self, place: int) -> bool:
        try:
            self._alone(place)
        except Died as death:
            self.harmful[self._path(place)] = HARMFUL + death.reason
            return True
        return False

    def _one_by_one(self, places: Sequence[int]) -> Part:
        rows, parts, bad = [], [], {}
        for row, place in enumerate(places):
            if row not in self.left_out(places):
                try:
                    _, part, failed = self._alone(place)
                except Died as death:
                    self.harmful[self._path(place)] = HARMFUL + death.reason
                    continue
                if part is None:
                    bad[row] = failed[0]
                else:
                    rows.append(row)
                    parts.append(part)
        return rows, _joined(parts), bad

    def _alone(self, place: int) -> Part:
        with closing(Reader(self.dataset)) as reader:
            reader.ask([place], {})
            return reader.answer()

    def _whole(self, places: Sequence[int], rows: list[int], part: dict | None, bad: dict[int, str]) -> dict:
        """A batch of all rows: those that were not read, or are left out by now, are zeros of weight 0."""
        reasons = bad | self.left_out(places)
        if part is not None and self.like is None:
            self.like = _pick(part, [0])
        if not reasons:
            return part
        good = [i for i, row in enumerate(rows) if row not in reasons]
        like = self._like()
        blank = _joined([_blank(like)] * len(reasons))
        mixed = _joined([_pick(part, good), blank]) if good else blank
        order = [rows[i] for i in good] + list(reasons)
        batch = _pick(mixed, [order.index(row) for row in range(len(places))])
        for row, reason in reasons.items():
            index = places[row] % len(self.dataset)
            entries = getattr(self.dataset, "entries", None)
            batch["index"][row], batch["label"][row] = index, entries[index].label if entries else 0
            batch["error"][row] = f"{self._path(places[row])}: {reason}"
        return batch

    def _like(self) -> dict:
        """A batch of one clip, to show what keys and shapes there are."""
        reasons = {}
        for place in range(min(len(self.dataset), SEARCHED)):
            if self.like is not None:
                break
            try:
                _, self.like, failed = self._alone(place)
                reasons |= {self._path(place): reason for reason in failed.values()}
            except Died as death:
                reasons[self._path(place)] = HARMFUL + death.reason
        if self.like is None:
            path, reason = next(iter(reasons.items()))
            raise LoadingError(f"none of {len(reasons)} clips can be read; the first: {path}: {reason}")
        return self.like

    def _path(self, place: int) -> str:
        return clip_path(self.dataset, place % len(self.dataset))


def _pick(part: dict, rows: list[int]) -> dict:
    return {key: v[rows] if isinstance(v, Tensor) else [v[row] for row in rows] for key, v in part.items()}


def _joined(parts: list[dict]) -> dict | None:
    return {key: torch.cat([p[key] for p in parts]) if isinstance(v, Tensor) else sum((p[key] for p in parts), [])
            for key, v in parts[0].items()} if parts else None


def _blank(like: dict) -> dict:
    return {key: torch.zeros_like(v) if isinstance(v, Tensor) else list(v) for key, v in like.items()}
