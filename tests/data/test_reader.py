"""A process that reads: what comes over from it, and that it neither stays nor takes this process along."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from _processes import alive, wait_until

from i2vlib.data import isolated, reader
from i2vlib.data.reader import Died, Here, LoadingError, Reader

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")


class Clips:
    """Clip i of side pixels is i throughout, beside values of other types, and what the global generators draw."""

    def __init__(self, side: int = 4):
        self.side = side

    def __getitem__(self, i: int) -> dict:
        if i < 0:
            raise IndexError(f"no clip {i}")
        video, half = torch.full((1, 2, 3, self.side, self.side), float(i)), torch.tensor(i, dtype=torch.bfloat16)
        return {"video": video, "index": i, "error": "", "half": half, "drawn": torch.rand(2),
                "other": float(np.random.rand()), "by": os.getpid()}


@pytest.mark.parametrize("side", [4, 120])  # small ones are sent, large ones shared
def test_batches_come_over_whole(side):
    with closing(Reader(Clips(side))) as one:
        for _ in range(2):
            one.ask([5, -1, 7, 8], {2: "left out"})
            rows, batch, bad = one.answer()
            assert rows == [0, 3] and bad == {1: "IndexError: no clip -1"}
            assert batch["index"].tolist() == [5, 8] and batch["half"].tolist() == [5, 8] and batch["error"] == ["", ""]
            assert batch["by"][0] != os.getpid()
        one.ask([-1], {})
        assert one.answer() == ([], None, {0: "IndexError: no clip -1"})
    assert (batch["video"][0] == 5).all() and batch["video"].shape == (2, 1, 2, 3, side, side)  # also when it has ended
    batch["video"] += 1
    assert (batch["video"][1] == 9).all()
    here = Here(Clips(side))
    here.ask([5, -1, 7, 8], {2: "left out"})
    rows, same, bad = here.answer()
    assert rows == [0, 3] and bad == {1: "IndexError: no clip -1"} and torch.equal(same["video"] + 1, batch["video"])


def test_what_the_global_generators_give_does_not_depend_on_the_process():
    drawn = []
    for places in ([3, 4], [4, 3]):
        with closing(Reader(Clips())) as one:
            one.ask(places, {})
            batch = one.answer()[1]
            drawn.append({int(i): (*d.tolist(), float(o)) for i, d, o in zip(batch["index"], batch["drawn"], batch["other"],
                                                                            strict=True)})
    assert drawn[0] == drawn[1] and drawn[0][3] != drawn[0][4]


class Deed:
    """Clip 1 does what it is told."""

    def __init__(self, deed):
        self.deed = deed

    def __getitem__(self, i: int) -> dict:
        if i == 1:
            self.deed()
        return {"video": torch.zeros(1), "index": i}


def hang() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(1000)


def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("deed, reason", [
    (os.abort, r"the decoder aborted \(SIGABRT\)"), (lambda: os._exit(3), "exit code 3"), (sys.exit, "exit code"),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"), (hang, "gave no answer in 2 s")])
def test_a_death_is_told_with_the_clip_it_was_at(monkeypatch, deed, reason):
    monkeypatch.setattr(reader, "SECONDS", 2)
    with closing(Reader(Deed(deed))) as one:
        one.ask([0, 1, 2], {})
        with pytest.raises(Died, match=reason) as raised:
            one.answer()
        assert raised.value.row == 1
        one.ask([0, 1, 2], {1: "left out"})  # another process
        assert one.answer()[1]["index"].tolist() == [0, 2]


class Waiting:
    """Like a decoder: its end waits for its thread, which only the process has that began it."""

    def __init__(self):
        self.process, self.itself = os.getpid(), self  # only the garbage collector finds it

    def __del__(self):
        if os.getpid() != self.process:
            time.sleep(1000)


def test_garbage_of_this_process_stays_its_own(monkeypatch):
    monkeypatch.setattr(reader, "SECONDS", 5)
    gc.disable()
    try:
        Waiting()
        with closing(Reader(Deed(gc.collect))) as one:
            one.ask([0, 1], {})
            assert one.answer()[0] == [0, 1] and not gc.isenabled()
    finally:
        gc.enable()


@LINUX
def test_memory_is_limited_for_each_clip(monkeypatch):
    monkeypatch.setattr(reader, "MEMORY", 64 << 20)
    with closing(Reader(Deed(lambda: bytearray(1 << 30)))) as one:  # more than may lie free in what the process has
        one.ask([0, 1, 2], {})
        rows, _, bad = one.answer()
        assert rows == [0, 2] and bad == {1: "ran out of memory (limit 0.0625 GiB)"}


def test_what_is_no_clips_fault_is_not_blamed_on_one(monkeypatch):
    with closing(Reader(Clips())) as one, pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        sides = iter((4, 5))
        one.dataset = type("Sides", (), {"__getitem__": lambda self, i: {"video": torch.zeros(next(sides))}})()
        one.ask([0, 1], {})
        one.answer()
    with closing(Reader(Deed(stop))) as one, pytest.raises(KeyboardInterrupt):
        one.ask([0, 1], {})
        one.answer()
    monkeypatch.setattr(isolated, "bind_to", lambda parent: os._exit(7))
    with closing(Reader(Clips())) as one, pytest.raises(LoadingError, match="did not start: .* exit code 7"):
        one.ask([0], {})
        one.answer()


PARENT = """
import os, time
from contextlib import closing
from i2vlib.data.reader import Reader

class Hanging:
    def __getitem__(self, i):
        print(os.getpid(), flush=True)
        time.sleep(1000)

with closing(Reader(Hanging())) as one, closing(Reader(Hanging())) as two:
    one.ask([0], {})
    two.ask([0], {})
    one.answer()
"""


@LINUX
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_is_left_when_this_one_ends(tmp_path, number):
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}) as parent:
        left = [int(parent.stdout.readline()) for _ in range(2)]
        parent.send_signal(number)
        assert parent.wait(60) != 0
    wait_until(lambda: not any(map(alive, left)), 10)
