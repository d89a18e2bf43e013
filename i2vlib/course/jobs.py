"""Long experiments as jobs whose rows go into one JSON file: done once, side by side, gone on with after whatever stopped them.

A run that is in the file already is not repeated, so a call that was interrupted, by Ctrl-C or killed, goes on where it stopped.
Calls side by side share the jobs: each row is merged into the file under a lock, and what another call is at is left to it. The
processes that train end with the one that started them, however it ends. Each job uses one thread: two side by side are faster
than one on two.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

import torch
from filelock import FileLock
from tqdm.auto import tqdm

from i2vlib.files import whole_file
from i2vlib.training.lock import Lock

Job = tuple  # of strings and numbers: what is to be measured
JobOf = Callable[[dict], Job | None]  # a row -> the job that it answers, None for a job of no list of today


def load_rows(path: Path) -> list[dict]:
    """The rows measured so far."""
    return json.loads(path.read_text()) if path.exists() else []


def wanted(rows: Sequence[dict], job_of: JobOf) -> dict[Job, dict]:
    """Rows by the job that they answer; those of other runs or lengths are left out."""
    return {job: row for row in rows if (job := job_of(row)) is not None}


def record(row: dict, path: Path, job_of: JobOf, order: Callable[[Job], object]) -> None:
    """Merge a row into the file, in order: what other calls wrote meanwhile stays, and no reader meets half a file."""
    with FileLock(str(path.with_name(f".{path.name}.lock"))):
        rows = wanted(load_rows(path), job_of) | {job_of(row): row}
        rows = [rows[job] for job in sorted(rows, key=order)]
        with whole_file(path) as file:
            file.write(("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n").encode())


def measure(job: Job, path: Path, run: Callable[..., dict], job_of: JobOf, order: Callable[[Job], object]) -> dict | None:
    """Do one job and record its row; None where another call has done it or is at it."""
    lock = Lock(path.with_name(f".{path.name}.{'-'.join(map(str, job))}.lock"))
    if lock.take():
        return None
    try:
        if job in wanted(load_rows(path), job_of):
            return None
        row = run(*job)
        record(row, path, job_of, order)
        return row
    finally:
        lock.release()
        with suppress(OSError):
            lock.path.unlink()


def measure_all(todo: Sequence[Job], path: Path, measure_one: Callable[[Job, Path], dict | None], job_of: JobOf,
                processes: int) -> list[Job]:
    """Do the jobs that are left in so many processes, printing each row. Ctrl-C ends them with a message and exit status 1.

    A job that fails is named, and the others go on; returns the jobs that failed. A process that dies ends all.
    """
    failed = []
    try:
        with _workers(processes) as pool:
            running = {pool.submit(partial(measure_one, job, path)): job for job in todo}
            for future in tqdm(as_completed(running), total=len(running), desc="runs"):
                try:
                    if row := future.result():
                        tqdm.write(json.dumps(row))
                except BrokenProcessPool:
                    raise
                except Exception as error:
                    failed.append(running[future])
                    tqdm.write(f"failed: {' '.join(map(str, running[future]))}: {type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"stopped: {len(wanted(load_rows(path), job_of))} runs are in {path}; the same call goes on from there")
    left = set(todo) - set(wanted(load_rows(path), job_of)) - set(failed)
    if left:
        print(f"{len(left)} runs are left to another call, which is at them: {sorted(left)[0]} and on")
    return failed


def finish(failed: Sequence[Job]) -> None:
    """Exit status 1 with a line where jobs failed, at the end of a call that did the others."""
    if failed:
        sys.exit(f"{len(failed)} run(s) failed, named above; the same call tries them again")


def _begin(folder: str) -> None:
    """In a process that trains: one thread, the end of the process that started it is its own, Ctrl-C is for that one."""
    tempfile.tempdir = folder
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


@contextmanager
def _workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that train; on the way out by an error, Ctrl-C or SIGTERM they are ended at once."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:  # for what they were writing
        pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin, (folder,))
        try:
            yield pool
        except BaseException:
            for process in multiprocessing.active_children():
                process.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            signal.signal(signal.SIGTERM, before)
