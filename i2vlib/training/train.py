"""Training: one loop on Accelerate. One CPU, one GPU, many GPUs and many nodes are the same call.

What a run keeps in its folder `out` (which all processes of the run must see):

    state.pt             all that the run needs to go on: written whole or not at all, read without running code
    running.lock         locked while a run is under way; running.lock.json then says which
    metrics.jsonl        one line a step, one line an evaluation
    tb/                  the same for TensorBoard
    best.safetensors     the model with the best top-1 on the validation set, where there is one
    model.safetensors    the model at the end

Why a resumed run equals an uninterrupted one: see i2vlib.training.state.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from i2vlib.data import loading
from i2vlib.data.survival import load
from i2vlib.protocol import TrainConfig
from i2vlib.tower.checkpoints import save_checkpoint
from i2vlib.tower.modes import recomputing
from i2vlib.training import runs
from i2vlib.training.evaluate import evaluate
from i2vlib.training.features import check_clips
from i2vlib.training.mixing import mix_clips
from i2vlib.training.runs import TrainingError
from i2vlib.training.state import SavedRun
from i2vlib.training.unreadable import UnreadableError, too_many


def train(model: nn.Module, train_set, config: TrainConfig, out: str | Path, *, val_set=None, resume: bool = True,
          progress: bool = True) -> dict:
    """Train what requires gradients in `model`, in place, by AdamW after `config`; returns a summary of the run.

    model(video (B, T, 3, S, S)) -> logits (B, classes), with .config a ModelConfig. Items of train_set are dicts as in
    i2vlib.training.evaluate; clips of weight 0 could not be read: they are left out of the loss, named once and counted. Each
    optimiser step takes batch_size clips, each `repeats` times; a run has ceil(epochs · clips / batch_size) steps, or
    `steps`. val_set is evaluated at the end, and each validate_every steps or, when training by epochs, after each pass.

    A run that stopped for whatever reason goes on from out/state.pt with the same call; a finished one loads its final
    weights and returns its summary. `model` must then be built anew as it was, from the same image weights and seed, or
    be the one that train() left. resume=False discards what is there. Ctrl-C, SIGTERM, SIGHUP and errors save the state where it
    is sound; SIGTERM then raises SystemExit(143). The model is left on its device, in eval mode.

    All processes that torchrun or `accelerate launch` started train one run, with a GPU and without. One that is resumed by
    another number of them is the same run or refused: see i2vlib.training.state. Raises ConfigError (a setting that does not
    fit; clips with another mean or std than the tower's; settings, a set or initial weights that are not those of the saved
    run; a folder with what another run left and no state to go on from; processes that were launched and cannot be joined),
    ValueError (an empty set, labels that the model does not have), UnreadableError, a ValueError (files that are not there,
    found before the first step, or more than max_unreadable of the clips unreadable, or all of the first 32), TrainingError (a
    loss that is not finite; a folder that another run holds), LoadingError (no process can be started to read clips, or no clip
    shows what an item looks like).
    """
    return run_through(Run, model, train_set, config, Path(out), val_set, resume, progress)


def run_through(kind: type[Run], model: nn.Module, train_set, config: TrainConfig, out: Path, val_set, resume: bool,
                progress: bool) -> dict:
    """What train() says, by a run of that kind: i2vlib.detection has one with another loss."""
    check_clips(model, train_set, config)
    if val_set is not None:
        check_clips(model, val_set)
        loading.check_labels(val_set, model.config.classes)
    loading.check_labels(train_set, model.config.classes)
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices):  # the caller's random numbers stay as if nothing had been trained
        run = kind(model, train_set, config, out, val_set, progress)
        try:
            run.start(resume)
            return run.go()
        finally:
            run.close()


class Run(SavedRun):
    """One training run: the loop over what is saved."""

    def go(self) -> dict:
        """Train to the end, or return the summary of a run that had come there."""
        if self.summary is None:
            self.interrupts.install()
            try:
                with self._attention(), recomputing(self.bare) if self.config.recompute else nullcontext():
                    self._loop()
                self._finish()
            except BaseException as error:  # Ctrl-C too
                if not self.interrupts.broken and self.step > self.saved:
                    self.save()
                if self.interrupts.agreed:  # the others wait until the state is written
                    self.accelerator.wait_for_everyone()
                if isinstance(error, SystemExit) and self.rank == 0:
                    tqdm.write(f"stopped by a signal: {self._last_sound()}")
                raise
        return self.summary

    def _attention(self) -> AbstractContextManager:
        """In bf16 on a CPU attention is plain products: the backward pass of PyTorch's fused one takes five times as long."""
        slow = self.accelerator.device.type == "cpu" and self.config.precision == "bf16"
        return sdpa_kernel(SDPBackend.MATH) if slow else nullcontext()

    def _loop(self) -> None:
        config, repeated = self.config, loading.Repeated(self.train_set)
        self.batches.start = self.step
        stream = load(repeated, self.batches, config.workers, self.bad)
        bar = tqdm(total=self.total, initial=self.step, desc="train", unit="step",
                   disable=not self.progress or self.rank > 0)
        self.net.train()
        self.clock = time.perf_counter()
        with bar, closing(stream):
            while True:
                if self.step == self.total:
                    self._check_readable(done=True)
                if self._evaluation_due():
                    self._evaluate()
                if self.step == self.total:
                    return
                if self.step % config.save_every == 0 and self.step > self.saved:
                    with self.interrupts.whole():
                        self.save()
                micro_batches = [next(stream) for _ in range(config.accumulate)]
                with self.interrupts.whole():
                    self._update(micro_batches)
                bar.update()
                bar.set_postfix(loss=f"{self.metrics['loss']:.3f}", refresh=False)

    def _update(self, micro_batches: list[dict]) -> None:
        """One optimiser step. Every readable clip counts the same, in whichever micro-batch and process it is."""
        config, readable = self.config, sum(batch["weight"].sum().item() for batch in micro_batches)
        readable, stop = self._sum(readable, bool(self.interrupts.asked))
        self.interrupts.agreed = stop > 0
        if readable < config.batch_size * config.repeats:
            self._note(micro_batches)
            self._check_readable(done=False)
        losses = []
        for micro, batch in enumerate(micro_batches):
            torch.manual_seed(loading.mix(config.seed, self.step, micro * self.world + self.rank, 0))
            last = micro == config.accumulate - 1
            with nullcontext() if last else self.accelerator.no_sync(self.net):
                losses.append(self._losses(batch))
                # processes average their gradients, so each gives `world` times its part of the sum
                self.accelerator.backward(losses[-1].sum() * self.world / max(readable, 1))
        loss = self._sum(torch.stack([x.detach().sum() for x in losses]).sum())[0] / max(readable, 1)
        if not math.isfinite(loss):
            raise self._not_finite(loss, micro_batches, losses)
        if config.clip_norm:
            self.accelerator.clip_grad_norm_(self.net.parameters(), config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        rate = max(self.schedule.get_last_lr())
        self.schedule.step()
        self.step += 1
        self._log_step(loss, rate)

    def _losses(self, batch: dict) -> Tensor:
        """(B,) cross-entropy of each clip, 0 for the unreadable."""
        config, classes, device = self.config, self.model.config.classes, self.accelerator.device
        loading.check_batch(batch, classes, self.step + 1)
        video, target = (batch[name].to(device, non_blocking=True) for name in ("video", "label"))
        video = video[:, 0]  # training items have one view
        if config.mixup or config.cutmix:
            video, target = mix_clips(video, target, batch["weight"], classes, config.mixup, config.cutmix)
        logits = self.net(video).float()
        loss = F.cross_entropy(logits, target, reduction="none", label_smoothing=config.label_smoothing)
        return torch.where((batch["weight"] > 0).to(device), loss, torch.zeros_like(loss))

    def _log_step(self, loss: float, rate: float) -> None:
        elapsed = self._tick()
        self.metrics = {"epoch": round(self.step * self.config.batch_size / len(self.train_set), 4), "loss": loss,
                        "lr": rate, "clips_per_second": round(self.config.batch_size / elapsed, 2),
                        "bad_files": len(self.bad)}
        if self.log:
            self.log.write("train", self.step, **self.metrics)

    def _evaluation_due(self) -> bool:
        if self.val_set is None or self.evaluated == self.step:
            return False
        every = self.config.validate_every
        if every:
            return self.step == self.total or (self.step > 0 and self.step % every == 0)
        passes = [step * self.config.batch_size // len(self.train_set) for step in (self.step - 1, self.step)]
        return self.step == self.total or (not self.config.steps and passes[0] < passes[1])

    def _evaluate(self) -> None:
        with self.interrupts.apart():
            scores, bad_files = self._tested(
                batch_size=max(1, self.batches.size), workers=self.config.workers, progress=self.progress,
                accelerator=self.accelerator, named=self.bad, max_unreadable=self.config.max_unreadable)
        with self.interrupts.whole():
            self.bad.update(bad_files)
            main = next(iter(scores))
            if self.best is None or scores[main] > self.best[main]:
                self.best = {"step": self.step, **scores}
                self._save_model(runs.BEST)
            if self.log:
                self.log.write("val", self.step, epoch=self.metrics["epoch"], **scores, bad_files=len(self.bad))
            self.evaluated, self.scores = self.step, scores
            self._tick()

    def _tested(self, **how) -> tuple[dict[str, float], dict[str, str]]:
        """Scores on the validation set, the first of which chooses the best step, and the files that could not be read."""
        result = evaluate(self.model, self.val_set, **how)
        return {"top1": result.top1, "top5": result.top5}, result.bad_files

    def _finish(self) -> None:
        with self.interrupts.whole():
            self._save_model(runs.FINAL)
            trains = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
            self.summary = {
                "steps": self.step, "epochs": self.metrics["epoch"], "loss": self.metrics["loss"], **self.scores,
                "best": self.best, "bad_files": self.bad, "trainable_parameters": trains,
                "precision": self.accelerator.mixed_precision, "processes": self.world,
                "seconds": round(self.seconds, 2),
            }
            self.save()
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Give the model back without what Accelerate put on it, in eval mode, and let go of the rest, the folder too."""
        self.interrupts.remove()
        if self.log:
            self.log.close()
        put = vars(self.bare)  # a copy would call the first model
        put.pop("_is_accelerate_prepared", None)
        put.pop("forward", None)
        before = put.pop("_original_forward", None)
        if self.bare is not self.model and before is not None:
            vars(self.model)["forward"] = before  # torch.compile's wrapper has one of its own
        self.model.eval()
        self.accelerator.free_memory()
        self.lock.release()

    def _save_model(self, name: str) -> None:
        if self.rank == 0:
            save_checkpoint(self.model, self.out / name, clip=getattr(self.train_set, "clip", None),
                            class_names=tuple(getattr(self.train_set, "class_names", ())))

    # -- small things

    def _sum(self, *values) -> list[float]:
        """The sums of numbers over all processes."""
        values = torch.tensor(values, dtype=torch.float32, device=self.accelerator.device)
        return self.accelerator.reduce(values, "sum").tolist()

    def _check_readable(self, done: bool) -> None:
        tried = self.step if done else self.step + 1  # a clip is tried once a pass, so those tried are known from the step
        reason = too_many(self.train_set, list(self.unreadable.values()), tried * self.config.batch_size,
                          self.config.max_unreadable, done)
        if reason:
            raise UnreadableError(f"training set, step {tried}: {reason}. No model was written")

    def _note(self, micro_batches: list[dict]) -> None:
        """Count and name the files that are not known as bad yet. All processes come here at the same step."""
        rows = [(index, *pair) for batch in micro_batches for index, pair in zip(
            batch["index"][batch["weight"] == 0].tolist(), loading.bad_clips(self.train_set, batch), strict=True)]
        rows = gather_object(rows) if self.world > 1 else rows
        self.unreadable.update({index: (path, reason) for index, path, reason in rows})
        new = {path: reason for _, path, reason in rows if path not in self.bad}
        self.bad.update(new)
        if self.rank == 0:
            loading.name_bad_files(new)

    def _not_finite(self, loss: float, micro_batches: list[dict], losses: list[Tensor]) -> TrainingError:
        rows = [i for batch, x in zip(micro_batches, losses, strict=True)
                for i in batch["index"][~x.detach().isfinite().cpu()].tolist()]
        rows = gather_object(rows) if self.world > 1 else rows
        clips = loading.clip_names(self.train_set, rows)
        return TrainingError(f"the loss is {loss} in step {self.step + 1}, from {clips}. Look at these clips, lower lr "
                             f"({self.config.lr:g}) or set clip_norm; {self._last_sound()}")

    def _tick(self) -> float:
        """Seconds since the last tick, which are added to the run's."""
        now = time.perf_counter()
        elapsed, self.clock = now - self.clock, now
        self.seconds += elapsed
        return elapsed
