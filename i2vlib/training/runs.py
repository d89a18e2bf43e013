"""The folder of a run: its state file, metrics and TensorBoard, and what is refused because another run left it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from i2vlib.config import Config, ConfigError
from i2vlib.files import whole_file
from i2vlib.protocol import TrainConfig

STATE, METRICS, BOARD, BEST, FINAL = "state.pt", "metrics.jsonl", "tb", "best.safetensors", "model.safetensors"
LOCK = "running.lock"
# fields of TrainConfig that a resumed run may change: no weight depends on the first five, and check_split looks at the last
FREE = ("workers", "save_every", "validate_every", "max_unreadable", "recompute", "accumulate")


class TrainingError(RuntimeError):
    """A run that cannot go on."""


def write_state(out: Path, state: dict) -> None:
    """Replace out/state.pt by a whole new one. Killed at any moment, the old or the new one is there."""
    with whole_file(out / STATE) as file:
        torch.save(state, file)


def read_state(out: Path) -> dict | None:
    """The state that was saved in `out`, tensors on the CPU, or None. Runs no code from it. Raises TrainingError."""
    path = out / STATE
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen kinds
        raise TrainingError(f"{path} cannot be read ({str(error).splitlines()[0]}). Train with resume=False to start "
                            "anew, or into another folder") from error


def refuse_leftovers(out: Path) -> None:
    """Raise ConfigError if `out` holds what a run writes; for a folder without a state file, which can go on nowhere."""
    found = [name for name in (FINAL, BEST, METRICS, BOARD) if (out / name).exists()]
    if found:
        raise ConfigError(f"{out} has no {STATE} to go on from, but holds {', '.join(found)}, which a new run would "
                          "replace: allowed is another folder, or resume=False to discard them")


def clear_run(out: Path) -> None:
    """Make the folder and remove what an earlier run left in it, nothing else."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (STATE, METRICS, BEST, FINAL):  # the state first: without it nothing is left to resume
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / BOARD, ignore_errors=True)


def clear_parts(out: Path) -> None:
    """Remove the files that a killed run was writing: nothing ever reads them."""
    for name in (STATE, METRICS, BEST, FINAL):
        for part in [out / f"{name}.part", *out.glob(f".{name}.*.part")]:  # the first: as they were called once
            part.unlink(missing_ok=True)


def set_hash(dataset) -> str:
    """SHA-256 of what decides the items of a set, where it has them: its list, its clip settings and its seed."""
    entries = [(e.path, e.label, getattr(e, "total_frames", None)) for e in getattr(dataset, "entries", None) or ()]
    clip = getattr(dataset, "clip", None)
    parts = entries, clip.to_json() if clip is not None else None, getattr(dataset, "seed", None)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def weights_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the names and bytes of a state dict, the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_origin(saved: dict, set_now: str, weights_now: str, out: Path) -> None:
    """Raise ConfigError if the run saved in `out` had another training set, or a model that started elsewhere.

    A model that already is where the run was saved (a notebook's cell that is run again) is as good as a new one.
    """
    if saved.get("set") != set_now:
        raise ConfigError(f"the training set's list, clip settings or seed is not that of the run in {out}: allowed is "
                          "the same set to resume it, another folder, or resume=False to start anew")
    if weights_now not in (saved.get("start"), weights_hash(saved["model"])):
        raise ConfigError(f"the model's initial weights are not those of the run in {out}: allowed is a model built as "
                          "it was then (the same image weights, the same torch.manual_seed before it is built) to "
                          "resume it, another folder, or resume=False to start anew")


def check_same(saved: str, config: Config, out: Path) -> None:
    """Raise ConfigError naming the first field in which `config` differs from the JSON saved with the run in `out`."""
    then, now = (json.loads(c.to_json()) for c in (type(config).from_json(saved), config))  # a field that is newer: its default
    for name, old, new in _differences(then, now, type(config).__name__):
        if name.rpartition(".")[2] not in FREE:
            raise ConfigError(f"{name} = {new!r}, but the run in {out} has {old!r}: allowed is the same value to "
                              "resume it, another folder, or resume=False to start anew")


def check_split(saved: dict, config: TrainConfig, world: int, model: nn.Module, out: Path) -> None:
    """Raise ConfigError if a step would be made of other micro-batches than in the run saved in `out`, and draws in them."""
    accumulate = TrainConfig.from_json(saved["train_config"]).accumulate
    then, now = accumulate * saved.get("processes", world), config.accumulate * world
    drops = any(getattr(m, "p", 0) for m in model.modules() if "Drop" in type(m).__name__)
    if then != now and (drops or config.mixup or config.cutmix):
        raise ConfigError(f"TrainConfig.accumulate = {config.accumulate} x {world} process(es) makes {now} micro-batches a step, "
                          f"but the run in {out} has {then}, and draws dropout or mixing in each: allowed is accumulate x "
                          f"processes = {then} to resume it, another folder, or resume=False to start anew")


def _differences(old, new, name: str) -> Iterator[tuple[str, object, object]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}")
    elif old != new:
        yield name, old, new


class RunLog:
    """metrics.jsonl and TensorBoard. What a killed run wrote after `step`, where it resumes, is dropped from both."""

    def __init__(self, out: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter  # seconds to import, needed only here

        path = out / METRICS
        lines = path.read_text().splitlines() if path.exists() else []
        with whole_file(path) as file:
            file.write("".join(f"{line}\n" for line in lines if _step_of(line) <= step).encode())
        self.file = open(path, "a", buffering=1)
        self.board = SummaryWriter(out / BOARD, purge_step=step + 1)

    def write(self, split: str, step: int, **values: float) -> None:
        """One line {"split": train or val, "step": steps done, ...}, and a curve "split/name" for each value."""
        self.file.write(json.dumps({"split": split, "step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(f"{split}/{name}", value, step)

    def flush(self) -> None:
        """Put on disk what was written: before a state is saved, so that its metrics are there when it is resumed."""
        os.fsync(self.file.fileno())
        self.board.flush()

    def close(self) -> None:
        self.file.close()
        self.board.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # the line that was being written when the run was killed
        return float("inf")
