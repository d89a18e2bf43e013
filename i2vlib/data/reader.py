"""A process that reads clips of a set when asked and may die of it: what it answers, and what its end says.

Batches come back through memory that both processes see (on Linux), of a kind that no small /dev/shm limits and that
outlives the process.
"""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import pickle
import random
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from i2vlib.data import isolated

SECONDS = isolated.SECONDS  # that a process may spend on one clip
MEMORY = isolated.MEMORY  # bytes that a clip may take while it is read; only Linux keeps to it

FORKS = sys.platform == "linux"  # elsewhere a fork is not safe, and a new interpreter runs a script without a guard again
# what a process says: I am there; one clip is done; all are; an error of the set; the set wants the run to stop
_BEGUN, _READ, _ANSWER, _ERROR, _STOP = b"!", b".", b"=", b"x", b"c"
_LENGTH = struct.Struct("<Q")
_LARGE, _ALIGNED = 1 << 16, 64  # bytes of arrays from which on they are shared, and multiples of which they begin at

Part = tuple[list[int], dict | None, dict[int, str]]  # rows of a batch that were read, stacked; row -> reason of the others


class LoadingError(RuntimeError):
    """No clip can be read: no process can be started for it, or none of many clips shows what an item looks like."""


class Died(Exception):
    """A process ended while it read, or was ended since it gave no answer. row: the one it was at, None for none."""

    def __init__(self, reason: str, row: int | None) -> None:
        super().__init__(reason)
        self.reason, self.row = reason, row


