"""The live figure: a trained model answers in the page itself, on the site and in a notebook, without a kernel or another host.

One ES module draws it (assets/live*.js, the interface of anywidget). Graph, clips and onnxruntime-web go along as bytes.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from i2vlib.protocol import ClipConfig
from i2vlib.show.board import weight_table
from i2vlib.show.live_graph import OffsetsGraph, WeightsGraph, graph_of
from i2vlib.show.web_files import RUNTIME, web_files
from i2vlib.tower.classifier import VideoClassifier

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SCRIPTS = ("live.js", "live_offsets.js", "live_weights.js")


def live(model: VideoClassifier, clip: ClipConfig, clips: Tensor, labels: Sequence[int], class_names: Sequence[str]):
    """The figure as a widget of a notebook, for a model with a temporal embedding and without compression.

    clips (n,T,S,S,3) uint8, as decoded and cut to the model's size, of the classes `labels` (n,); class_names: of every class.
    A reader moves each head's offset, reorders frames, plays backwards or opens a video, and the model answers in the browser.
    Needs anywidget, onnx and onnxscript; onnxruntime-web is fetched on first use. Raises ImportError, WebFilesError, and
    ValueError as OffsetsGraph does or where clips do not fit.
    """
    import anywidget
    import traitlets

    class Live(anywidget.AnyWidget):
        _esm, _css = module_text(), (ASSETS / "live.css").read_text(encoding="utf-8")
        about = traitlets.Dict().tag(sync=True)
        graph, pixels, runtime_wasm = (traitlets.Bytes().tag(sync=True) for _ in range(3))
        runtime_js, runtime_glue = (traitlets.Unicode().tag(sync=True) for _ in range(2))

    return Live(**offsets_parts(model, clip, clips, labels, class_names), **runtime_parts())


def module_text() -> str:
    """The ES module: `export default { render({ model, el }) }`, model.get(name) for each part."""
    return "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)


def offsets_parts(model: VideoClassifier, clip: ClipConfig, clips: Tensor, labels: Sequence[int],
                  class_names: Sequence[str]) -> dict:
    """What the module reads of a model with relocated heads: about (plain values), graph and pixels (deflated)."""
    about, config = _about("offsets", model, clips, labels, class_names), model.config  # refuses before a graph is made
    graph = graph_of(OffsetsGraph(model, clip))
    about |= {"heads": config.tower.heads, "offsets": list(config.temporal.offsets or (0,) * config.tower.heads)}
    return {"about": about, "graph": _pack(graph), "pixels": _pack(clips.numpy().tobytes())}


def weights_parts(model: VideoClassifier, clip: ClipConfig, clips: Tensor, clean: Tensor, junk: Tensor, pool: Tensor,
                  labels: Sequence[int], class_names: Sequence[str]) -> dict:
    """The same of a model that weighs frames: clips and the same without junk (n,T,S,S,3) uint8, where it is (n,T,H,W) bool, and
    patches of junk for a reader to put anywhere (k,P,P,3) uint8."""
    about = _about("weights", model, clips, labels, class_names)
    graph = graph_of(WeightsGraph(model, clip))
    about |= {"grid": model.config.tower.grid, "junk": junk.flatten(2).int().tolist(), "pool": len(pool),
              "colours": base64.b64encode(weight_table().tobytes()).decode()}
    return {"about": about, "graph": _pack(graph), "pixels": _pack(b"".join(x.numpy().tobytes() for x in (clips, clean, pool)))}


@cache
def runtime_parts() -> dict:
    """onnxruntime-web as the module reads it: two scripts, and the program deflated. Raises WebFilesError, OSError."""
    files = web_files(RUNTIME)
    return {"runtime_js": files["ort.wasm.min.mjs"].read_text(encoding="utf-8"),
            "runtime_glue": files["ort-wasm-simd-threaded.mjs"].read_text(encoding="utf-8"),
            "runtime_wasm": _pack(files["ort-wasm-simd-threaded.wasm"].read_bytes())}


def _about(kind: str, model: VideoClassifier, clips: Tensor, labels: Sequence[int], class_names: Sequence[str]) -> dict:
    config, size = model.config, model.config.tower.image_size
    if clips.dtype != torch.uint8 or clips.shape[1:] != (config.frames, size, size, 3) or len(clips) != len(labels):
        raise ValueError(f"clips {tuple(clips.shape)} {clips.dtype} with {len(labels)} labels: allowed are (n, {config.frames}, "
                         f"{size}, {size}, 3) uint8 and n labels")
    count = sum(p.numel() for p in model.parameters())
    return {"kind": kind, "frames": config.frames, "size": size, "classes": list(class_names), "labels": [int(i) for i in labels],
            "size_said": f"a model of {count / 1e6:.1f} million parameters"}


def _pack(data: bytes) -> bytes:
    return zlib.compress(data, 9)
