"""One process holds a folder; the one that is refused is told which, and a dead one holds nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
import warnings
from dataclasses import replace

import pytest
from _train_victim import TRAIN, TinySet, tiny_model
from filelock import FileLock

from i2vlib.training import runs
from i2vlib.training.lock import Lock
from i2vlib.training.runs import TrainingError
from i2vlib.training.train import train

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes to be killed are forked")


def held_by_a_child(path, work) -> int:
    """A process that runs work() and then says so; it lives until it is killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            os.write(write, b"x")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(write)
    assert os.read(read, 1) == b"x"
    os.close(read)
    return child


def test_a_lock_is_held_once_and_names_its_holder(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["my_training.py", "--fast"])
    first, second = Lock(tmp_path / "a.lock"), Lock(tmp_path / "a.lock")
    assert first.take() == ""
    text = second.take()
    assert f"(process {os.getpid()} on {socket.gethostname()}, since 20" in text and "my_training.py" in text
    second.release()  # holds nothing, frees nothing
    assert second.take()
    first.release()
    assert not (tmp_path / "a.lock.json").exists()
    assert second.take() == "" and first.take()
    second.release()


@needs_fork
def test_a_killed_process_holds_nothing(tmp_path):
    path = tmp_path / "a.lock"
    lock = Lock(path)
    child = held_by_a_child(path, lock.take)
    assert f"process {child} on" in lock.take()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert json.loads((tmp_path / "a.lock.json").read_text())["process"] == child  # nobody has cleaned up
    assert lock.take() == "" and json.loads((tmp_path / "a.lock.json").read_text())["process"] == os.getpid()
    lock.release()


@needs_fork
def test_what_a_dead_holder_forked_is_waited_for(tmp_path):
    """Where it has the locked file open too, as with filelock before 4."""
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "a.lock"

    def hold():
        file = open(path, "a")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fork() == 0:
            time.sleep(0.5)
            os._exit(0)

    child = held_by_a_child(path, hold)
    name = {"host": socket.gethostname(), "process": child, "command": "train.py", "since": "then"}
    (tmp_path / "a.lock.json").write_text(json.dumps(name))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    lock = Lock(path)
    assert lock.take() == ""
    lock.release()


def test_what_stands_beside_an_unheld_lock_stops_nobody(tmp_path):
    for text in ("", "{", "[]", '"a"', '{"host": "elsewhere", "process": 1, "command": "train.py", "since": "then"}'):
        (tmp_path / "a.lock").touch()
        (tmp_path / "a.lock.json").write_text(text)
        lock = Lock(tmp_path / "a.lock")
        assert lock.take() == ""
        (tmp_path / "a.lock.json").write_text(text)
        named = "`train.py` (process 1 on elsewhere, since then)" if len(text) > 3 else "another process"
        assert Lock(tmp_path / "a.lock").take() == named
        lock.release()


def test_where_there_are_no_locks_a_warning_says_so(tmp_path, monkeypatch):
    def refuse(number):
        def acquire(*_, **__):
            raise OSError(number, os.strerror(number))
        return acquire

    monkeypatch.setattr(FileLock, "acquire", refuse(errno.ENOLCK))
    with pytest.warns(UserWarning, match="has no locks .*: nothing keeps a second process out"):
        assert Lock(tmp_path / "a.lock").take() == ""
    for number in (errno.EACCES, errno.EROFS):  # nothing can be written either
        monkeypatch.setattr(FileLock, "acquire", refuse(number))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert Lock(tmp_path / "a.lock").take() == ""


class Looking(TinySet):
    """Notes who holds the folder that is being trained into."""

    memory = range(20)  # it is read in this process

    def __getitem__(self, i):
        self.found.append(Lock(self.path).take())
        return super().__getitem__(i)


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path):
    config, data = replace(TRAIN, steps=1), Looking()
    data.path, data.found = tmp_path / runs.LOCK, []
    train(tiny_model(), data, config, tmp_path, progress=False)
    assert len(data.found) == 6 and all(f"(process {os.getpid()} on" in text for text in data.found)
    assert not (tmp_path / f"{runs.LOCK}.json").exists()
    before, lock = (tmp_path / runs.STATE).read_bytes(), Lock(data.path)
    assert lock.take() == ""
    for resume in (True, False):
        with pytest.raises(TrainingError, match=f"is held by another run: .*process {os.getpid()} .*Allowed is another folder"):
            train(tiny_model(), TinySet(), config, tmp_path, resume=resume, progress=False)
    assert (tmp_path / runs.STATE).read_bytes() == before
    lock.release()
    train(tiny_model(), TinySet(), config, tmp_path, resume=False, progress=False)


def test_a_run_that_fails_lets_go_of_its_folder(tmp_path):
    train(tiny_model(), TinySet(), replace(TRAIN, steps=1), tmp_path, progress=False)
    with pytest.raises(ValueError, match="lr"):
        train(tiny_model(), TinySet(), replace(TRAIN, steps=1, lr=0.5), tmp_path, progress=False)
    assert Lock(tmp_path / runs.LOCK).take() == ""
