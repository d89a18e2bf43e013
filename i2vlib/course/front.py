"""The site's front door: the two shipped models, live on the landing page, and everything that their figures need.

Graphs are made anew from the shipped checkpoints and clips are drawn anew; none was trained on, none is a real video. Without
onnxruntime-web, and no network to fetch it, pictures stand in the figures' places.
"""

from __future__ import annotations

import base64
import html
import json
import shutil
from functools import cache
from pathlib import Path

from torch import Tensor

from i2vlib.course.ship import ASSETS
from i2vlib.data.drawing import ATTRIBUTES, SIZE, corrupt, draw, generator, junk_patches, junk_places, random_scene, random_words
from i2vlib.data.mini import TASKS
from i2vlib.data.transforms import normalised
from i2vlib.protocol import ClipConfig
from i2vlib.show.live import module_text, offsets_parts, runtime_parts, weights_parts
from i2vlib.show.views import LEARNED, View, interpolation_view, offsets_view
from i2vlib.show.web_files import MATHJAX, WebFilesError, web_files
from i2vlib.tower.checkpoints import checkpoint_info, load_checkpoint
from i2vlib.tower.classifier import VideoClassifier

SEED = 3  # of the clips: the three kinds of motion, twice each, that a reader meets first
CLIPS = 6
POOL = 64  # patches of junk
FIGURES = {  # name -> what it is for those who do not see it, what is said above it
    "motion": ("A clip of a drawn object, the frames that each attention head reads, and the model's scores for six motions",
               "**Which way does it move?** A frozen image model cannot say: it sees frames one by one. Give some of its "
               "attention heads an offset δ, so that they read a neighbouring frame, and it can. The model below runs in this "
               "page: drag an offset, shuffle the frames, play them backwards, or drop a video of your own."),
    "corrupted": ("A clip with junk in places, the weight that InTI gives each place of each frame, and the scores",
                  "**Which frame is kept, place by place?** InTI fuses four frames into one. Junk covers parts of these; below "
                  "each frame, purple places weigh more than in the mean, orange ones less. Click on a frame to put junk there, "
                  "or to take it away."),
}


def write_live(folder: Path) -> str:
    """Write what the landing page's figures need into `folder`, their pictures always; why they stay pictures, or ''."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in stills().items():
        (folder / f"{name}.png").write_bytes(picture)
    try:
        parts = {"module": {"text": module_text()}, "runtime": runtime_parts(), **models()}
    except (WebFilesError, OSError, ImportError) as error:
        return f"The models of the landing page are pictures: {error}"
    for name, values in parts.items():
        words = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in values.items()}
        (folder / f"{name}.js").write_text(f"i2vLive({json.dumps(name)}, {json.dumps(words)});\n", encoding="utf-8")
    shutil.copy(ASSETS / "live_site.js", folder / "site.js")
    shutil.copy(ASSETS / "live.css", folder)
    return ""


def write_mathjax(folder: Path) -> str:
    """Write MathJax and its licence into `folder`; why it is not there, or ''."""
    try:
        files = web_files(MATHJAX)
    except (WebFilesError, OSError) as error:
        return f"Formulas come from MathJax's CDN, so that they need a network: {error}"
    folder.mkdir(parents=True, exist_ok=True)
    for path in files.values():
        shutil.copy(path, folder)
    return ""


def placed(name: str, folder: str, alive: bool) -> str:
    """Markdown: the words above a figure, the place for it, and the picture that stands there until it lives."""
    alt, words = FIGURES[name]
    why = ("The model starts here in a moment." if alive else "This is a picture: the site was made where onnxruntime-web could "
           "not be fetched.")
    script = f'\n<script defer src="{folder}/site.js"></script>\n<link rel="stylesheet" href="{folder}/live.css">'
    live, script = (f' data-i2v-live="{name}"', script) if alive else ("", "")
    return (f'{words}\n\n<div class="i2v-front"{live}><div class="i2v-still">'
            f'<img src="{folder}/{name}.png" alt="{html.escape(alt)}">'
            f'<noscript>This is a picture: the model itself runs in browsers with JavaScript and WebAssembly.</noscript>'
            f'<p class="i2v-why">{why}</p></div></div>{script}\n')


@cache
def models() -> dict[str, dict]:
    """The parts of both figures (see i2vlib.show.live), made once a process: writing a graph takes some ten seconds."""
    (motion, motion_info, clips, labels), (inti, inti_info, dirty, clean, junk, things) = motion_clips(), junk_clips()
    (clip, names), (junk_clip, junk_names) = (
        (ClipConfig.from_dict(info["clip"]), info["class_names"]) for info in (motion_info, inti_info))
    pool = junk_patches(POOL, generator("live pool", SEED))
    return {"motion": offsets_parts(motion, clip, clips, labels.tolist(), names),
            "corrupted": weights_parts(inti, junk_clip, dirty, clean, junk, pool, things.tolist(), junk_names)}


@cache
def stills() -> dict[str, bytes]:
    """A PNG of the first clip of each figure, with what its model says."""
    (motion, info, clips, _), (inti, junk_info, dirty, *_) = motion_clips(), junk_clips()
    seen, junk = (normalised(c[0].movedim(-1, -3), ClipConfig.from_dict(told["clip"]))
                  for c, told in ((clips, info), (dirty, junk_info)))
    offsets, weights = offsets_view(motion, seen, info["class_names"]), interpolation_view(inti, junk, junk_info["class_names"])

    def drawn(view: View, **more) -> bytes:
        return view.draw(**{name: start for name, (_, _, start) in view.ranges.items()}, **more)[0]

    return {"motion": drawn(offsets), "corrupted": drawn(weights, weights=LEARNED)}


@cache
def motion_clips() -> tuple[VideoClassifier, dict, Tensor, Tensor]:
    """The shipped model of `motion`, what its file says, clips (n,T,48,48,3) uint8 that it never saw, and labels (n,)."""
    clips, labels, _ = TASKS["motion"].draw("val", 0, CLIPS, generator("live motion", SEED))
    side = (clips.shape[3] - SIZE) // 2
    return *_shipped("motion"), clips[:, :, :, side:side + SIZE].contiguous(), labels


@cache
def junk_clips() -> tuple[VideoClassifier, dict, Tensor, Tensor, Tensor, Tensor]:
    """The shipped model of `corrupted`, what its file says, clips with junk and the same without (n,T,48,48,3) uint8, where it is
    (n,T,8,8), and labels (n,)."""
    g, T = generator("live corrupted", SEED), TASKS["corrupted"].frames
    words = random_words(CLIPS, g)
    words[:, 5].clamp_(min=1)  # as the task has it: not small
    scene = {k: v.repeat_interleave(T, 0) for k, v in random_scene(words, g).items()}
    clean = draw(scene, g).permute(0, 2, 3, 1).unflatten(0, (CLIPS, T)).contiguous()
    junk = junk_places(CLIPS, T, g)
    return *_shipped("corrupted"), corrupt(clean, junk, g), clean, junk, words[:, 0] * len(ATTRIBUTES["colour"]) + words[:, 1]


def _shipped(task: str) -> tuple[VideoClassifier, dict]:
    path = ASSETS / f"{task}.safetensors"
    return load_checkpoint(path).eval(), checkpoint_info(path)
