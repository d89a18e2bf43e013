"""Which processes a run has, and what signals do to it; runs of two processes are in test_train.py."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from _train_victim import TRAIN, TinySet, tiny_model

from i2vlib.config import ConfigError
from i2vlib.training import processes
from i2vlib.training.processes import Interrupts, launched, make_accelerator
from i2vlib.training.train import train

LAUNCHERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMPI_COMM_WORLD_SIZE",
             "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "ACCELERATE_USE_CPU")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_what_launchers_say(alone):
    assert launched() == (1, "no launcher")
    for name in ("SLURM_STEP_NUM_TASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "WORLD_SIZE"):  # the later is believed
        alone.setenv(name, "4")
        assert launched() == (4, name)
    alone.setenv("WORLD_SIZE", "1")
    assert launched() == (1, "WORLD_SIZE")
    for bad in ("two", "0", "-1", "2.0"):
        alone.setenv("WORLD_SIZE", bad)
        with pytest.raises(ConfigError, match=f"WORLD_SIZE = '{bad}': allowed is a number of processes"):
            launched()


@pytest.mark.parametrize("given, message", [
    ({"WORLD_SIZE": "2"}, r"WORLD_SIZE = 2, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set: allowed is `torchrun"),
    ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}, "but MASTER_PORT not set"),
    ({"SLURM_STEP_NUM_TASKS": "4"}, r"SLURM_STEP_NUM_TASKS says 4 processes, but this one is number 0 of 1: .*WORLD_SIZE=1 "),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE says 2 processes, but this one is number 0 of 1"),
])
def test_processes_that_do_not_know_of_each_other_stop_at_once(alone, tmp_path, given, message):
    for name, value in given.items():
        alone.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        train(tiny_model(), TinySet(), TRAIN, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    alone.setenv("WORLD_SIZE", "1")  # each a run of its own, on purpose
    assert make_accelerator("no").num_processes == 1


def test_more_processes_than_gpus(alone):
    alone.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        alone.setenv(name, value)
    with pytest.raises(ConfigError, match=r"2 processes .* has 1 GPU\(s\): allowed is torchrun --nproc-per-node 1, or CUDA"):
        make_accelerator("no")


def raised(work) -> str:
    """The name of what is raised."""
    try:
        work()
    except BaseException as error:
        return type(error).__name__
    return ""


def send(number: int) -> str:
    """What a signal raises here."""
    return raised(lambda: signal.raise_signal(number))


@pytest.fixture
def interrupts(request):
    made = Interrupts(*getattr(request, "param", ()))
    made.install()
    yield made
    made.remove()


def test_a_signal_outside_of_whole_work_stops_at_once(interrupts):
    assert send(signal.SIGTERM) == "SystemExit" and not interrupts.broken
    assert send(signal.SIGTERM) == ""  # while the state is saved: nothing breaks in


def test_a_signal_in_whole_work_waits_for_its_end(interrupts):
    done = []

    def work():
        with interrupts.whole():
            assert send(signal.SIGTERM) == send(signal.SIGTERM) == ""
            done.append(1)

    assert raised(work) == "SystemExit" and done and not interrupts.broken


def test_only_a_second_ctrl_c_a_second_later_breaks_in(interrupts, monkeypatch):
    clock = iter([10.0, 10.5, 11.5, 11.6])
    monkeypatch.setattr(processes.time, "monotonic", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt), interrupts.whole():
        assert send(signal.SIGINT) == ""
        assert send(signal.SIGINT) == ""  # torchrun passes on what the terminal has sent already
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it goes on")
    assert interrupts.broken


@pytest.mark.parametrize("interrupts", [(True,)], indirect=True)
def test_one_of_several_stops_where_all_have_agreed(interrupts):
    assert send(signal.SIGTERM) == "" and interrupts.asked
    with interrupts.whole():
        pass

    def agree():
        with interrupts.whole():
            interrupts.agreed = True

    assert raised(agree) == "SystemExit"
    other = Interrupts(True)  # one that was not asked itself
    other.agreed = True
    with pytest.raises(SystemExit), other.whole():
        pass


@pytest.mark.parametrize("interrupts", [(True,)], indirect=True)
def test_one_of_several_stops_at_once_where_it_only_tests(interrupts):
    with pytest.raises(SystemExit), interrupts.apart():
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit), interrupts.apart():  # asked before
        raise AssertionError("it goes on")
    assert interrupts.together


def test_what_is_ignored_stays_ignored_and_handlers_come_back():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as under nohup
    try:
        interrupts = Interrupts()
        interrupts.install()
        assert signal.getsignal(signal.SIGINT) == interrupts._handle and signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        interrupts.remove()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_thread_sets_no_handlers(tmp_path):
    before, found = signal.getsignal(signal.SIGTERM), []

    class Watching(TinySet):
        memory = range(20)  # it is read in this process

        def __getitem__(self, i):
            found.append(signal.getsignal(signal.SIGTERM))
            return super().__getitem__(i)

    config = TRAIN.from_dict(TRAIN.to_dict() | {"steps": 1})
    thread = threading.Thread(target=train, args=(tiny_model(), Watching(), config, tmp_path), kwargs={"progress": False})
    thread.start()
    thread.join()
    assert found and set(found) == {before} and (tmp_path / "model.safetensors").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_that_was_forked_meanwhile_ends_as_it_would(interrupts):
    child = os.fork()
    if child == 0:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
