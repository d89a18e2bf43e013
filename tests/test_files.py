"""Files are replaced by whole ones or not at all: full disks, file systems without chmod or sync, writers that fail."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import i2vlib as i2v
from i2vlib.config import ModelConfig, TowerConfig
from i2vlib.files import whole_file

ROOT = Path(i2v.__file__).parents[1]


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_bytes(b"old")
    return path


def alone(path: Path, content: bytes) -> bool:
    return path.read_bytes() == content and list(path.parent.iterdir()) == [path]


def test_a_whole_file_replaces(old):
    with whole_file(old) as file:
        file.write(b"new")
        file.flush()
        assert old.read_bytes() == b"old"
    assert alone(old, b"new")
    (old.parent / "plain").write_bytes(b"")
    assert old.stat().st_mode == (old.parent / "plain").stat().st_mode, "the rights of any new file"


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), PermissionError(errno.EACCES, "no")])
def test_a_writer_that_fails_changes_nothing_and_its_error_is_kept(old, error):
    with pytest.raises(type(error)) as raised, whole_file(old) as file:
        file.write(b"half")
        raise error
    assert raised.value is error and alone(old, b"old")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_named_as_such_with_the_path(old, number, wrapped):
    with pytest.raises(OSError, match="no space left") as raised, whole_file(old):
        try:
            raise OSError(number, os.strerror(number))
        except OSError:
            if wrapped:  # as torch.save does
                raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")  # noqa: B904
            raise
    assert raised.value.errno == number and str(old) in str(raised.value) and alone(old, b"old")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSPC, errno.EIO])
def test_what_cannot_sync_does_not_fail_but_what_could_not_be_written_does(old, monkeypatch, number):
    def fsync(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    if number in (errno.EINVAL, errno.ENOTSUP):
        with whole_file(old) as file:
            file.write(b"new")
        assert alone(old, b"new")
    else:
        with pytest.raises(OSError, match=str(number)), whole_file(old) as file:
            file.write(b"new")
        assert alone(old, b"old")


def test_nothing_needs_chmod(old, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for name in ("chmod", "fchmod", "lchmod"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    monkeypatch.setattr(Path, "chmod", refuse)
    model = i2v.build_model(ModelConfig(TowerConfig(16, 8, 16, 1, 2, 2.0, 0), frames=2, classes=2))
    i2v.save_checkpoint(model, old)
    monkeypatch.delattr(os, "fchmod", raising=False)  # Windows has none
    i2v.save_checkpoint(model, old)
    assert torch.equal(i2v.load_checkpoint(old).head.weight, model.head.weight)
    assert list(old.parent.iterdir()) == [old]


FULL_DISK = """
import resource, signal, sys, torch, i2vlib as i2v
from i2vlib.files import whole_file
path, writer = sys.argv[1:]
model = i2v.build_model(i2v.ModelConfig(i2v.TowerConfig(16, 8, 16, 1, 2, 2.0, 0), frames=2, classes=2))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    if writer == "checkpoint":
        i2v.save_checkpoint(model, path)
    else:
        with whole_file(path) as file:
            torch.save(model.state_dict(), file)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files stands for the full disk")
@pytest.mark.parametrize("writer", ["checkpoint", "torch.save"])
def test_a_disk_that_fills_half_way(old, writer):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", FULL_DISK, old, writer], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "no space left" in done.stdout and str(old) in done.stdout, done.stdout + done.stderr
    assert alone(old, b"old")


def test_a_folder_that_is_not_there_or_a_folder_of_that_name_is_named_as_asked_for(old):
    for path in (old.parent / "none" / "m.bin", old.parent):
        with pytest.raises(OSError, match=f"'{path}'"), whole_file(path) as file:
            file.write(b"new")
    assert alone(old, b"old")


def test_two_writers_of_one_file_do_not_meet(old):
    with whole_file(old) as first, whole_file(old) as second:
        first.write(b"first")
        second.write(b"second")
    assert alone(old, b"first")  # the outer block ends last
