"""Run the course and write down what it found: `python -m i2vlib.course.reproduce [--only 00 02] [--out build/reproduce]`.

Every notebook runs in order at its defaults; the executed copies, their HTML and one page of results (`index.html`)
land in the output folder. The exit status is 0 only if every notebook ran and every claim held.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from i2vlib.course.claims import MIME, Claim
from i2vlib.course.results_page import inert_outputs, render
from i2vlib.fetch import for_the_course

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "accelerate", "numpy", "decord", "av", "matplotlib")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Run:
    """What one notebook gave. state: ran | failed | stopped | not run; seconds: wall time; error: '' unless failed."""

    name: str
    title: str
    state: str = "not run"
    seconds: float = 0.0
    claims: list[Claim] = field(default_factory=list)
    results: list[tuple[str, dict]] = field(default_factory=list)  # (heading above the cell, mime bundle)
    error: str = ""


def reproduce(paths: list[Path], out: Path, command: str = "") -> int:
    """Run notebooks in order, stop at the first failure, write executed copies, their HTML and the page into `out`.

    What a notebook writes (its parameter `out`) goes into out/run_NN, which is emptied first: nothing of an earlier run
    is reported as this one's. Returns the exit status: 0 all ran and all claims hold, 1 something failed, 2 there is no
    notebook, 130 interrupted. `command` is shown on the page.
    """
    if not paths:
        print(f"There is no notebook to run. Run this in a checkout of the repository: its notebooks are expected in "
              f"{ROOT / 'notebooks'}, an installed package has none.", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.html").unlink(missing_ok=True)  # a run that is killed must not leave the page of an earlier one
    runs = [Run(p.stem, _title(nbformat.read(p, 4)) or p.stem) for p in paths]
    start = time.time()
    for i, (path, run) in enumerate(zip(paths, runs, strict=True), 1):
        print(f"[{i}/{len(runs)}] {run.name}: {run.title}", flush=True)
        _execute(path, out / path.name, run)
        print(f"      {run.state} after {run.seconds:.0f} s, {_held(run.claims)}", flush=True)
        if run.state != "ran":
            break
    page = out / "index.html"
    page.write_text(render(runs, _machine(time.time() - start, command)), encoding="utf-8")
    return _report(runs, page)


def chosen(notebooks: Path, only: list[str] | None = None) -> list[Path]:
    """The notebooks `NN_*.ipynb` of a folder, in order; `only` keeps those whose names start with one of its entries.

    Raises ValueError for an entry that fits no notebook.
    """
    paths = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    for prefix in only or []:
        if not any(p.name.startswith(prefix) for p in paths):
            names = ", ".join(p.stem for p in paths) or "none"
            raise ValueError(f"--only {prefix}: no such notebook in {notebooks}; there are: {names}")
    return [p for p in paths if not only or p.name.startswith(tuple(only))]


def _execute(path: Path, copy: Path, run: Run) -> None:
    """Run one notebook in its own folder at its defaults but for `out`; fill in `run`, write the executed copy and its HTML."""
    import papermill

    for old in (copy, copy.with_suffix(".html")):
        old.unlink(missing_ok=True)
    start = time.time()
    try:
        papermill.execute_notebook(str(path), str(copy), _fresh_out(path, copy.parent), cwd=str(path.parent),
                                   progress_bar=sys.stderr.isatty(),
                                   extra_arguments=["--IPKernelApp.log_level=CRITICAL"])
        run.state = "ran"
    except KeyboardInterrupt:
        run.state = "stopped"
    except papermill.PapermillExecutionError as error:
        # Ctrl-C reaches the kernel too, and may come back as the cell's own error.
        run.state = "stopped" if error.ename == "KeyboardInterrupt" else "failed"
        trace = ANSI.sub("", "\n".join(error.traceback)).strip()
        run.error = trace or f"{error.ename}: {error.evalue}"
    except Exception as error:  # a dead kernel, an unreadable notebook: the page must still be written, and say so
        run.state, run.error = "failed", f"{type(error).__name__}: {error}"
    run.seconds = time.time() - start
    if copy.exists():
        notebook = nbformat.read(copy, 4)
        run.claims, run.results = collect(notebook)
        copy.with_suffix(".html").write_text(_html(notebook, run), encoding="utf-8")


def _fresh_out(path: Path, out: Path) -> dict[str, str]:
    """The parameter `out` for a notebook that declares one: out/run_NN, made sure not to exist. For others none."""
    import papermill

    if "out" not in papermill.inspect_notebook(str(path)):
        return {}
    folder = out.resolve() / f"run_{path.stem[:2]}"
    if folder.exists():
        shutil.rmtree(folder)
    return {"out": str(folder)}


def collect(notebook) -> tuple[list[Claim], list[tuple[str, dict]]]:
    """The claims of an executed notebook, and what its cells tagged `result` show, each under its nearest heading.

    A result is the mime bundle of a displayed output (figure, table, text); printed lines count as text/plain.
    """
    claims, results, heading = [], [], ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            titles = re.findall(r"^#{1,4} +(.+)$", cell.source, re.MULTILINE)
            heading = titles[-1] if titles else heading
            continue
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if MIME in data:
                claims.append(Claim(**data[MIME]))
            elif "result" in cell.metadata.get("tags", []):
                if output.output_type == "stream" and output.name == "stdout":
                    data = {"text/plain": output.text}
                if data:
                    results.append((heading, dict(data)))
    return claims, results


def _html(notebook, run: Run) -> str:
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(embed_images=True)
    return exporter.from_notebook_node(inert_outputs(notebook), {"metadata": {"name": run.title}})[0]


def _title(notebook) -> str:
    found = (re.search(r"^# +(.+)$", c.source, re.MULTILINE) for c in notebook.cells if c.cell_type == "markdown")
    return next((m.group(1).strip() for m in found if m), "")


def _held(claims: list[Claim]) -> str:
    return f"{sum(c.holds for c in claims)} of {len(claims)} claims held"


def _report(runs: list[Run], page: Path) -> int:
    """Print the outcome; return the exit status. A claim that a cell swallowed still counts as failed."""
    claims = [c for run in runs for c in run.claims]
    bad = next((r for r in runs if r.state in ("failed", "stopped")), None)
    print(f"\n{_held(claims)}. Results: {page} (executed notebooks beside it)")
    if bad and bad.state == "stopped":
        print(f"Stopped in {bad.name}.", file=sys.stderr)
        return 130
    if bad:
        print(f"{bad.name} failed:\n{bad.error}", file=sys.stderr)
    for c in claims:
        if not c.holds:
            print(c, file=sys.stderr)
    return 1 if bad or not all(c.holds for c in claims) else 0


def _machine(seconds: float, command: str) -> dict[str, str]:
    """What the numbers were measured on: label -> text, in the order in which the page shows it."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {"Date": time.strftime("%Y-%m-%d %H:%M"), "Wall time": f"{seconds / 60:.1f} minutes",
             "Processor": f"{_processor()}, {cores} cores; torch threads: {torch.get_num_threads()}",
             "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
             "System": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
             "Packages": ", ".join(f"{p} {v}" for p in PACKAGES if (v := _version(p)))}
    if commit := _git("rev-parse", "--short=12", "HEAD"):
        facts["Commit"] = commit + (" with uncommitted changes" if _git("status", "--porcelain") else "")
    if command:
        facts["Command"] = command
    return facts


def _processor() -> str:
    try:
        return re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()).group(1).strip()
    except (OSError, AttributeError):  # not Linux, or a processor that does not say its name
        return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()
    except OSError:  # no git on this machine: a downloaded archive has no commit either
        return ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NN", help="notebooks whose names start so, such as 00 02")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "reproduce", help="folder for what is written")
    given = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    try:
        paths = chosen(ROOT / "notebooks", given.only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        if paths:
            print(for_the_course(), flush=True)
        return reproduce(paths, given.out, shlex.join(["python", "-m", "i2vlib.course.reproduce", *words]))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
