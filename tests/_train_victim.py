"""A tiny model and set for the tests of training, and, run as a script, training processes that are killed on purpose.

    python _train_victim.py killed OUT      an uninterrupted run in OUT/whole, one killed again and again in OUT/killed
    torchrun ... _train_victim.py shared OUT    one run of several processes
    torchrun ... _train_victim.py drawn OUT     the same with dropout and mixup
    torchrun ... _train_victim.py shared OUT 9  its second process gets signal 9 in the middle of step 4, the first time it starts
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

import i2vlib.training.train as train_module
from i2vlib import config
from i2vlib.protocol import TrainConfig
from i2vlib.tower.classifier import VideoClassifier, build_model
from i2vlib.training import runs

MODEL = config.ModelConfig(config.TowerConfig(16, 8, 16, 2, 2, 2.0, 8), config.TemporalConfig((-1, 0), True),
                           config.AdaptationConfig("linear", config.FOUR_ADAPTERS), frames=2, classes=3)
TRAIN = TrainConfig(epochs=3, batch_size=6, accumulate=2, lr=1e-2, warmup=0.2, label_smoothing=0.1,
                    clip_norm=1.0, precision="no", workers=0, save_every=2, seed=7)
# Where the processes of one run are killed, one after the other, and the step that is saved after each. 20 clips, 3
# passes in batches of 6 make 10 steps of two forward passes; evaluations, of three, come after steps 4, 7 and 10.
POINTS = {
    "forward 3": 0,  # in the middle of step 2, before anything that was learnt is saved
    "half-written state 3": 2,  # (the first is that of step 0) while the state of step 4 is being written
    "whole state 2": 4,  # when that of step 6 is on disk under its temporary name
    "evaluation 1": 6,  # after step 7
    "workers 7": 6,  # between the two halves of step 8, with a process that decodes
    "model 1": 8,  # before the final model is written
    "half-written state 1": 8,  # while the final state is being written
}


class TinySet:
    """n noisy clips of three classes, redrawn each pass; those in `bad` cannot be read."""

    def __init__(self, n: int = 20, bad: tuple[int, ...] = (), views: int = 1, seed: int = 0, named: bool = True):
        self.n, self.bad, self.views, self.seed, self.epoch = n, bad, views, seed, 0
        if named:
            self.entries = [SimpleNamespace(path=f"clips/{i}.mp4", label=i % 3) for i in range(n)]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict:
        noise = torch.Generator().manual_seed(self.seed + 1000 * self.epoch + i)
        video = torch.randn(self.views, 2, 3, 16, 16, generator=noise) + i % 3 - 1
        good = i not in self.bad
        return {"video": video * good, "label": i % 3, "index": i, "weight": float(good),
                "error": "" if good else f"clips/{i}.mp4: no video stream"}


def tiny_model(seed: int = 0, **changes) -> VideoClassifier:
    torch.manual_seed(seed)
    return build_model(replace(MODEL, **changes))


def arm(point: str) -> None:
    """Kill this process when it comes to `point` for the given time."""
    name, _, left = point.rpartition(" ")
    left = int(left or 0)
    save, replace_file = torch.save, os.replace

    def strike() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def first_strike(module, attribute: str) -> None:
        original = getattr(module, attribute)
        setattr(module, attribute, lambda *args, **kwargs: (strike(), original(*args, **kwargs))[1])

    def save_in_halves(state, file) -> None:
        file.write(b"half a state")
        file.flush()
        strike()
        file.seek(0)
        save(state, file)

    def strike_before_replacing(source, target) -> None:
        if Path(target).name == runs.STATE:
            strike()
        replace_file(source, target)

    if name == "half-written state":
        torch.save = save_in_halves
    elif name == "whole state":
        os.replace = strike_before_replacing
    elif name == "evaluation":
        first_strike(train_module, "evaluate")
    elif name == "model":
        first_strike(train_module, "save_checkpoint")
    elif name in ("forward", "workers"):
        first_strike(VideoClassifier, "forward")


def child(out: Path, point: str = "") -> int:
    """Train in a forked process; returns how it ended, -9 for killed."""
    pid = os.fork()
    if pid == 0:
        try:
            arm(point)
            train_module.train(tiny_model(), TinySet(bad=(3,)), replace(TRAIN, workers=int("workers" in point)), out,
                  val_set=TinySet(7, seed=500), progress=False)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def share(out: Path, **changes) -> dict:
    """A run whose result does not depend on the number of processes: nothing in it is drawn per micro-batch."""
    model = tiny_model(adaptation=replace(MODEL.adaptation, dropout=0.0), head_dropout=0.0)
    return train_module.train(model, TinySet(bad=(3, 4)), replace(TRAIN, batch_size=8, **changes), out,
                              val_set=TinySet(7, bad=(1,), seed=500), progress=False)


def drawn(out: Path, accumulate: int) -> dict:
    """A run with dropout and mixup: its result depends on the number of micro-batches, accumulate x processes."""
    config = replace(TRAIN, batch_size=8, accumulate=accumulate, mixup=0.8, save_every=100)
    return train_module.train(tiny_model(), TinySet(bad=(3,)), config, out, progress=False)


class Recorded(TinySet):
    """Names the process that reads it, in the folder of the run."""

    def __getitem__(self, i: int) -> dict:
        (Path(sys.argv[2]).parent / f"process {os.getpid()}").touch()
        return super().__getitem__(i)


def strike_second(number: int) -> None:
    """Send a signal to the second process of a run in the middle of step 4, the first time it is started."""
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        calls, forward = iter(range(1, 1000)), VideoClassifier.forward

        def struck(*args):
            if next(calls) == 7:  # two micro-batches a step
                os.kill(os.getpid(), number)
            return forward(*args)

        VideoClassifier.forward = struck


def main(task: str, out: Path, number: str = "") -> None:
    if number:
        (out.parent / f"process {os.getpid()}").touch()
        strike_second(int(number))
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "1" and os.environ["RANK"] == "0":
            time.sleep(2)  # the other asks for the first one's address while only the dead one's is there
    if task == "shared":
        globals()["TinySet"] = Recorded if number else TinySet
        share(out, workers=1 if number else 0)
        return
    if task == "drawn":
        drawn(out, 2)
        return
    assert child(out / "whole") == 0
    for point, step in POINTS.items():
        code, saved = child(out / "killed", point), runs.read_state(out / "killed")
        print(point, "| exit", code, "| step saved", saved and saved["step"], flush=True)
        assert (code, saved and saved["step"]) == (-signal.SIGKILL, step)
    assert child(out / "killed") == 0


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
