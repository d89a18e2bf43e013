"""Calls in a process of their own, which may die: a decoder's abort, hang or hunger for memory costs the one call.

What a decoder does to its process no `except` clause sees. So what may be broken is read in another one, which has
limits and is started anew after its death. It is a plain new interpreter: threads and locks of this process do not reach
it, a script or notebook is not run again in it, and it ends when this process ends, in whatever way.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

SECONDS = 120.0  # for one call; a clip of a minute in 4K takes a tenth of it
MEMORY = 4 << 30  # bytes that one call may add to what its process had
START = 300.0  # seconds for an interpreter to start and import, on a machine that has much else to do

_LENGTH = struct.Struct("<Q")
_CHILD = "import sys; sys.path[:] = {path!r}; from i2vlib.data.isolated import _serve; _serve({parent}, {memory})"


class IsolatedError(RuntimeError):
    """A call that gave no result; the message is the reason. died: it ended its process, not only itself."""

    def __init__(self, reason: str, died: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.died = reason, died


class Isolated:
    """One process that makes one call after the other: `with Isolated() as call: call(frame_count, path)`.

    It starts with the first call (and so imports once) and again after it has died. Calls must come from one thread, and
    the thread that starts the process must outlive it; several processes are several objects. Functions, arguments and
    results travel by pickle: a function is one of a module that can be imported here, not one of a script or notebook.
    seconds, memory (bytes) limit each call. Only Linux limits memory; Windows and macOS have the limit on time alone.
    """

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self.seconds, self.memory = seconds, memory
        self._process: subprocess.Popen | None = None

    def __call__(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """function(*args, **kwargs) as computed there. Raises IsolatedError whatever went wrong there."""
        if getattr(function, "__module__", None) == "__main__":
            raise TypeError(f"{function!r} is of a script or notebook: allowed is a function of a module")
        request = pickle.dumps((function, args, kwargs), protocol=5)
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        try:
            with self._killed_after(START):
                _write(self._process.stdin, request)
                _read(self._process.stdout)  # it has imported what it needs
            with self._killed_after(self.seconds):
                good, value = pickle.loads(_read(self._process.stdout))
        except BaseException:  # Ctrl-C too: what it would still answer must not answer the next call
            self.close()
            raise
        if not good:
            raise IsolatedError(value)
        return value

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it is doing. A later call starts another."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, self._complaints):
                with contextlib.suppress(OSError):  # a request that was left in the buffer
                    stream.close()

    def _start(self) -> None:
        self._complaints = tempfile.TemporaryFile()
        group = ({"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt"
                 else {"start_new_session": True})  # Ctrl-C does not reach it: this process decides
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD.format(path=sys.path, parent=os.getpid(), memory=self.memory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, **group)

    @contextlib.contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        """Turn the end of the process, by itself or after `seconds`, into an IsolatedError with the reason."""
        late, process = threading.Event(), self._process
        timer = threading.Timer(seconds, lambda: (late.set(), process.kill()))
        timer.daemon = True
        timer.start()
        try:
            yield
        except (EOFError, OSError) as error:
            code = process.wait()
            reason = f"gave no answer in {seconds:g} s" if late.is_set() else how_it_ended(code, self._last_words())
            raise IsolatedError(reason, died=True) from error
        finally:
            timer.cancel()

    def _last_words(self) -> str:
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def how_it_ended(code: int, said: str = "") -> str:
    """Words for the exit code of a process that gave no answer; said: its last line on stderr."""
    if code >= 0:
        return f"the process that read it ended with exit code {code}" + (f" ({said})" if said else "")
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    if name == "SIGABRT":
        return f"the decoder aborted (SIGABRT{': ' + said if said else ''})"
    if name == "SIGKILL":
        return "the process that read it was killed (SIGKILL), as the system does when memory runs out"
    return f"the decoder crashed ({name})"


@contextlib.contextmanager
def limited(memory: int) -> Iterator[None]:
    """Let what stands in the `with` add at most `memory` bytes to this process; on Linux, elsewhere it does nothing.

    What asks for more gets a MemoryError, or std::bad_alloc in native code, which mostly aborts.
    """
    if sys.platform != "linux":  # macOS has the call and does not keep to it; Windows has none
        yield
        return
    import resource

    before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with open("/proc/self/statm") as file:
        most = int(file.read().split()[5]) * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_DATA, (min([most, *(x for x in before if x >= 0)]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def bind_to(parent: int) -> None:
    """End this process with the thread of `parent` that started it, and before it where memory runs out: on Linux.

    Elsewhere it ends when it next looks for what it should do. It leaves no core image.
    """
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it had ended before
            os._exit(1)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("900")  # where memory runs out for all, this process is ended and not the one that trains


def text_of(error: BaseException, memory: int = 0) -> str:
    """The reason that an exception gives, in one line. memory: the limit in bytes, where there was one."""
    if isinstance(error, MemoryError):
        return "ran out of memory" + (f" (limit {memory / 2**30:.3g} GiB)" if memory else "")
    text = " ".join(str(error).split())
    ours = text and type(error).__module__.startswith("i2vlib.")  # these say all in their text
    return text if ours else f"{type(error).__name__}: {text}".rstrip(": ")


def _serve(parent: int, memory: int) -> None:
    bind_to(parent)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a library prints is no answer
    with contextlib.suppress(EOFError):  # that process has ended
        while True:
            function, args, kwargs = _called(_read(requests))
            _write(answers, b"ready")
            try:
                with limited(memory):
                    answer = pickle.dumps((True, function(*args, **kwargs)), protocol=5)
            except Exception as error:
                answer = pickle.dumps((False, text_of(error, memory)), protocol=5)
            _write(answers, answer)


def _called(request: bytes) -> tuple[Callable, tuple, dict]:
    try:
        return pickle.loads(request)
    except Exception as error:  # of an import
        def fail(reason: str = f"cannot be called in another process ({error!r})") -> None:
            raise RuntimeError(reason)
        return fail, (), {}


def _write(stream: BinaryIO, message: bytes) -> None:
    stream.write(_LENGTH.pack(len(message)))
    stream.write(message)
    stream.flush()


def _read(stream: BinaryIO) -> bytes:
    length, = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    return _exactly(stream, length)


def _exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data
