"""A run's state: what it keeps to go on from, written whole or not at all, and how a run takes it up again.

Why a resumed run equals an uninterrupted one: nothing random has a history. Step k takes batch_size clips from place
k·batch_size on of one endless list, pass after pass over the set, each shuffled by (seed, pass). The data set draws
an item's crops from (seed, pass, index). Before a forward pass the generators are seeded from (seed, step, micro-batch).
So the state of the sampler and of every generator is the pair (seed, step), and that is what is saved.

A step is made of accumulate · processes micro-batches, numbered over the processes, and each is seeded by its number. So a run
resumed by another number of processes is the same run, up to the order of sums, where accumulate keeps the product as it was;
where it does not, only if nothing is drawn in a micro-batch: no dropout, no mixup, no cutmix. Else it is refused.
"""

from __future__ import annotations

import time
from pathlib import Path

from accelerate.utils import broadcast_object_list
from torch import nn

from i2vlib.config import ConfigError
from i2vlib.data import loading
from i2vlib.protocol import TrainConfig
from i2vlib.tower.wrappers import unwrapped
from i2vlib.training import processes, runs
from i2vlib.training.lock import Lock
from i2vlib.training.optimiser import make_optimiser
from i2vlib.training.runs import TrainingError
from i2vlib.training.unreadable import check_found


class SavedRun:
    """The model and optimiser on their device, and everything else that the state file of a run holds."""

    def __init__(self, model: nn.Module, train_set, config: TrainConfig, out: Path, val_set, progress: bool):
        self.model, self.train_set, self.val_set = model, train_set, val_set
        self.bare = unwrapped(model)  # torch.compile's wrapper has other names for the weights
        self.config, self.out, self.progress = config, out, progress
        self.accelerator = processes.make_accelerator(config.precision)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.batches = loading.Batches(len(train_set), config, self.rank, self.world)
        self.total = loading.total_steps(len(train_set), config)
        self.inner, self.schedule = make_optimiser(model, config, self.total)
        self.net, self.optimizer = self.accelerator.prepare(model, self.inner)
        self.origin = {"set": runs.set_hash(train_set), "start": runs.weights_hash(self.bare.state_dict())}
        self.interrupts, self.log, self.lock = processes.Interrupts(self.world > 1), None, Lock(out / runs.LOCK)
        self.step = self.saved = self.evaluated = 0  # steps done; at the last save; at the last evaluation
        self.bad, self.best, self.metrics, self.scores, self.summary = {}, None, {}, {}, None
        self.unreadable = {}  # index of a clip of the training set: (path, reason)
        self.clock, self.seconds = time.perf_counter(), 0.0

    def start(self, resume: bool) -> None:
        """Take up the run saved in `out`, or begin a new one there. The folder is this run's until `release`."""
        if not resume or not (self.out / runs.FINAL).exists():  # a finished run needs its videos no more
            check_found(self.train_set, self.config.max_unreadable, "training set")
            check_found(self.val_set, self.config.max_unreadable, "validation set")
        self._hold()
        saved = runs.read_state(self.out) if resume else None
        if resume and saved is None:
            runs.refuse_leftovers(self.out)
        if saved is not None and saved["step"] == 0:  # nothing was learnt yet: begin again, also with other settings
            saved = None
        if saved is not None:
            self._load(saved)
        self.accelerator.wait_for_everyone()  # all have looked before one of them changes the folder
        if self.rank == 0 and self.summary is None:
            runs.clear_parts(self.out)
            if saved is None:
                runs.clear_run(self.out)
                runs.write_state(self.out, self.state())  # marks the folder as this run's, wherever it is killed
            self.log = runs.RunLog(self.out, self.step)

    def _hold(self) -> None:
        """Lock the folder, in one process for all of them. Raises TrainingError, in all, where another run holds it."""
        refused = [""]
        if self.rank == 0:
            self.out.mkdir(parents=True, exist_ok=True)
            refused = [self.lock.take()]
        if self.world > 1:
            broadcast_object_list(refused)
        if refused[0]:
            raise TrainingError(f"{self.out} is held by another run: {refused[0]}. Allowed is another folder, or to wait")

    def _load(self, saved: dict) -> None:
        runs.check_same(saved["model_config"], self.model.config, self.out)
        runs.check_same(saved["train_config"], self.config, self.out)
        runs.check_split(saved, self.config, self.world, self.model, self.out)
        if saved["clips"] != len(self.train_set):
            raise ConfigError(f"the training set has {len(self.train_set)} clips, but that of the run in {self.out} "
                              f"had {saved['clips']}: allowed is the same set to resume it, another folder, or "
                              "resume=False to start anew")
        runs.check_origin(saved, self.origin["set"], self.origin["start"], self.out)
        self.origin["start"] = saved["start"]  # also where the model came as train() had left it
        self.bare.load_state_dict(saved["model"])
        self.inner.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        if self.accelerator.scaler is not None and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.step = self.saved = saved["step"]
        for name in ("evaluated", "bad", "best", "metrics", "scores", "seconds", "summary"):
            setattr(self, name, saved[name])
        self.unreadable = saved.get("unreadable", {})

    def save(self) -> None:
        """Write the state file. Raises TrainingError, keeping the file as it is, if a weight is not finite."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not parameter.isfinite().all():
                raise TrainingError(f"{name} is no longer finite after step {self.step}; {self._last_sound()}")
        if self.rank == 0:
            if self.log:
                self.log.flush()
            runs.write_state(self.out, self.state())
        self.saved = self.step

    def state(self) -> dict:
        """What is saved: tensors, numbers and texts, so that reading it runs no code."""
        scaler, seed = self.accelerator.scaler, self.config.seed
        return {
            "model_config": self.model.config.to_json(), "train_config": self.config.to_json(),
            "clips": len(self.train_set), **self.origin, "step": self.step,
            "model": self.bare.state_dict(), "optimizer": self.inner.state_dict(),
            "schedule": self.schedule.state_dict(), "scaler": scaler.state_dict() if scaler is not None else None,
            "sampler": {"seed": seed, "place": self.step * self.config.batch_size},  # see the top of this file
            "random": {"seed": seed, "step": self.step},
            "evaluated": self.evaluated, "bad": self.bad, "best": self.best, "metrics": self.metrics,
            "scores": self.scores, "seconds": self.seconds, "summary": self.summary,
            "unreadable": self.unreadable, "processes": self.world,
        }

    def _last_sound(self) -> str:
        return f"{self.out / runs.STATE} holds step {self.saved}"
