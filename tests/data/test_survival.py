"""Batches around clips that end whatever reads them: each clip is used or named, and nothing depends on the workers."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest
import torch

from i2vlib.data import datasets, reader, survival
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.loading import Repeated, bad_clips
from i2vlib.data.reader import LoadingError
from i2vlib.data.survival import load
from i2vlib.data.video import VideoFile, write_clip
from i2vlib.protocol import ClipConfig


def fail() -> None:
    raise ValueError("no frame")


def index_error() -> None:
    [].pop()


class Deeds:
    """n clips with the value 1 + i; some do something else first, which `deeds` has by index. Each is noted in a file."""

    def __init__(self, n: int, deeds: dict, note=None, paths: list[str] | None = None):
        self.n, self.deeds, self.note = n, deeds, note
        self.entries = [SimpleNamespace(path=p, label=i % 2) for i, p in enumerate(paths or [f"{i}.mp4" for i in range(n)])]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict:
        if self.note:
            with open(self.note, "a") as file:
                file.write(f"{i} ")
        self.deeds.get(i, int)()
        return {"video": torch.full((1, 2), 1.0 + i), "label": i % 2, "index": i, "weight": 1.0, "error": ""}


def taken(data, batches, workers: int, known=None) -> tuple[list, dict]:
    """Values of the clips, 0 for those left out, and the reasons of these. Checks all that is said of each clip."""
    values, named = [], {}
    for places, batch in zip(batches, load(data, batches, workers, known), strict=True):
        assert batch["index"].tolist() == [p % len(data) for p in places] and len(batch["error"]) == len(places)
        assert batch["label"].tolist() == [p % len(data) % 2 for p in places]
        assert batch["weight"].tolist() == [float(error == "") for error in batch["error"]]
        values += batch["video"][:, 0, 0].tolist()
        named.update(bad_clips(data, batch))
    return values, named


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 3, 12])
def test_each_clip_is_used_or_named(workers, size):
    data = Deeds(12, {0: os.abort, 4: fail, 5: lambda: os._exit(1), 6: index_error, 11: os.abort})
    batches = [list(range(12))[i : i + size] for i in range(0, 12, size)]
    values, named = taken(data, batches, workers)
    assert values == [0, 2, 3, 4, 0, 0, 0, 8, 9, 10, 11, 0]
    assert named == {"0.mp4": "harmful to read: the decoder aborted (SIGABRT)", "4.mp4": "ValueError: no frame",
                     "5.mp4": "harmful to read: the process that read it ended with exit code 1",
                     "6.mp4": "IndexError: pop from empty list", "11.mp4": "harmful to read: the decoder aborted (SIGABRT)"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_harmful_file_is_left_out_from_its_batch_on(tmp_path, workers):
    """Whichever entry names it, in whichever pass, and whether another process already had it: 1 and 5 are one file."""
    data = Deeds(8, {3: os.abort}, tmp_path / "note", paths=["a", "b", "c", "b", "d", "b", "e", "f"])
    batches = [[0, 1], [2, 3], [4, 5], [6, 7], [9, 10], [11, 12]]  # 1 is read before, 5 after, 9 and 11 in the next pass
    values, named = taken(Repeated(data), batches, workers)
    assert values == [1, 2, 3, 0, 5, 0, 7, 8, 0, 3, 0, 5] and set(named) == {"b"}
    (tmp_path / "note").unlink()
    values, _ = taken(Repeated(data), batches, workers, named)
    assert values == [1, 0, 3, 0, 5, 0, 7, 8, 0, 3, 0, 5]
    assert not {"1", "3", "5"} & set((tmp_path / "note").read_text().split())
    assert taken(Repeated(data), batches[:1], workers, {"b": "ValueError: it may be there next time"})[0] == [1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_process_that_was_killed_for_no_fault_of_a_clip_costs_none(tmp_path, workers):
    def once() -> None:
        if not (tmp_path / "done").exists():
            (tmp_path / "done").touch()
            os.abort()

    values, named = taken(Deeds(6, {2: once}), [[0, 1], [2, 3], [4, 5]], workers)
    assert values == [1, 2, 3, 4, 5, 6] and not named


def test_a_set_of_which_nothing_can_be_read_says_so():
    with pytest.raises(LoadingError, match="none of 3 clips can be read; the first: 0.mp4: ValueError: no frame"):
        list(load(Deeds(3, dict.fromkeys(range(3), fail)), [[0, 1]], 0))


def test_processes_end_with_the_loading(monkeypatch):
    begun = []
    start = reader.Reader._start
    monkeypatch.setattr(reader.Reader, "_start", lambda self: (start(self), begun.append(self.process)))
    stream = load(Deeds(8, {2: lambda: time.sleep(1000)}), [[0, 1], [2, 3], [4, 5]], 2)
    next(stream)
    stream.close()
    assert len(begun) == 2 and not any(process.is_alive() for process in begun)


@pytest.mark.parametrize("forks", [False, True])
def test_where_nothing_forks_clips_are_read_here(monkeypatch, forks):
    monkeypatch.setattr(survival, "FORKS", forks)
    data = Deeds(2, {0: lambda: here.append(os.getpid()), 1: fail})
    here = []
    assert taken(data, [[0, 1]], 0) == ([1, 0], {"1.mp4": "ValueError: no frame"})
    assert here == ([] if forks else [os.getpid()])


class Hostile(VideoFile):
    def __init__(self, path):
        super().__init__(path)
        {"2.mp4": os.abort, "4.mp4": index_error}.get(os.path.basename(path), int)()


@pytest.mark.parametrize("kept, workers", [(False, 0), (True, 0), (False, 2), (True, 2)])
def test_a_list_of_files(tmp_path, monkeypatch, kept, workers):
    for i in range(6):
        write_clip(tmp_path / f"{i}.mp4", torch.full((4, 16, 24, 3), 40 * i, dtype=torch.uint8))
    (tmp_path / "list.txt").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in range(6)))
    clip = ClipConfig(2, size=16, short_side=16, test_short_side=16)
    good = VideoDataset(tmp_path / "list.txt", tmp_path, clip, train=True)
    expected = torch.cat([good[i]["video"] for i in (0, 1, 3, 5)])
    monkeypatch.setattr(datasets, "VideoFile", Hostile)
    data = VideoDataset(tmp_path / "list.txt", tmp_path, clip, train=True, cache=kept)
    reasons = {}
    for _ in range(2):
        batches = list(load(data, [[0, 1, 2], [3, 4, 5]], workers, reasons))
        video, weight = (torch.cat([b[key] for b in batches]) for key in ("video", "weight"))
        assert weight.tolist() == [1, 1, 0, 1, 0, 1] and torch.equal(video[weight > 0][:, 0], expected)
        reasons.update(pair for batch in batches for pair in bad_clips(data, batch))
    assert reasons == {str(tmp_path / "2.mp4"): "harmful to read: the decoder aborted (SIGABRT)",
                       str(tmp_path / "4.mp4"): "IndexError: pop from empty list"}
    assert not kept or workers or sorted(data.memory) == list(range(6))
