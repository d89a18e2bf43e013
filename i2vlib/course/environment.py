"""What it takes to run: the virtual environment of `make`, the missing packages in Colab, the repository's address.

`make` runs this file by its path, with whatever Python >= 3.10 it found: only the standard library at import.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAMPED = ("requirements.txt", "pyproject.toml")  # what an environment is made from
DEVELOPMENT = {"anywidget", "furo", "jupyterlab", "myst-nb", "nbval", "onnx", "onnxruntime", "onnxscript", "playwright",
               "pytest", "pytest-xdist", "ruff", "sphinx"}  # Colab needs none of them
FROZEN = ("torch", "torchvision", "numpy", "ipywidgets")  # what Colab's own runtime is built on
REPOSITORY = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)")


class SetupError(RuntimeError):
    """The environment could not be made; the message says why and what to do."""


# ---------------------------------------------------------------------------------------------- make .venv

def make_venv(venv: Path) -> None:
    """Bring `venv` up to the files in STAMPED. Nothing is done, and nothing printed, where they are what it was made from.

    `venv/.ready` holds the hash of each of them at the last success of pip, and stays until its next: an environment that
    works is never given up. Where pip fails on it (no network, say), its words are printed with what is not met, and the call
    goes on with what is there. `venv/.building` stands while a first installation is under way: an environment that still has
    it was interrupted, may hold half-unpacked packages, and is made again from nothing. Raises SetupError with pip's last
    lines where there was no working environment.
    """
    start, python = time.time(), venv / "bin" / "python"
    alive = python.exists() and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0
    building, wanted = venv / ".building", {name: _hash(ROOT / name) for name in STAMPED}
    works = alive and not building.exists() and (venv / ".ready").exists()
    there = _stamp(venv) if works else {}
    if there == wanted:
        return
    if building.exists() or not alive:
        print(f"Making {venv} with Python {sys.version.split()[0]} ({sys.executable})", flush=True)
        done = subprocess.run([sys.executable, "-m", "venv", "--clear", venv], capture_output=True, text=True)
        if done.returncode:
            raise SetupError(f"python -m venv failed:\n{done.stdout}{done.stderr}\nOn Debian and Ubuntu the module is "
                             "a package of its own: apt install python3-venv")
    if not works:
        building.touch()
    try:
        _install(python, venv / "install.log", [name for name in STAMPED if there.get(name) != wanted[name]], works, start)
    except SetupError as error:
        if not works:
            raise
        print(f"{error}\n{' and '.join(n for n in STAMPED if there.get(n) != wanted[n])} changed since {venv} was made, and pip "
              f"could not follow (its words are above; without a network it cannot). Going on with what is there.\n"
              f"Not met: {', '.join(_not_met(python)) or 'nothing'}. The next call tries again.", file=sys.stderr, flush=True)
        return
    building.unlink(missing_ok=True)
    part = venv / ".ready.part"
    part.write_text(json.dumps(wanted) + "\n")
    part.replace(venv / ".ready")
    print(f"Ready after {time.time() - start:.0f} s. Everything lies in {venv} (log: {venv}/install.log)", flush=True)


def _install(python: Path, log: Path, changed: list[str], works: bool, start: float) -> None:
    """Let pip install what the changed files ask for; every line of it goes into `log`."""
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off"]
    if works:
        pip += ["--retries", "1"]  # without a network the reader need not wait for long
    with open(log, "w") as file:
        if not works:
            print("Installing requirements.txt: 2-4 minutes and about 6 GB where nothing is cached", flush=True)
            _run([*pip, "--upgrade", "pip"], file, start)
        if "requirements.txt" in changed:
            _run([*pip, "-r", str(ROOT / "requirements.txt")], file, start)
        if "pyproject.toml" in changed:
            _run([*pip, "--no-deps", "-e", str(ROOT)], file, start)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _stamp(venv: Path) -> dict[str, str]:
    """What .ready holds; {} where it is not ours, such as the date that it held once."""
    try:
        stamp = json.loads((venv / ".ready").read_text())
    except ValueError:
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _not_met(python: Path) -> list[str]:
    """The lines of requirements.txt that the environment of `python` does not meet."""
    code = ("import importlib.metadata as m, sys\n"
            "from pip._vendor.packaging.requirements import Requirement\n"
            "for line in open(sys.argv[1], encoding='utf-8'):\n"
            "    line = line.split(' #')[0].strip()\n"
            "    if line and line[0] != '#':\n"
            "        r = Requirement(line)\n"
            "        try: met = m.version(r.name) in r.specifier\n"
            "        except m.PackageNotFoundError: met = False\n"
            "        if not met and (r.marker is None or r.marker.evaluate()): print(line)\n")
    done = subprocess.run([python, "-c", code, ROOT / "requirements.txt"], capture_output=True, text=True)
    return done.stdout.split("\n")[:-1]


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
