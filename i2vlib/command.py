"""The command line, `i2v COMMAND ...` or `python -m i2vlib.command COMMAND ...`:

    presets      what can be trained, or one preset and its protocol as a table
    train        a preset on the embedded clips or on list files; goes on where it stopped
    evaluate     a checkpoint on a list, with as many views and processes as wanted
    predict      a checkpoint on a file or a folder of videos, as one table
    merge        adapters into the weights they stand at
    export       one ONNX file for a server
    fetch        a real image tower, without a hub
    check-data   every file of a list

Every field of the configurations is an option: `i2v train zeroi2v-mini-motion --help` lists them with the preset's values.
What is wrong with an input is said in one line, and the exit status is then 2.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path

from i2vlib.config import ConfigError, ModelConfig
from i2vlib.files import whole_file
from i2vlib.protocol import ClipConfig, TrainConfig


@dataclass(frozen=True)
class Run:
    """What a training run is made of."""

    model: ModelConfig
    clip: ClipConfig
    train: TrainConfig


@dataclass(frozen=True)
class Views:
    """How clips are cut for a test."""

    clip: ClipConfig


# ---- commands ----

def presets(arguments: Sequence[str]) -> None:
    """Print the names of all presets, or one preset and its protocol."""
    from i2vlib.presets import PRESETS, PROTOCOLS, protocol_for

    parser = _parser("presets", "the presets; with a name what it stands for, a field a line")
    parser.add_argument("name", nargs="?", default="", help="of a preset; or a text that names are to hold")
    name = parser.parse_args(arguments).name
    if name in PRESETS:
        recipe = PROTOCOLS[protocol_for(name)]
        rows = _flat(asdict(Run(PRESETS[name], recipe.clip, recipe.train)))
        print(f"{name}, protocol {protocol_for(name)}\n", *(f"{key:34} {value}" for key, value in rows), sep="\n")
        return
    found = {preset: config for preset, config in PRESETS.items() if name in preset}
    if not found:
        raise ConfigError(f"no preset has {name!r} in its name: i2v presets lists all {len(PRESETS)}")
    for preset, config in found.items():
        print(f"{preset:36} {config.frames:3} frames  {config.adaptation.kind:10} protocol {protocol_for(preset)}")


def train(arguments: Sequence[str]) -> None:
    """Train, test once, merge what merges; the folder then holds settings.json, metrics.json, best.safetensors and
    merged.safetensors."""
    import torch

    from i2vlib.course.settings import read_metrics, read_sets, settle, write_json
    from i2vlib.tower.checkpoints import save_checkpoint
    from i2vlib.tower.classifier import build_model, merge
    from i2vlib.training.evaluate import evaluate as score
    from i2vlib.training.train import train as fit

    parser = _parser("train", "train a preset; the same call goes on where it stopped", add_help=False)
    parser.add_argument("preset", nargs="?", default="", help="one of `i2v presets`; with --help: all its fields")
    parser.add_argument("--out", default="", help="folder of the run")
    parser.add_argument("--protocol", default="", help="another than the preset's own")
    parser.add_argument("--weights", default="", help="of the image tower: a tag, a name or a file")
    parser.add_argument("--quick-gelu", choices=("true", "false"), help="for a file of weights that does not say it")
    parser.add_argument("--train-list", default="", help="none: the embedded clips")
    parser.add_argument("--val-list", default="", help="chooses the best step")
    parser.add_argument("--test-list", default="", help="is scored once, at the end")
    parser.add_argument("--data-root", default="", help="the folder that the paths in the lists start from")
    parser.add_argument("--first-label", type=int, default=0)
    given, rest = parser.parse_known_args(arguments)
    if not given.preset:
        parser.print_help()
        sys.exit(0 if rest else 2)
    named = {key: value for key, value in vars(given).items() if key not in ("out", "quick_gelu")}
    settings = settle(**named, quick_gelu=None if given.quick_gelu is None else given.quick_gelu == "true")
    run = _overridden(Run(settings.model, settings.clip, settings.train), rest, parser)
    if not given.out:
        raise ConfigError("--out is missing: the folder of the run")
    if (run.clip.frames, run.clip.size) != (run.model.frames, run.model.tower.image_size):
        raise ConfigError(f"clip.frames and clip.size are {run.clip.frames} and {run.clip.size}, model.frames and model.tower."
                          f"image_size {run.model.frames} and {run.model.tower.image_size}: allowed is the same")
    settings, sets = read_sets(replace(settings, **vars(run)))
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "settings.json", settings.to_dict())
    torch.manual_seed(settings.train.seed)  # the head and adapters of a run that is gone on with are drawn as they were
    model = build_model(settings.model, settings.weights)
    summary = fit(model, sets.train, settings.train, out, val_set=sets.val)
    if int(os.environ.get("RANK", "0")):
        return  # one process tests and writes
    result = score(model, sets.test, batch_size=settings.train.batch_size, workers=settings.train.workers)
    test = {"tested": sets.tested, "clips": len(result.labels), "top1": result.top1, "top5": result.top5}
    write_json(out / "metrics.json", {"test": test, "validation": read_metrics(out, "val"), "summary": summary})
    last = merge(model) if settings.model.adaptation.merges else model
    save_checkpoint(last, out / "merged.safetensors", clip=settings.clip, class_names=sets.names)
    print(f"top-1 {result.top1:.4f} on {len(result.labels)} clips ({sets.tested}); {out / 'merged.safetensors'}")


def evaluate(arguments: Sequence[str]) -> None:
    """Score a checkpoint on a list, on all processes that torchrun started."""
    from accelerate import Accelerator

    from i2vlib.course.settings import write_json
    from i2vlib.data.datasets import VideoDataset
    from i2vlib.training.evaluate import evaluate as score

    parser = _parser("evaluate", "score a checkpoint on a list file; under torchrun its processes share the clips",
                     add_help=False)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("--data-root", type=Path, default=Path(), help="the folder that the paths in the list start from")
    parser.add_argument("--first-label", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=8, help="clips, whose views go through the model together")
    parser.add_argument("--workers", type=int, default=4, help="processes that decode")
    parser.add_argument("--out", type=Path, help="a JSON file: top-1, top-5, top-1 of each class, files that could not be read")
    given, rest = parser.parse_known_args(arguments)
    model, clip, names = _loaded(given.checkpoint)
    clip = _overridden(Views(clip), rest, parser).clip
    dataset = VideoDataset(given.list, given.data_root, clip, train=False, first_label=given.first_label)
    accelerator = Accelerator()
    result = score(model.to(accelerator.device), dataset, batch_size=given.batch_size, workers=given.workers,
                   accelerator=accelerator)
    if not accelerator.is_main_process:
        return
    print(f"top-1 {result.top1:.4f}, top-5 {result.top5:.4f} on {len(result.labels)} clips, "
          f"{clip.test_clips * clip.test_crops} views each")
    if given.out:
        write_json(given.out, {"clips": len(result.labels), "top1": result.top1, "top5": result.top5, "clip": clip.to_dict(),
                               "per_class": dict(zip(names, _numbers(result.per_class), strict=True)),
                               "bad_files": result.bad_files})


def predict(arguments: Sequence[str]) -> None:
    """What a checkpoint says of a file, or of every video below a folder, as CSV or JSON. A bad file is a row with its error."""
    from tqdm.auto import tqdm

    from i2vlib import own_video
    from i2vlib.data.folders import videos_in
    from i2vlib.data.video import VideoError

    parser = _parser("predict", "the model's answers, a line a video: path, class, probability, error", add_help=False)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("videos", type=Path, help="a file, or a folder with videos anywhere below it")
    parser.add_argument("--out", type=Path, help="a .csv, or a .json with all probabilities; default: CSV to the terminal")
    given, rest = parser.parse_known_args(arguments)
    model, clip, names = _loaded(given.checkpoint)
    clip = _overridden(Views(clip), rest, parser).clip
    if given.out and given.out.suffix not in (".csv", ".json"):
        raise ConfigError(f"--out {given.out}: allowed is a name that ends in .csv or .json")
    rows, root = [], given.videos if given.videos.is_dir() else given.videos.parent
    for path in tqdm(videos_in(given.videos), unit="video", disable=None):
        row = {"path": path.relative_to(root).as_posix(), "class": "", "probability": "", "error": ""}
        try:
            said = own_video.predict(model, path, clip, names)
        except VideoError as error:
            row["error"] = str(error)
        else:
            row |= {"class": names[said.best], "probability": round(said.probabilities[said.best].item(), 6)}
            row |= {"probabilities": dict(zip(names, _numbers(said.probabilities), strict=True))}
        rows.append(row)
    _write_rows(rows, given.out)
    if bad := sum(bool(row["error"]) for row in rows):
        print(f"{bad} of {len(rows)} could not be read", file=sys.stderr)


def merge(arguments: Sequence[str]) -> None:
    """Write a checkpoint without its adapters, after comparing both models on a clip drawn at random."""
    import torch

    from i2vlib.tower.checkpoints import save_checkpoint
    from i2vlib.tower.classifier import merge as merged
    from i2vlib.tower.export import relative

    (model, clip, names), out = _loaded_for("merge", "fold adapters into the weights they stand at", arguments)
    plain, size = merged(model), model.config.tower.image_size
    video = torch.randn(2, model.config.frames, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = relative(plain(video), model(video))
    save_checkpoint(plain, out, clip=clip, class_names=names)
    print(f"{out}: outputs differ by at most {difference:.1e} of the largest")


def export(arguments: Sequence[str]) -> None:
    """Write a checkpoint as ONNX, compared with the model where onnxruntime is here."""
    from i2vlib.tower.export import export_onnx

    (model, clip, names), out = _loaded_for("export", "merge, and write one ONNX file for a server", arguments)
    difference = export_onnx(model, out, clip, names)
    print(out if difference is None else f"{out}: outputs differ by at most {difference:.1e} of the largest")


def _of(module: str) -> Callable[[Sequence[str]], int]:
    """The command that a module of the library is by itself."""
    return lambda arguments: import_module(module).main(list(arguments))


COMMANDS: dict[str, Callable] = {"presets": presets, "train": train, "evaluate": evaluate, "predict": predict, "merge": merge,
                                 "export": export, "fetch": _of("i2vlib.fetch"), "check-data": _of("i2vlib.data.preflight")}


# ---- what they share ----

def _parser(command: str, what: str, **how) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"i2v {command}", description=what, allow_abbrev=False, **how)


def _overridden(default, arguments: list[str], parser: argparse.ArgumentParser):
    """A configuration with the fields that options name, such as --train.lr 1e-3. Behind --help both lists of options."""
    import tyro

    if {"-h", "--help"} & set(arguments):
        parser.print_help()
    return tyro.cli(tyro.conf.AvoidSubcommands[type(default)], prog=parser.prog, args=arguments, default=default)


def _loaded(checkpoint: Path) -> tuple:
    """Its model, how its clips are cut, and its classes' names or numbers."""
    from i2vlib.protocol import clip_for
    from i2vlib.tower.checkpoints import checkpoint_info, load_checkpoint

    model, about = load_checkpoint(checkpoint), checkpoint_info(checkpoint)
    clip = ClipConfig.from_dict(about["clip"]) if about["clip"] else clip_for(model.config.tower, frames=model.config.frames)
    return model, clip, tuple(about["class_names"]) or tuple(map(str, range(model.config.classes)))


