"""What it takes to run: the virtual environment of `make`, the missing packages in Colab, the repository's address.

`make` runs this file by its path, with whatever Python >= 3.10 it found: only the standard library at import.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEVELOPMENT = {"furo", "jupyterlab", "myst-nb", "nbval", "playwright", "pytest", "ruff", "sphinx"}  # Colab needs none of them
FROZEN = ("torch", "torchvision", "numpy", "ipywidgets")  # what Colab's own runtime is built on
REPOSITORY = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)")


class SetupError(RuntimeError):
    """The environment could not be made; the message says why and what to do."""


# ---------------------------------------------------------------------------------------------- make .venv

def make_venv(venv: Path) -> None:
    """Bring `venv` up to requirements.txt, and write `venv/.ready` as the very last step.

    `venv/.building` stands while the work is under way: an environment that still has it was interrupted, may hold
    half-unpacked packages, and is made again from nothing. One that is merely older than requirements.txt, or was
    made by hand, is updated in place. Raises SetupError with pip's last lines.
    """
    start, python = time.time(), venv / "bin" / "python"
    alive = python.exists() and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0
    building = venv / ".building"
    if building.exists() or not alive:
        print(f"Making {venv} with Python {sys.version.split()[0]} ({sys.executable})", flush=True)
        done = subprocess.run([sys.executable, "-m", "venv", "--clear", venv], capture_output=True, text=True)
        if done.returncode:
            raise SetupError(f"python -m venv failed:\n{done.stdout}{done.stderr}\nOn Debian and Ubuntu the module is "
                             "a package of its own: apt install python3-venv")
    building.touch()
    (venv / ".ready").unlink(missing_ok=True)
    print("Installing requirements.txt: 2-4 minutes and about 6 GB where nothing is cached", flush=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off"]
    with open(venv / "install.log", "w") as log:
        _run([*pip, "--upgrade", "pip"], log, start)
        _run([*pip, "-r", str(ROOT / "requirements.txt")], log, start)
        _run([*pip, "--no-deps", "-e", str(ROOT)], log, start)
    building.unlink()
    (venv / ".ready").write_text(f"{time.strftime('%Y-%m-%d %H:%M')}\n")
    print(f"Ready after {time.time() - start:.0f} s. Everything lies in {venv} (log: {venv}/install.log)", flush=True)


def _run(command: list[str], log, start: float) -> None:
    """Run pip: every line into the log, the few that take long onto the screen, the tail into the error."""
    lines = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env={**os.environ, "PYTHONUNBUFFERED": "1"})
    for line in process.stdout:
        lines.append(line)
        log.write(line)
        if shown := _worth_showing(line):
            print(f"  {time.time() - start:4.0f} s  {shown}", flush=True)
    if process.wait():
        raise SetupError(f"pip failed ({' '.join(command[1:])}). Its last lines:\n{''.join(lines[-40:])}")


def _worth_showing(line: str) -> str:
    """'' for most of pip's lines; downloads of 20 MB or more and the unpacking are what a reader waits for."""
    if match := re.match(r"\s*(Downloading|Using cached) (\S+?)-\d\S* \(([\d.]+) ([MG])B\)", line):
        word, name, size, unit = match.groups()
        big = unit == "G" or float(size) >= 20
        return f"{word.lower()} {name.rsplit('/', 1)[-1]}, {size} {unit}B" if big else ""
    if line.startswith("Installing collected packages"):
        return f"unpacking {line.count(',') + 1} packages"
    return ""


# ---------------------------------------------------------------------------------------------- Colab

def install_missing(root: Path = ROOT) -> list[str]:
    """In Colab, install what requirements.txt names and the runtime lacks; elsewhere nothing. Returns those lines.

    Never an upgrade: torch, torchvision, numpy and ipywidgets are frozen at the versions that are running, so that
    nothing in the kernel has to be restarted. Raises SetupError with pip's last lines.
    """
    if "google.colab" not in sys.modules:
        return []
    missing = missing_requirements((Path(root) / "requirements.txt").read_text())
    if not missing:
        return []
    frozen = [f"{name}=={version}" for name in FROZEN if (version := _installed(name))]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(frozen) + "\n")
        done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-c", str(constraints), *missing],
                              capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise SetupError(f"pip could not install {', '.join(missing)} beside {', '.join(frozen)}:\n{tail}")
    return missing


def missing_requirements(text: str) -> list[str]:
    """The lines of a requirements file, without development tools, that apply to this machine and are not installed."""
    from packaging.requirements import Requirement

    lines = [line.split(" #")[0].strip() for line in text.splitlines()]
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [str(r).split(";")[0].strip() for r in wanted if r.name not in DEVELOPMENT
            and (r.marker is None or r.marker.evaluate()) and not _installed(r.name)]


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


# ---------------------------------------------------------------------------------------------- badges

def set_repository(repo: str, root: Path = ROOT) -> list[Path]:
    """Write `owner/name` into every Colab badge and setup cell, in place of the one that stands there.

    The present name is read from notebooks/setup_cell.py. Returns the files that changed. Raises ValueError if
    `repo` is not of the form owner/name.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"REPO = {repo!r}: allowed is owner/name, such as you/fork")
    present = REPOSITORY.search((root / "notebooks" / "setup_cell.py").read_text()).group(1)
    changed = []
    for path in [root / "README.md", root / "notebooks" / "setup_cell.py", *sorted(root.glob("notebooks/*.ipynb"))]:
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        new = re.sub(rf"(github(?:\.com)?/){re.escape(present)}(?![\w.-])", rf"\g<1>{repo}", old)
        if new != old:
            path.write_text(new, encoding="utf-8")
            changed.append(path)
    return changed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make", help="make or update the virtual environment").add_argument("venv", type=Path)
    commands.add_parser("badges", help="point badges and setup cells at a repository").add_argument("repo")
    given = parser.parse_args(arguments)
    try:
        if given.command == "make":
            make_venv(given.venv)
        else:
            for path in set_repository(given.repo):
                print(f"{given.repo} -> {path.relative_to(ROOT)}")
    except (SetupError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next call starts over what was left half-made.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
