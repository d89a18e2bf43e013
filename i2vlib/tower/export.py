"""A model leaves the notebook: one graph for any batch (torch.export), one ONNX file that a server runs without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from i2vlib.files import whole_file
from i2vlib.protocol import ClipConfig, check_scaling
from i2vlib.tower.classifier import VideoClassifier, merge
from i2vlib.tower.modes import at_rest
from i2vlib.tower.wrappers import bare_copy, unwrapped

OPSET = 18
TOLERANCE = 1e-5  # of the largest output
LARGEST = 2**31 - 2**24  # bytes of weights: protobuf ends at 2 GiB, and the graph needs some
CHECKED_BATCHES = (1, 3)


def export_program(model: VideoClassifier) -> torch.export.ExportedProgram:
    """The model in eval mode as one graph: (B,T,3,H,W) of its weights' dtype -> what the model returns, for any B.

    T and the size of the picture are fixed: those of the config. The model is left as it was. Works for every config.
    """
    model = unwrapped(model)
    weight = next(model.parameters())
    video = torch.zeros(2, *_clip_shape(model), dtype=weight.dtype, device=weight.device)  # 2: a batch of 1 would be frozen in
    with at_rest(model), torch.no_grad():
        return torch.export.export(model, (video,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))


def export_onnx(model: VideoClassifier, path: str | Path, clip: ClipConfig | None = None,
                class_names: tuple[str, ...] = ()) -> float | None:
    """Write the model as one ONNX file (opset 18) that a server runs with onnxruntime alone, for any batch.

    Input `video`, float32 (batch,T,3,H,W), T and H = W those of the config; output `logits` (batch, classes), or `features`
    (batch, D) without a head. Eval mode. What merges is merged first, GELU adapters, AIM's and ST-Adapters stay; the model given
    is left as it was.
    What the file says of itself lies in its metadata, each value as JSON: format, config (of what was merged), clip (or null),
    class_names, input (name, layout, dtype, shape; with a clip frames, picture, colours, values, mean, std: how a video becomes
    the one view in the middle) and output. To read it, with no line of this library:

        session = onnxruntime.InferenceSession(path)
        about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
        scores, = session.run(None, {"video": video})

    The file is checked (onnx.checker) and, where onnxruntime is installed, its outputs are compared with the model's for a batch
    of 1 and of 3 before it takes its place; it is replaced by a whole one or not at all. Returns the largest difference, as a
    share of the largest output, at most 1e-5; None without onnxruntime. Raises ImportError without onnx and onnxscript,
    TypeError for what is no VideoClassifier, ValueError for weights that are not float32 or above 2 GiB, a clip or class names
    that do not fit the model, and outputs that differ.
    """
    model = unwrapped(model)
    if not isinstance(model, VideoClassifier):
        raise TypeError(f"a {type(model).__name__}: allowed is a VideoClassifier, as build_model and load_checkpoint give it")
    _check_weights(model)
    metadata = _metadata(model, clip, class_names)
    with whole_file(path) as file:
        plain = (merge(model) if model.config.adaptation.merges else bare_copy(model)).cpu().eval()
        graph = _graph(plain, metadata | {"config": plain.config.to_dict()})
        difference = _difference(plain, graph)
        file.write(graph)
    return difference


def _clip_shape(model: VideoClassifier) -> tuple[int, int, int, int]:
    return model.config.frames, 3, model.config.tower.image_size, model.config.tower.image_size


def _check_weights(model: nn.Module) -> None:
    tensors = [*model.parameters(), *model.buffers()]
    for name, tensor in model.named_parameters():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {str(tensor.dtype).removeprefix('torch.')}: allowed is float32; "
                             "export model.float(), tools for ONNX make it smaller afterwards")
    size = sum(t.numel() * t.element_size() for t in tensors)
    if size > LARGEST:
        raise ValueError(f"{size / 2**30:.1f} GiB of weights: one ONNX file holds less than 2; allowed are smaller towers")


def _metadata(model: VideoClassifier, clip: ClipConfig | None, class_names: tuple[str, ...]) -> dict:
    config = model.config
    if class_names and len(class_names) != config.classes:
        raise ValueError(f"{len(class_names)} class names for a head of {config.classes}: allowed is one a class, or none")
    for name, own in (("frames", config.frames), ("size", config.tower.image_size)):
        if clip and getattr(clip, name) != own:
            raise ValueError(f"clip.{name} = {getattr(clip, name)}: this model takes {own}")
    if clip:
        check_scaling(config.tower, clip)
    return {
        "format": "i2vlib onnx 1", "clip": clip.to_dict() if clip else None, "class_names": list(class_names),
        "input": {"name": "video", "layout": "(B,T,3,H,W)", "dtype": "float32", "shape": ["batch", *_clip_shape(model)],
                  **(_recipe(clip) if clip else {})},
        "output": {"name": _output(model), "layout": "(B, classes), before softmax" if config.classes else "(B, D)"},
    }


def _recipe(clip: ClipConfig) -> dict:
    """From a video of n frames to the input, in words that need no line of this library; `frames` is Python."""
    T, span = clip.frames, (clip.frames - 1) * clip.stride
    frames = {"uniform": f"[(2 * i + 1) * n // {2 * T} for i in range({T})]",
              "dense": f"[(max(n - {span + 1}, 0) // 2 + i * {clip.stride}) % n for i in range({T})]"}[clip.sampling]
    picture = f"short side to {clip.test_short_side} (bilinear, antialiased), {clip.size}x{clip.size} out of the centre"
    return {"frames": frames, "picture": picture, "colours": "RGB", "values": "(x / 255 - mean) / std", "mean": clip.mean,
            "std": clip.std}


def _output(model: VideoClassifier) -> str:
    return "logits" if model.config.classes else "features"


def _graph(model: VideoClassifier, metadata: dict) -> bytes:
    """The bytes of the checked ONNX file."""
    try:
        import onnx
        from onnxscript import opset18 as op
    except ImportError as error:
        raise ImportError("an ONNX file needs packages that are not installed: pip install onnx onnxscript onnxruntime (the last "
                          "one compares the file's outputs with the model's)") from error

    def stable_sort(x, stable=None, dim=-1, descending=False):
        # what PyTorch's exporter lacks, and ToMe and STA rank by; of equals TopK puts the earlier first
        count = op.Reshape(op.Gather(op.Shape(x), op.Constant(value_int=dim), axis=0), op.Constant(value_ints=[1]))
        return op.TopK(x, count, axis=dim, largest=int(descending), sorted=1)

    program = torch.onnx.export(export_program(model), dynamo=True, opset_version=OPSET, verbose=False, input_names=["video"],
                                output_names=[_output(model)], dynamic_shapes=({0: "batch"},),
                                custom_translation_table={torch.ops.aten.sort.stable: stable_sort})
    program.model.metadata_props.update({key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()})
    graph = program.model_proto.SerializeToString()
    onnx.checker.check_model(graph, full_check=True)
    return graph


def _difference(model: VideoClassifier, graph: bytes) -> float | None:
    """The largest difference of the graph's outputs from the model's, relative. Raises ValueError above TOLERANCE."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    differences = []
    for batch in CHECKED_BATCHES:
        video = torch.randn(batch, *_clip_shape(model), generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            differences.append(relative(torch.from_numpy(session.run(None, {"video": video.numpy()})[0]), model(video)))
        if not differences[-1] <= TOLERANCE:  # nan is not
            raise ValueError(f"batch {batch}: the file's outputs differ from the model's by {differences[-1]:.1e} of the "
                             f"largest: allowed is {TOLERANCE:.0e}")
    return max(differences)


def relative(got: Tensor, want: Tensor) -> float:
    """The largest difference as a share of the largest number that is wanted."""
    return ((got - want).abs().max() / want.abs().max()).item()