def _loaded_for(command: str, what: str, arguments: Sequence[str]) -> tuple[tuple, Path]:
    """_loaded of the first argument, and the second, which is to be written."""
    parser = _parser(command, what)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path, help="the new file")
    given = parser.parse_args(arguments)
    return _loaded(given.checkpoint), given.out


def _write_rows(rows: list[dict], out: Path | None) -> None:
    if out and out.suffix == ".json":
        text = json.dumps(rows, indent=1) + "\n"
    else:
        made = io.StringIO()
        writer = csv.DictWriter(made, ("path", "class", "probability", "error"), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = made.getvalue()
    if out is None:
        sys.stdout.write(text)
    else:
        with whole_file(out) as file:
            file.write(text.encode())


def _numbers(values) -> list[float]:
    return [round(value, 6) for value in values.tolist()]


def _flat(facts: dict, front: str = "") -> list[tuple[str, object]]:
    """Fields of dataclasses as options name them: model.temporal.offsets."""
    pairs = [(f"{front}{key}", value) for key, value in facts.items()]
    return [row for key, value in pairs for row in (_flat(value, f"{key}.") if isinstance(value, dict) else [(key, value)])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0, its own status, or 2 where an input is wrong."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    try:
        return COMMANDS[arguments[0]](arguments[1:]) or 0
    except (ValueError, OSError, ImportError, RuntimeError) as error:  # the library's own errors are of these kinds
        print(f"i2v {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
