"""A call in another process: what it gives, what it says when it dies, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from _processes import alive, wait_until

from i2vlib.data.isolated import Isolated, IsolatedError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the limit and the signal are Linux's")


def whoami(_: object = None) -> int:
    return os.getpid()


def doubled(x: np.ndarray) -> np.ndarray:
    return 2 * x


def printing() -> str:
    print("no answer", flush=True)
    os.write(1, b"no answer either\n")
    return sys.stdin.read()


def abort(said: str) -> None:
    os.write(2, f"{said}\n".encode())
    os.abort()


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)


def swallow(size: int) -> int:
    return len(bytearray(size))


def fail(error: Exception) -> None:
    raise error


def hang(begun: str = os.devnull) -> None:
    Path(begun).write_text("begun")
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        pass


@pytest.fixture(scope="module")
def call():
    with Isolated(seconds=60) as call:
        yield call


def test_calls_are_made_by_one_other_process(call):
    assert call(whoami) == call(whoami, _=1) != os.getpid()
    big = np.arange(1 << 20, dtype=np.float32)
    assert np.array_equal(call(doubled, big), 2 * big)
    assert call(printing) == ""


@pytest.mark.parametrize("function, args, reason", [
    (abort, ("std::bad_alloc",), r"the decoder aborted \(SIGABRT: std::bad_alloc\)"),
    (kill_itself, (signal.SIGSEGV,), r"the decoder crashed \(SIGSEGV\)"),
    (kill_itself, (signal.SIGKILL,), r"was killed \(SIGKILL\)"),
    (os._exit, (3,), "ended with exit code 3"),
    (sys.exit, (0,), "ended with exit code 0")])
def test_a_death_costs_one_call(call, function, args, reason):
    before = call(whoami)
    with pytest.raises(IsolatedError, match=reason) as raised:
        call(function, *args)
    assert raised.value.died and call(whoami) != before


@pytest.mark.parametrize("error, reason", [
    (IndexError("list index\nout of range"), "^IndexError: list index out of range$"), (SystemError(), "^SystemError$"),
    (IsolatedError("a.mp4: is cut off"), "^a.mp4: is cut off$"), (MemoryError(), r"^ran out of memory \(limit 4 GiB\)$")])
def test_an_exception_is_told_and_ends_nothing(call, error, reason):
    before = call(whoami)
    with pytest.raises(IsolatedError, match=reason) as raised:
        call(fail, error)
    assert not raised.value.died and call(whoami) == before


@LINUX
def test_memory_has_a_limit_a_call():
    with Isolated(memory=64 << 20) as call:
        for _ in range(4):  # what a call has given back does not count
            assert call(swallow, 48 << 20) == 48 << 20
        with pytest.raises(IsolatedError, match=r"ran out of memory \(limit 0.0625 GiB\)"):
            call(swallow, 80 << 20)


def test_a_hang_is_ended():
    with Isolated(seconds=0.5) as call:
        with pytest.raises(IsolatedError, match="gave no answer in 0.5 s") as raised:
            call(hang)
        assert raised.value.died and call(whoami)


def test_what_cannot_be_called_says_so(call, monkeypatch):
    function = type(whoami)(whoami.__code__, {}, "whoami")
    function.__module__ = "__main__"
    with pytest.raises(TypeError, match="of a script or notebook"):
        call(function)
    only_here = type(whoami)(whoami.__code__, {}, "only_here")
    only_here.__module__, only_here.__qualname__ = __name__, "only_here"
    monkeypatch.setattr(sys.modules[__name__], "only_here", only_here, raising=False)
    with pytest.raises(IsolatedError, match="cannot be called in another process.*only_here"):
        call(only_here)


PARENT = """
import sys, threading
from i2vlib.data.isolated import Isolated
from test_isolated import hang, whoami
print("begun", flush=True)
call = Isolated()
print(call(whoami), flush=True)
call(hang, sys.argv[1])
"""  # no `if __name__ == "__main__"`: the script must not run twice


@LINUX
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_parent_ends(tmp_path, number):
    (tmp_path / "parent.py").write_text(PARENT)
    where = os.pathsep.join(map(str, Path(__file__).parents[:3]))  # beside this file, tests, i2vlib
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "hangs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": where}) as parent:
        assert parent.stdout.readline() == "begun\n"
        child = int(parent.stdout.readline())
        while not (tmp_path / "hangs").exists():
            time.sleep(0.05)
        assert alive(child)
        parent.send_signal(number)
        assert parent.stdout.read() == "" and parent.wait(60) != 0
    wait_until(lambda: not alive(child), 10)
