"""Reading a clip against plain decord, in turn.

    python tests/data/bench_video.py [--rounds 15]

8 of 300 frames, evenly, of H.264 with closed GOPs, a key frame every 250 and every 12 pictures. Prints the median over
rounds of the ratio of seconds within a round, and its quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import av
import decord
import numpy as np

from i2vlib.data.video import VideoFile, read_clip

WANTED = [round(i * 299 / 7) for i in range(8)]


def write(path: Path, every: int, size: tuple[int, int]) -> Path:
    """300 pictures of a drifting texture, as x264 encodes them by default but for closed GOPs."""
    coarse = np.random.default_rng(0).integers(0, 255, ((size[1] + 300) // 16 + 1, (size[0] + 300) // 16 + 1, 3), np.uint8)
    texture = coarse.repeat(16, 0).repeat(16, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"x264-params": f"keyint={every}:scenecut=0"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(300):
            picture = np.ascontiguousarray(texture[i:i + size[1], i // 2:i // 2 + size[0]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def plain(path: str) -> np.ndarray:
    return decord.VideoReader(path, num_threads=1).get_batch(WANTED).asnumpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        for size in ((340, 256), (1280, 720)):
            for every in (250, 12):
                path = str(write(Path(folder) / f"{size[0]}_{every}.mp4", every, size))
                with VideoFile(path) as video:
                    assert video.decoder == "decord", video.why
                assert (read_clip(path, WANTED).numpy() == plain(path)).all()
                runs, ratios = [lambda p=path: read_clip(p, WANTED), lambda p=path: plain(p)], []
                for i in range(rounds + 2):
                    seconds = {}
                    for k in ((0, 1), (1, 0))[i % 2]:
                        start = time.perf_counter()
                        runs[k]()
                        seconds[k] = time.perf_counter() - start
                    ratios += [seconds[0] / seconds[1]] if i > 1 else []
                low, middle, high = statistics.quantiles(ratios, n=4)
                print(f"{size[0]}x{size[1]}, a key frame every {every}: {middle:.3f} ({low:.3f} to {high:.3f})", flush=True)


if __name__ == "__main__":
    main()
