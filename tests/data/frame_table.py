"""The matrix of numbered videos, and the table of what each decoder makes of it.

    python tests/data/frame_table.py            prints the table that data/README.md holds
    python tests/data/frame_table.py --files    a line a file

Packages that are not installed (decord, torchcodec) get a dash. Truth is known by construction (numbered_videos.py), never
taken from a decoder.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numbered_videos import (
    COUNT,
    copied,
    encode,
    joined,
    number_of,
    packed,
    tick,
    two_tracks,
    with_cover,
    with_edits,
    with_hidden_vp8,
    with_matrix,
    with_place_holders,
)


@dataclass(frozen=True)
class Case:
    """make(folder) writes the file and returns its path; shown: the numbers of the pictures that a player shows, in order."""

    kind: str
    name: str
    make: Callable[[Path], Path]
    shown: tuple[int, ...] = tuple(range(COUNT))
    refused: str = ""  # the reason, where no decoder here can


ALL = tuple(range(COUNT))
MATRICES = {
    "0": (1, 0, 0, 1),
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed 180": (0, -1, -1, 0),
}
TURNED = {  # the stored picture of what is to be shown under each matrix
    "0": lambda p: p,
    "90": np.rot90,
    "180": lambda p: p[::-1, ::-1],
    "270": lambda p: np.rot90(p, -1),
    "mirrored": lambda p: p[:, ::-1],
    "upside down": lambda p: p[::-1],
    "transposed": lambda p: p.T,
    "transposed 180": lambda p: p[::-1, ::-1].T,
}


def cases() -> list[Case]:
    """The whole matrix. Names are unique; each file is made in a few tens of milliseconds."""
    found: list[Case] = []

    def plain(kind: str, file: str, codec: str = "libx264", shown: tuple[int, ...] = ALL, **options) -> None:
        found.append(Case(kind, file, lambda folder: encode(folder / file, codec, **options), shown))

    def made(
        kind: str, file: str, make: Callable[[Path, Callable], Path], shown: tuple[int, ...] = ALL, refused: str = ""
    ) -> None:
        def run(folder: Path) -> Path:
            return make(
                folder / file,
                lambda codec="libx264", suffix="mp4", **options: encode(folder / f"source of {file}.{suffix}", codec, **options),
            )

        found.append(Case(kind, file, run, shown, refused))

    for kind, options in {
        "H.264, closed GOP": {
            "": {"bf": "0", "g": "250"},
            " short": {"bf": "0", "g": "5"},
            " B": {"bf": "3", "g": "12"},
            " pyramid": {"bf": "7", "g": "250", "b-pyramid": "normal"},
            " intra": {"g": "1"},
            " matrices": {"bf": "3", "g": "12", "x264-params": "cqm=jvt"},
        },
        "H.264, open GOP": {
            " open": {"bf": "3", "g": "9", "x264-params": "open-gop=1"},
            " open short": {"bf": "2", "g": "4", "x264-params": "open-gop=1:scenecut=0"},
        },
        "H.264, no IDR after the first": {" refresh": {"bf": "0", "g": "12", "x264-params": "intra-refresh=1"}},
    }.items():
        for name, chosen in options.items():
            for container in ("mp4", "mov", "mkv", "flv"):
                plain(f"{kind}: mp4, mov, mkv, flv", f"h264{name}.{container}", **chosen)
            plain(f"{kind}: transport stream", f"h264{name}.ts", **chosen)
            plain(f"{kind}: transport stream", f"h264{name}.mts", **chosen)
            plain("H.264, AVI, raw, PS", f"h264{name}.avi", **chosen)
            plain("H.264, AVI, raw, PS", f"h264{name}.h264", **chosen)
            plain("H.264, AVI, raw, PS", f"h264{name}.mpg", **chosen)

    for container in ("mp4", "mkv"):
        plain(
            "H.264, key frames closer than the delay",
            f"h264 crowded.{container}",
            g="250",
            bf="3",
            keys=(10, 11, 12, 20, 21, 23),
            **{"forced-idr": "1", "b-pyramid": "normal"},
        )
        plain("H.264, 10 bit, 4:2:2, 4:4:4, RGB", f"10 bit.{container}", pix_fmt="yuv420p10le", bf="3", g="12")
        plain("H.264, 10 bit, 4:2:2, 4:4:4, RGB", f"444.{container}", pix_fmt="yuv444p", bf="3", g="12")
        plain("H.264, 10 bit, 4:2:2, 4:4:4, RGB", f"422.{container}", pix_fmt="yuv422p", bf="3", g="12")
        plain("H.264, 10 bit, 4:2:2, 4:4:4, RGB", f"rgb.{container}", "libx264rgb", pix_fmt="rgb24", bf="3", g="12", qp="0")
        plain("H.264, interlaced", f"interlaced.{container}", bf="3", g="12", interlaced=True)
        plain("variable rate", f"variable.{container}", bf="3", g="12", times=[i * i + 7 * i for i in range(COUNT)])
        plain("variable rate", f"gap.{container}", bf="3", g="12", times=[10 * i + 500 * (i > 20) for i in range(COUNT)])
        plain("starts late", f"late.{container}", bf="3", g="12", times=[1000 + 10 * i for i in range(COUNT)])
        plain("starts late", f"late audio.{container}", bf="3", g="12", times=[150 + 10 * i for i in range(COUNT)], audio=3)
        plain("audio first", f"audio.{container}", bf="3", g="12", audio=4)
        plain("odd size", f"tall.{container}", size=(96, 178), bf="3", g="12")
        plain("odd size", f"wide.{container}", size=(278, 70), bf="3", g="12")
        plain("odd size", f"tiny.{container}", size=(48, 48), bf="3", g="12")
    plain("starts late", "late.ts", bf="3", g="12", times=[1000 + 10 * i for i in range(COUNT)])
    plain("audio first", "audio.ts", bf="3", g="12", audio=4)
    plain("H.264, interlaced", "interlaced.ts", bf="3", g="12", interlaced=True)
    plain("mp4, fragmented or index first", "fragments.mp4", bf="3", g="12", muxer={"movflags": "frag_keyframe+empty_moov"})
    plain(
        "mp4, fragmented or index first",
        "default base.mp4",
        bf="3",
        g="12",
        muxer={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    )
    plain("mp4, fragmented or index first", "faststart.mp4", bf="3", g="12", muxer={"movflags": "faststart"})
    plain("no edit list", "no edits.mp4", bf="3", g="12", muxer={"use_editlist": "0"})
    plain("no edit list", "negative offsets.mp4", bf="3", g="12", muxer={"movflags": "negative_cts_offsets"})

    for name, options in {
        "": {},
        " closed": {"x265": "no-open-gop=1:keyint=12:bframes=3"},
        " open": {"x265": "keyint=9:min-keyint=9:scenecut=0:bframes=4"},
        " no B": {"x265": "bframes=0:keyint=12"},
    }.items():
        for container in ("mp4", "mkv", "ts"):
            plain("HEVC", f"hevc{name}.{container}", "libx265", preset="ultrafast", **options)
    plain("HEVC", "hevc 10 bit.mp4", "libx265", preset="ultrafast", pix_fmt="yuv420p10le", x265="keyint=12")
    plain("HEVC", "hevc.hevc", "libx265", preset="ultrafast", x265="keyint=12")

    for container in ("webm", "mkv"):
        plain("VP8", f"vp8.{container}", "libvpx", **{"g": "12", "deadline": "realtime", "cpu-used": "8"})
        made(
            "VP8, hidden frames",
            f"vp8 hidden.{container}",
            lambda path, source: with_hidden_vp8(
                path, source("libvpx", "webm", g="36", **{"deadline": "realtime", "cpu-used": "8"}), (5, 6, 17, 30)
            ),
            tuple(n for n in ALL if n not in (5, 6, 17, 30)),
        )
        plain(
            "VP9", f"vp9.{container}", "libvpx-vp9", **{"g": "12", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
        )
    plain("VP9", "vp9.mp4", "libvpx-vp9", **{"g": "12", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"})
    for container in ("mp4", "webm", "mkv"):
        plain("AV1", f"av1.{container}", "libsvtav1", g="12")

    for container in ("avi", "mp4", "mkv", "mov", "ts"):
        for b in ("0", "2"):
            plain("MPEG-4 part 2", f"mpeg4 b{b}.{container}", "mpeg4", g="12", bf=b)
    for codec in ("mpeg1video", "mpeg2video"):
        for b in ("0", "2"):
            for container in ("mpg", "ts", "vob", "mkv"):
                plain("MPEG-1 and 2", f"{codec} b{b}.{container}", codec, rate=25, g="12", bf=b)
    plain("MPEG-1 and 2", "mpeg2 raw.m2v", "mpeg2video", rate=25, g="12", bf="2")
    plain("MPEG-1 and 2", "mpeg2 closed.mpg", "mpeg2video", rate=25, g="12", bf="2", flags="+cgop", sc_threshold="1000000000")
    plain("MPEG-1 and 2", "mpeg2 interlaced.mpg", "mpeg2video", rate=25, g="12", bf="2", interlaced=True)
    plain("MPEG-1 and 2", "mpeg2 audio.mpg", "mpeg2video", rate=25, g="12", bf="2", audio=2)
    for file, codec, options in [
        ("mjpeg.avi", "mjpeg", {"pix_fmt": "yuvj420p"}),
        ("mjpeg.mov", "mjpeg", {"pix_fmt": "yuvj420p"}),
        ("ffv1.mkv", "ffv1", {}),
        ("ffv1.avi", "ffv1", {}),
        ("huffyuv.avi", "huffyuv", {"pix_fmt": "yuv422p"}),
        ("prores.mov", "prores", {"pix_fmt": "yuv422p10le"}),
        ("raw.avi", "rawvideo", {"pix_fmt": "yuv420p"}),
        ("png.mov", "png", {"pix_fmt": "rgb24"}),
        ("rle.mov", "qtrle", {"pix_fmt": "rgb24"}),
        ("wmv2.wmv", "wmv2", {}),
        ("wmv1.asf", "wmv1", {}),
        ("flv1.flv", "flv1", {}),
        ("h263.3gp", "h263", {}),
        ("gif.gif", "gif", {"pix_fmt": "gray"}),
    ]:
        plain("other codecs", file, codec, **options)

    for name, matrix in MATRICES.items():
        for width, height in ((128, 96), (96, 178), (278, 70)):
            made(
                "rotation, mirrors",
                f"matrix {name} {width}x{height}.mp4",
                lambda path, source, m=matrix, v=TURNED[name], s=(width, height): with_matrix(
                    path, source(numbers=range(8), size=s, view=v, bf="2", g="12"), m
                ),
                ALL[:8],
            )
    made(
        "rotation, mirrors",
        "matrix 90 hevc.mov",
        lambda path, source: with_matrix(
            path, source("libx265", "mov", numbers=range(8), size=(128, 96), view=np.rot90, preset="ultrafast"), MATRICES["90"]
        ),
        ALL[:8],
    )
    made(
        "rotation by 45 degrees",
        "matrix 45.mp4",
        lambda path, source: with_matrix(path, source(numbers=range(8)), (0.7071, 0.7071, -0.7071, 0.7071)),
        ALL[:8],
        "turned by 45",
    )

    for b in ("0", "3"):
        for name, edits, shown in [
            ("start", [(5, 31)], ALL[5:]),
            ("end", [(0, 20)], ALL[:20]),
            ("middle", [(5, 10), (20, 10)], (*ALL[5:15], *ALL[20:30])),
            ("empty first", [(-1, 10), (3, 20)], ALL[3:23]),
            ("gop start", [(12, 24)], ALL[12:]),
        ]:
            made(
                "edit list",
                f"edit {name} b{b}.mp4",
                lambda path, source, e=edits, b=b: with_edits(path, source(bf=b, g="12"), e),
                shown,
            )
    made(
        "edit list",
        "edit start.mov",
        lambda path, source: with_edits(path, source(suffix="mov", bf="3", g="12"), [(5, 31)]),
        ALL[5:],
    )
    made(
        "edit list",
        "edit start turned.mp4",
        lambda path, source: with_matrix(
            path,
            with_edits(path.with_name("edits only.mp4"), source(bf="3", g="12", view=np.rot90, size=(96, 128)), [(5, 31)]),
            MATRICES["90"],
        ),
        ALL[5:],
    )

    def cut(
        path, source, first, **options
    ):  # what `ffmpeg -ss` with -c copy leaves: packets before the start stay, for the decoder
        whole = source(**options)
        return copied(path, whole, start=first * tick(whole), muxer={"avoid_negative_ts": "disabled"})

    for b in ("0", "3"):
        made("cut by stream copy", f"cut b{b}.mp4", lambda path, source, b=b: cut(path, source, 10, bf=b, g="250"), ALL[10:])
        made("cut by stream copy", f"cut short b{b}.mp4", lambda path, source, b=b: cut(path, source, 10, bf=b, g="6"), ALL[10:])
    made(
        "cut by stream copy",
        "cut at key.mkv",
        lambda path, source: copied(path, source(suffix="mkv", bf="0", g="12"), skip=12),
        ALL[12:],
    )
    made(
        "cut by stream copy",
        "cut anywhere.ts",
        lambda path, source: copied(path, source(suffix="ts", bf="0", g="12"), skip=7),
        ALL[12:],
    )
    made(
        "negative first time",
        "negative.mkv",
        lambda path, source: copied(
            path, source(suffix="mkv", bf="0", g="12"), start=500, muxer={"avoid_negative_ts": "disabled"}
        ),
    )

    made(
        "place-holder packets, packed B",
        "place holders.avi",
        lambda path, source: with_place_holders(path, source("mpeg4", "avi", bf="0", g="12")),
    )
    made(
        "place-holder packets, packed B", "packed.avi", lambda path, source: packed(path, source("mpeg4", "avi", bf="1", g="12"))
    )
    found.extend(
        [
            Case(
                "two video tracks",
                "small first.mp4",
                lambda f: two_tracks(f / "small first.mp4", [(128, 96), (256, 192)]),
                tuple(range(100, 100 + COUNT)),
            ),
            Case("two video tracks", "large first.mp4", lambda f: two_tracks(f / "large first.mp4", [(256, 192), (128, 96)])),
            Case(
                "two video tracks",
                "small marked.mkv",
                lambda f: two_tracks(f / "small marked.mkv", [(256, 192), (128, 96)], (False, True)),
                tuple(range(100, 100 + COUNT)),
            ),
        ]
    )
    for container in ("mkv", "mp4"):
        made("cover picture", f"cover.{container}", lambda path, source: with_cover(path, source(bf="3", g="12")))
    for container, size in (("ts", (256, 192)), ("ts", (64, 48)), ("ts", (96, 128)), ("h264", (256, 192))):
        name = f"size {size[0]}x{size[1]}.{container}"
        made(
            "picture size changes",
            name,
            lambda path, source, s=size, c=container: joined(
                path,
                source(suffix=c, numbers=range(18), bf="0"),
                encode(path.with_name(f"second {path.name}"), numbers=range(18, COUNT), size=s, bf="0"),
            ),
        )
    return found


# --- the table -----------------------------------------------------------------------------------------------------------------


def decord_alone(path: str) -> tuple[int, Callable]:
    from i2vlib.data.decoders import decord

    reader = decord.VideoReader(path, num_threads=1)
    return len(reader), lambda wanted: reader.get_batch(wanted).asnumpy()


def pyav_alone(path: str) -> tuple[int, Callable]:
    """As many programs use it: the first picture track, one picture a packet, no rotation."""
    with av.open(path) as container:
        total = sum(p.size > 0 for p in container.demux(video=0))

    def read(wanted: list[int]) -> list[np.ndarray]:
        with av.open(path) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return [frames[i] for i in wanted]

    return total, read


def torchcodec_alone(path: str) -> tuple[int, Callable]:
    from i2vlib.data.decoders import torchcodec

    reader = torchcodec().VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    return len(reader), lambda wanted: reader.get_frames_at(wanted).data.numpy()


def i2vlib_reads(path: str) -> tuple[int, Callable]:
    from i2vlib.data.video import VideoFile

    file = VideoFile(path)
    return len(file), lambda wanted: file.frames(wanted).numpy()


def verdict(open_file: Callable, case: Case, path: Path) -> str:
    """ "right", "wrong" (another picture or another count) or "refused"; the pictures are asked for out of order."""
    wanted = np.random.default_rng(0).permutation(len(case.shown)).tolist()
    try:
        total, read = open_file(str(path))
        found = [number_of(frame) for frame in read([i for i in wanted if i < total])]
    except Exception:  # each decoder has its own errors
        return "refused"
    return "right" if (total, found) == (len(case.shown), [case.shown[i] for i in wanted]) else "wrong"


def rows() -> Iterator[tuple[Case, str, dict[str, str]]]:
    """(case, decoder chosen by VideoFile, verdict of each reader)."""
    from i2vlib.data import decoders
    from i2vlib.data.video import VideoError, VideoFile

    readers = {
        "decord": decord_alone if decoders.decord else None,
        "PyAV": pyav_alone,
        "torchcodec": None,
        "i2vlib": i2vlib_reads,
    }
    with tempfile.TemporaryDirectory() as folder:
        made = [(case, case.make(Path(folder))) for case in cases()]  # before torchcodec brings FFmpeg's libraries
        if decoders.torchcodec():
            readers["torchcodec"] = torchcodec_alone
        for case, path in made:
            try:
                with VideoFile(path) as file:
                    used = file.decoder
            except VideoError:
                used = "-"
            yield case, used, {name: verdict(reader, case, path) if reader else "-" for name, reader in readers.items()}


def table() -> str:
    """Markdown: a row a kind; files wrong / refused / right of each reader, and which decoder VideoFile chose for how many."""
    found = list(rows())
    lines = ["| kind | files | decord | PyAV | torchcodec | i2vlib | by |", "|---|---|---|---|---|---|---|"]
    for kind in [*dict.fromkeys(case.kind for case, _, _ in found), "all"]:
        of_kind = [(used, verdicts) for case, used, verdicts in found if kind in (case.kind, "all")]
        cells = []
        for name in of_kind[0][1]:
            count = Counter(verdicts[name] for _, verdicts in of_kind)
            cells.append("-" if count["-"] else f"{count['wrong']} / {count['refused']} / {count['right']}")
        by = ", ".join(f"{name} {n}" for name, n in sorted(Counter(used for used, _ in of_kind).items()))
        lines.append(f"| {kind} | {len(of_kind)} | {' | '.join(cells)} | {by} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    if "--files" in arguments:
        for case, used, verdicts in rows():
            print(f"{case.kind}: {case.name}: {verdicts}, read by {used}")
    else:
        print(table())


if __name__ == "__main__":
    main(sys.argv[1:])