class Reader:
    """Reads batches of a set in a process, one after the other: ask(), then answer(). Started, and started anew, by ask()."""

    def __init__(self, dataset) -> None:
        self.dataset, self.process, self.rows = dataset, None, []

    def ask(self, places: Sequence[int], left_out: dict[int, str]) -> None:
        """Begin to read the clips at `places` (what the set takes as an index), but for the rows that are left out."""
        self.rows = [row for row in range(len(places)) if row not in left_out]
        if self.process is None:
            self._start()
        with suppress(OSError):  # it has died: answer() says so
            _send(self.socket, [places[row] for row in self.rows])

    def answer(self) -> Part:
        """What was asked for. Raises Died, LoadingError if the process cannot start, and RuntimeError of its stacking."""
        done, sign = 0, b""
        try:
            while sign not in (_ANSWER, _ERROR, _STOP):
                self.socket.settimeout(SECONDS if self.begun else isolated.START)
                sign = _exactly(self.socket, 1)
                self.begun, done = True, done + (sign == _READ)
            part, bad = _received(self.socket)
        except (OSError, EOFError) as error:
            reason = self._end(late=isinstance(error, TimeoutError))
            if not self.begun:
                raise LoadingError(f"a process that reads clips did not start: {reason}") from error
            raise Died(reason, self.rows[done] if done < len(self.rows) else None) from error
        except BaseException:  # Ctrl-C: what it would still answer must not answer the next question
            self.close()
            raise
        if sign != _ANSWER:
            raise KeyboardInterrupt if sign == _STOP else RuntimeError(bad)
        if part is not None:
            part = {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in part.items()}
        return [row for i, row in enumerate(self.rows) if i not in bad], part, {self.rows[i]: bad[i] for i in bad}

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self.process is not None:
            self.socket.close()
            self.process.kill()
            self.process.join()
            self.process = None

    def _start(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.begun = False
        context = multiprocessing.get_context("fork" if FORKS else None)
        arguments = self.dataset, theirs, self.socket if FORKS else None, os.getpid(), MEMORY
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        collects = gc.isenabled()
        gc.disable()  # until the process has put aside what it inherits
        try:
            self.process.start()
        finally:
            if collects:
                gc.enable()
        theirs.close()

    def _end(self, late: bool) -> str:
        process = self.process
        if late:
            self.close()
            return f"gave no answer in {SECONDS:g} s"
        process.join(isolated.SECONDS)
        code = process.exitcode
        self.close()
        return isolated.how_it_ended(-signal.SIGKILL if code is None else code)


class Here(Reader):
    """The same in this process: for items that are in memory, or where no process can be had."""

    def ask(self, places: Sequence[int], left_out: dict[int, str]) -> None:
        self.rows = [row for row in range(len(places)) if row not in left_out]
        self.places = [places[row] for row in self.rows]

    def answer(self) -> Part:
        part, bad = _stacked(self.dataset.__getitem__, self.places)
        return [row for i, row in enumerate(self.rows) if i not in bad], part, {self.rows[i]: bad[i] for i in bad}


def _stacked(item: Callable[[int], dict], places: Sequence[int],
             done: Callable[[], object] = bool) -> tuple[dict | None, dict[int, str]]:
    """The items that can be had, as a batch, and i -> reason of the others. done() is called after each."""
    items, bad = [], {}
    for i, place in enumerate(places):
        try:
            items.append(item(place))
        except Exception as error:
            bad[i] = isolated.text_of(error, MEMORY)
        done()
    return default_collate(items) if items else None, bad


def _serve(dataset, asked: socket.socket, other_end: socket.socket | None, parent: int, memory: int) -> None:
    """The life of a process that reads."""
    gc.freeze()  # garbage of that process may be a decoder, whose end would wait for ever for a thread that is not here
    gc.enable()
    isolated.bind_to(parent)
    faulthandler.disable()  # it would tell where in the set's code; the run tells which file and what
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that trains decides
    if hasattr(signal, "SIGHUP"):  # so does the end of a terminal
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # and this ends this one, also in the middle of native code
    if other_end:  # a fork has it too, and while it is open nothing is heard of that process' end
        other_end.close()
    torch.set_num_threads(1)

    def item(place: int) -> dict:
        random.seed(place)  # a set that draws from these draws the same whichever process reads
        np.random.seed(place % 2**32)
        torch.manual_seed(place)
        with isolated.limited(memory):
            return dataset[place]

    with suppress(OSError, EOFError):  # that process has ended
        asked.sendall(_BEGUN)
        while True:
            places = _received(asked)
            try:
                part, bad = _stacked(item, places, lambda: asked.sendall(_READ))
                arrays = part and {key: v.detach().numpy() if _plain(v) else v for key, v in part.items()}
                sign, value = _ANSWER, (arrays, bad)
            except Exception as error:
                sign, value = _ERROR, (None, isolated.text_of(error, memory))
            except KeyboardInterrupt:  # not by the keyboard, which is not heard here
                sign, value = _STOP, (None, "")
            asked.sendall(sign)
            _send(asked, value)


def _plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype != torch.bfloat16  # which numpy does not know


def _send(to: socket.socket, value: object) -> None:
    """Arrays of some size go into a file in memory, whose descriptor is sent along."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    if not FORKS or sum(a.nbytes for a in arrays) < _LARGE:
        body, arrays = pickle.dumps(value, protocol=5), []
    head = pickle.dumps((body, [a.nbytes for a in arrays]))
    to.sendall(_LENGTH.pack(len(head)) + head)
    if arrays:
        file = os.memfd_create("clips")
        try:
            for begin, array in zip(_begins([a.nbytes for a in arrays])[0], arrays, strict=True):
                while array.nbytes:  # the system writes 2 GiB at most
                    written = os.pwrite(file, array, begin)
                    begin, array = begin + written, array[written:]
            socket.send_fds(to, [b"f"], [file])
        finally:
            os.close(file)


def _received(source: socket.socket) -> object:
    length, = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    body, sizes = pickle.loads(_exactly(source, length))
    buffers = []
    if sizes:
        files = socket.recv_fds(source, 1, 1)[1]
        if not files:
            raise EOFError
        begins, total = _begins(sizes)
        try:
            shared = torch.from_file(f"/proc/self/fd/{files[0]}", shared=True, size=total, dtype=torch.uint8).numpy()
        finally:
            os.close(files[0])
        buffers = [shared[begin : begin + size] for begin, size in zip(begins, sizes, strict=True)]
    return pickle.loads(body, buffers=buffers)


def _begins(sizes: list[int]) -> tuple[list[int], int]:
    """Where arrays of so many bytes begin in a file, and its length."""
    begins, total = [], 0
    for size in sizes:
        begins.append(total)
        total += -(-size // _ALIGNED) * _ALIGNED
    return begins, total


def _exactly(source: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        more = source.recv(min(length - len(data), 1 << 20))
        if not more:
            raise EOFError
        data += more
    return bytes(data)
