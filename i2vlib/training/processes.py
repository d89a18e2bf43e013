"""The processes of a run: which there are, and the signals that stop them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import parse_flag_from_env

from i2vlib.config import ConfigError

RENDEZVOUS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what a launcher sets beside WORLD_SIZE


def make_accelerator(precision: str) -> Accelerator:
    """An Accelerator in the precision asked for, whatever an earlier one in this process was.

    Its processes are all that were launched: on GPUs by NCCL, without a GPU by gloo. Raises ConfigError where they cannot be.
    """
    kind = _join().device.type
    if precision == "auto":  # bf16 in hardware from Ampere (8.0) on
        precision = "no" if kind != "cuda" else "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    if precision == "fp16" and kind == "cpu":
        raise ConfigError("TrainConfig.precision = 'fp16': allowed on a CPU is auto, no or bf16")
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision)


def launched() -> tuple[int, str]:
    """How many processes the launcher of this one says there are, and where it says so. Raises ConfigError."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), "torch.distributed"
    for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        value = os.environ.get(name)
        if value:
            if not value.isdecimal() or int(value) < 1:
                raise ConfigError(f"the environment variable {name} = {value!r}: allowed is a number of processes, or unset it")
            return int(value), name
    return 1, "no launcher"


def _join() -> Accelerator:
    """Become one of the processes that were launched, or stop: alone, each would be the first of one, in one folder."""
    count, source = launched()
    gpus = 0 if parse_flag_from_env("ACCELERATE_USE_CPU") else torch.cuda.device_count()
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    if source == "WORLD_SIZE" and 0 < gpus < here:
        raise ConfigError(f"{here} processes were launched on this machine, but it has {gpus} GPU(s): allowed is torchrun "
                          f"--nproc-per-node {gpus}, or CUDA_VISIBLE_DEVICES= in front of it to train on the CPU")
    missing = [name for name in RENDEZVOUS if not os.environ.get(name)]
    if source == "WORLD_SIZE" and count > 1 and missing:  # Accelerate would wait for the others, or take itself for the first
        raise ConfigError(f"WORLD_SIZE = {count}, but {', '.join(missing)} not set: {_remedy(count)}")
    _meet_apart()
    AcceleratorState._reset_state()  # it remembers the first precision; which processes there are stays
    accelerator = Accelerator()
    if accelerator.num_processes != count and not missing and not gpus:  # without a GPU Accelerate joins only if it is told
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True)
    if accelerator.num_processes != count:
        raise ConfigError(f"{source} says {count} processes, but this one is number {accelerator.process_index} of "
                          f"{accelerator.num_processes}: {_remedy(count)}")
    return accelerator


def _meet_apart() -> None:
    """After torchrun has restarted its processes, let them meet under names of their own.

    torchrun keeps one store over all restarts, with the addresses of the dead still in it under the names that the living look
    for: a process that asks before the other has written connects to nobody.
    """
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restart != "0" and not torch.distributed.is_initialized():
        store, rank, count = next(torch.distributed.rendezvous("env://"))
        apart = torch.distributed.PrefixStore(f"restart {restart}", store)
        torch.distributed.init_process_group(store=apart, rank=rank, world_size=count)


def _remedy(count: int) -> str:
    return (f"allowed is `torchrun --nproc-per-node {count}` (under SLURM one such task a node, srun --ntasks-per-node=1), or "
            "WORLD_SIZE=1 in the environment for processes that each train a run of their own, in a folder of their own")


class Interrupts:
    """Holds Ctrl-C and the signals that end a process back while `whole` work is under way: half a step is never saved.

    They then raise KeyboardInterrupt, or SystemExit with the code that shells give (143 for SIGTERM). `together`: one of several
    processes. It notes what was `asked` and stops where all have `agreed` to, or one would save while it waits for another that
    is gone. Only a second Ctrl-C a second later breaks in; `broken` then stays True and nothing is saved. A signal that this
    process ignores (nohup) stays ignored. Handlers are set in the main thread only, and given back by `remove`.
    """

    NAMES = ("SIGINT", "SIGTERM", "SIGHUP")

    def __init__(self, together: bool = False):
        self.broken, self.asked, self.agreed, self.together = False, 0, False, together
        self.since, self.previous, self.process = 0.0, {}, os.getpid()

    @contextmanager
    def whole(self) -> Iterator[None]:
        self.broken = True  # until the end is reached
        yield
        self.broken = False
        if self.agreed or (self.asked and not self.together):
            self._stop()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Stop at once in here, also one of several: nothing changes that is saved."""
        together, self.together = self.together, False
        try:
            if self.asked:
                self._stop()
            yield
        finally:
            self.together = together

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
            return
        for number in (getattr(signal, name) for name in self.NAMES if hasattr(signal, name)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self.previous[number] = signal.signal(number, self._handle)

    def remove(self) -> None:
        while self.previous:
            signal.signal(*self.previous.popitem())

    def _handle(self, number: int, _) -> None:
        if os.getpid() != self.process:  # a process that was forked meanwhile ends as it would
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        now = time.monotonic()
        if self.asked and (number != signal.SIGINT or now - self.since < 1):  # launchers pass one Ctrl-C on, so it comes twice
            return
        second, self.asked, self.since = bool(self.asked), number, now
        if second or not (self.broken or self.together):
            self._stop()

    def _stop(self) -> None:
        self.asked = self.asked or signal.SIGTERM  # another process was asked
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.asked)
