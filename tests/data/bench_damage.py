"""Damaged videos, drawn from a seed, and what becomes of them: refused, read right, or read wrong without a word.

    python tests/data/bench_damage.py --count 1000            # the table of data/README.md
    python tests/data/bench_damage.py --count 1000 --keep DIR  # leave the files there

A file is wrong if one of its pictures is not the one of that number: it shows another number, none at all, or differs from
the undamaged file's picture in some block of 8 x 8 pixels by more than TOLERANCE of 255 levels.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
from numbered_videos import encode, number_of
from tqdm import tqdm

from i2vlib.data.isolated import Isolated, IsolatedError
from i2vlib.data.strict import damage, fault
from i2vlib.data.video import VideoError, VideoFile

FRAMES, TOLERANCE = 30, 8
B, SMALL, FAST = {"g": "12", "bf": "2"}, {"g": "12", "b": "400000"}, {"deadline": "realtime", "cpu-used": "5"}
KINDS = {  # name of the file: codec, options of numbered_videos.encode
    "h264.mp4": ("libx264", B),
    "one gop.mp4": ("libx264", {"g": "250", "bf": "3", "muxer": {"movflags": "faststart"}}),
    "fragments.mp4": ("libx264", {"g": "10", "bf": "0", "muxer": {"movflags": "frag_keyframe+empty_moov"}}),
    "cavlc.mp4": ("libx264", {"g": "15", "profile": "baseline"}),
    "sound.mp4": ("libx264", B | {"audio": 3.0}),
    "hevc.mp4": ("libx265", {}),
    "hevc rows.mp4": ("libx265", {"x265": "pools=2:wpp=1:ctu=16"}),  # x265's default, which needs more than two rows of blocks
    "av1.mp4": ("libsvtav1", {}),
    "mpeg4.mp4": ("mpeg4", SMALL),
    "h264.mov": ("libx264", B),
    "mjpeg.mov": ("mjpeg", SMALL | {"pix_fmt": "yuvj420p"}),
    "h264.mkv": ("libx264", B),
    "ten bits.mkv": ("libx264", B | {"pix_fmt": "yuv420p10le"}),
    "hevc.mkv": ("libx265", {}),
    "vp9.webm": ("libvpx-vp9", FAST),
    "vp8.webm": ("libvpx", FAST),
    "av1.webm": ("libsvtav1", {}),
    "mpeg4.avi": ("mpeg4", SMALL),
    "mjpeg.avi": ("mjpeg", SMALL | {"pix_fmt": "yuvj420p"}),
    "h264.avi": ("libx264", {"g": "12", "bf": "0"}),
    "h264.ts": ("libx264", B),
    "mpeg2.ts": ("mpeg2video", SMALL | {"bf": "2"}),
    "mpeg2.mpg": ("mpeg2video", SMALL | {"bf": "2"}),
    "h264.flv": ("libx264", B),
    "wmv2.wmv": ("wmv2", SMALL),
}
WAYS = (
    "one bit", "bits", "zeros", "noise", "removed", "swapped", "twice", "cut off", "sector", "header", "junk before",
    "junk after",
)


def make_good(folder: Path, kinds: Iterable[str] = KINDS, frames: int = FRAMES) -> dict[str, Path]:
    """One undamaged video of each kind whose codec this PyAV has."""
    return {kind: encode(folder / kind, KINDS[kind][0], range(frames), view=grain, **KINDS[kind][1])
            for kind in kinds if KINDS[kind][0] in av.codecs_available}


def grain(picture: np.ndarray) -> np.ndarray:
    """The picture with noise, so that most bytes of a file are of pictures, as in a real one."""
    noise = np.random.default_rng(int(picture[0, 0]) + int(picture.sum())).integers(-14, 15, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


def spoil(whole: bytes, way: str, rng: random.Random) -> bytes:
    """The bytes of a file after one accident."""
    data, size = bytearray(whole), len(whole)
    at = rng.randrange(size)
    length = min(rng.choice([4, 64, 512, 4096]), size - at)
    if way in ("one bit", "bits"):
        for place in rng.sample(range(size), 1 if way == "one bit" else rng.choice([3, 10, 50])):
            data[place] ^= 1 << rng.randrange(8)
    elif way == "zeros":
        data[at:at + length] = bytes(length)
    elif way == "noise":
        data[at:at + length] = rng.randbytes(length)
    elif way == "removed":
        del data[at:at + length]
    elif way == "swapped":
        other = rng.randrange(size - length + 1)
        data[at:at + length], data[other:other + length] = whole[other:other + length], whole[at:at + length]
    elif way == "twice":
        data[at:at] = whole[at:at + length]
    elif way == "cut off":
        del data[rng.randrange(size // 10, size):]
    elif way == "sector":  # of a disk: 512 bytes read as zeros
        at -= at % 512
        data[at:at + 512] = bytes(len(data[at:at + 512]))
    elif way == "header":
        for place in rng.choices(range(min(600, size)), k=rng.choice([1, 2, 4])):
            data[place] = rng.randrange(256)
    elif way == "junk before":
        data[:0] = rng.randbytes(rng.choice([1, 100, 5000]))
    elif way == "junk after":
        data += rng.randbytes(rng.choice([1, 100, 5000]))
    else:
        raise ValueError(f"way {way!r}: allowed is {', '.join(WAYS)}")
    return bytes(data)


def make_damaged(good: dict[str, Path], folder: Path, count: int, seed: int = 0) -> list[Path]:
    """`count` files named `number way of kind`, each a function of (seed, number); every kind meets every way in turn."""
    paths = []
    for number in range(count):
        kind = list(good)[number % len(good)]
        way = WAYS[number // len(good) % len(WAYS)]
        paths.append(folder / f"{number:05d} {way} of {kind}")
        paths[-1].write_bytes(spoil(good[kind].read_bytes(), way, random.Random(f"{seed}/{number}")))
    return paths


# ---- what becomes of a file, in a process of its own ----

def look(path: str, whole: str) -> dict:
    """verdict, its reason, the digest of the pictures; strict: what the strict check says."""
    found = {"strict": "", **_read(path, whole)}
    if "digest" in found:
        found["strict"] = damage(path)
    return found


def digest(path: str) -> str:
    """Of all pictures, or of the error."""
    with contextlib.suppress(Exception), VideoFile(path) as video:
        return hashlib.md5(video.frames(range(len(video))).numpy().tobytes()).hexdigest()
    return ""


def _read(path: str, whole: str) -> dict:
    stage = "refused at open"
    try:
        with VideoFile(path) as video:
            stage = "refused at reading"
            frames = video.frames(range(len(video))).numpy()
    except VideoError as error:
        return {"verdict": stage, "reason": error.reason}
    with av.open(whole) as container:
        due = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    same = frames.shape[1:] == due.shape[1:]
    states = [_state(frame, number, due) if same else "spoilt" for number, frame in enumerate(frames)]
    verdict = next((v for v in ("spoilt", "other") if v in states), "right")
    return {"verdict": verdict, "reason": f"{len(states) - states.count('right')} of {len(states)} pictures",
            "digest": hashlib.md5(frames.tobytes()).hexdigest()}


def _state(frame: np.ndarray, number: int, due: np.ndarray) -> str:
    shown = number_of(frame)
    if number < len(due) and _near(frame, due[number]):
        return "right"
    return "other" if 0 <= shown < len(due) and _near(frame, due[shown]) else "spoilt"


def _near(frame: np.ndarray, due: np.ndarray) -> bool:
    height, width = (n // 8 for n in frame.shape[:2])
    difference = np.abs(frame.astype(np.int16) - due).mean(2)[:height * 8, :width * 8]
    return difference.reshape(height, 8, width, 8).mean((1, 3)).max() <= TOLERANCE


def look_at_all(paths: list[Path], good: dict[str, Path], jobs: int = 2) -> list[dict]:
    """What `look` says of each file, and whether a process with other old memory reads other pictures."""
    def part(number: int) -> list[dict]:
        rows = []
        with _process(1) as first, _process(2) as second:
            for path in tqdm(paths[number::jobs], desc="files", disable=number > 0):
                row = {"file": path.name, **_isolated(first, look, str(path), str(good[path.name.split(" of ")[1]]))}
                if "digest" in row:
                    row["changes"] = row["digest"] != _isolated(second, digest, str(path))
                rows.append(row)
        return rows

    with ThreadPoolExecutor(jobs) as pool:
        return sorted(itertools.chain(*pool.map(part, range(jobs))), key=lambda row: row["file"])


def _process(number: int) -> Isolated:
    os.environ["MALLOC_PERTURB_"] = str(85 * number)  # what glibc fills freed memory with, where there is glibc
    call = Isolated(60)
    call(os.getpid)
    return call


def _isolated(call: Isolated, *args):
    try:
        return call(*args)
    except IsolatedError as error:
        return {"verdict": "ends the process" if error.died else "exception", "reason": error.reason}


# ---- the report ----

VERDICTS = ("refused at open", "refused at reading", "exception", "ends the process", "right", "other", "spoilt")


def table(rows: list[dict], of: int) -> str:
    """Rows: ways (of = 0) or kinds (of = 1). Columns: verdicts, wrong ones that the strict check leaves, unsteady ones."""
    head = ["", "files", *VERDICTS, "wrong", "wrong after the strict check"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    groups = {row["file"].split(" ", 1)[1].split(" of ")[of]: None for row in rows}
    for name in [*groups, "all"]:
        chosen = [r for r in rows if name in ("all", r["file"].split(" ", 1)[1].split(" of ")[of])]
        count = Counter(r["verdict"] for r in chosen)
        wrong = [r for r in chosen if r["verdict"] in ("other", "spoilt")]
        cells = [len(chosen), *(count[v] for v in VERDICTS), len(wrong), sum(not r["strict"] for r in wrong)]
        lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder for the files and rows.jsonl")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as made:
        folder = chosen.keep or Path(made)
        for name in ("good", "damaged"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        good = make_good(folder / "good")
        rows = look_at_all(make_damaged(good, folder / "damaged", chosen.count, chosen.seed), good, chosen.jobs)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with Isolated() as call:
            found = {kind: call(fault, str(path)) or call(damage, str(path)) for kind, path in good.items()}
    print(table(rows, 0), table(rows, 1), sep="\n\n")
    unsteady = [row for row in rows if row.get("changes")]
    print(f"\nother pictures in every process: {len(unsteady)}, after the strict check {sum(not r['strict'] for r in unsteady)}")
    print(f"right, but refused by the strict check: {sum(r['verdict'] == 'right' and bool(r['strict']) for r in rows)}")
    print(f"false alarms on the {len(good)} good files: {({k: r for k, r in found.items() if r}) or 0}")


if __name__ == "__main__":
    import bench_damage  # functions of __main__ do not travel to other processes

    bench_damage.main(sys.argv[1:])
