"""The kinds of model that leave the notebook, and what tracing changes in their outputs, as a table.

    python tests/tower/bench_export.py [--backend inductor] [kind ...]

Small random models, everything away from where it starts. A figure is the largest difference from PyTorch's own outputs at
batches 1, 3 and 16, as a share of the largest output; a failure shows the exception's name.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import i2vlib as i2v
from i2vlib.config import AIM_PLACES
from i2vlib.tower.export import relative

BATCHES = (1, 3, 16)
TOWER = i2v.TowerConfig(16, 8, 32, 2, 4, 2.0, 16, True)  # 2x2 patches
FRAMES = 4
STDHA = i2v.TemporalConfig((-1, 1, 0, 3), embedding=True)
ADAPTERS = i2v.AdaptationConfig("linear", i2v.FOUR_ADAPTERS)
GELU = i2v.AdaptationConfig("gelu", i2v.SIX_ADAPTERS)
LORA = i2v.AdaptationConfig("lora", i2v.SIX_ADAPTERS)
ST = i2v.AdaptationConfig("st_adapter", i2v.FOUR_ADAPTERS)
AIM = i2v.AdaptationConfig("aim", AIM_PLACES)
PLAIN, FROZEN = i2v.TemporalConfig(), i2v.AdaptationConfig()
INTI = i2v.CompressionConfig("inti", (1, 2))

KINDS = {
    "plain tower": {},
    "ZeroI2V, unmerged": {"temporal": STDHA, "adaptation": ADAPTERS},
    "ZeroI2V, merged": {"temporal": STDHA, "adaptation": ADAPTERS},
    "STDHA, GELU adapters": {"temporal": STDHA, "adaptation": GELU},
    "STDHA, LoRA": {"temporal": STDHA, "adaptation": LORA},
    "STDHA, temporal heads": {"temporal": STDHA, "adaptation": i2v.AdaptationConfig("heads")},
    "STDHA, ST-Adapters, InTI": {"temporal": STDHA, "adaptation": ST, "compression": INTI},
    "InTI": {"compression": INTI},
    "InTI, token only": {"compression": replace(INTI, levels=("token",))},
    "InTI, frame and global only": {"compression": replace(INTI, levels=("frame", "global"))},
    "InTI, add, sigmoid": {"compression": replace(INTI, fusion="add", head="sigmoid")},
    "InTI, cat, attention": {"compression": replace(INTI, fusion="cat", head="attention")},
    "ZeroI2V and InTI": {"temporal": STDHA, "adaptation": ADAPTERS, "compression": INTI},
    "UniFormerV2, local": {"temporal": i2v.TemporalConfig(local=True)},
    "UniFormerV2, global": {"temporal": i2v.TemporalConfig(global_blocks=2)},
    "InTI+ (both, InTI)": {"temporal": i2v.TemporalConfig(local=True, global_blocks=2), "compression": INTI},
    "UniFormerV2, stem, InTI": {"temporal": i2v.TemporalConfig(stem=True, embedding=True),
                                "compression": i2v.CompressionConfig("inti", (1,))},
    "AIM, STDHA, InTI": {"temporal": STDHA, "adaptation": AIM, "compression": INTI},
    "EVL": {"temporal": i2v.TemporalConfig(evl=2)},
    "mean pooling": {"compression": i2v.CompressionConfig("mean", (1, 2))},
    "LinearPooling": {"compression": i2v.CompressionConfig("linear", (1, 2))},
    "ConvPooling": {"compression": i2v.CompressionConfig("conv", (1, 2))},
    "ToMe, STDHA": {"temporal": STDHA, "compression": i2v.CompressionConfig("tome", remove=1)},
    "STA, STDHA": {"temporal": STDHA, "compression": i2v.CompressionConfig("sta", (1, 2), remove=1)},
    "no head": {"temporal": STDHA, "classes": 0},
}


def build(kind: str) -> i2v.VideoClassifier:
    """The model of a kind in eval mode, every parameter and running statistic away from its start."""
    torch.manual_seed(0)
    config = i2v.ModelConfig(**{"tower": TOWER, "frames": FRAMES, "classes": 5, **KINDS[kind]})
    model = i2v.build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
    return i2v.merge(model) if kind.endswith(", merged") else model


def clips(batch: int) -> torch.Tensor:
    return torch.randn(batch, FRAMES, 3, TOWER.image_size, TOWER.image_size, generator=torch.Generator().manual_seed(batch))


@torch.no_grad()
def difference(run: Callable[[torch.Tensor], torch.Tensor], model: i2v.VideoClassifier) -> float:
    """The largest over BATCHES."""
    return max(relative(run(clips(b)), model(clips(b))) for b in BATCHES)


def exported(model: i2v.VideoClassifier) -> float:
    return difference(i2v.export_program(model).module(), model)


def compiled(model: i2v.VideoClassifier, backend: str = "eager") -> float:
    torch._dynamo.reset()
    return difference(torch.compile(model, fullgraph=True, dynamic=True, backend=backend), model)


def served(model: i2v.VideoClassifier, path: Path) -> float:
    """Of the ONNX file in onnxruntime."""
    import onnxruntime

    i2v.export_onnx(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return difference(lambda video: torch.from_numpy(session.run(None, {"video": video.numpy()})[0]), model)


def cell(measure: Callable[..., float], *given) -> str:
    try:
        return f"{measure(*given):.1e}"
    except Exception as error:  # any failure is a row's result
        return type(error).__name__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="kind", help=f"of: {'; '.join(KINDS)}")
    parser.add_argument("--backend", default="aot_eager", help="of torch.compile; inductor needs a C++ compiler and minutes")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print(f"| kind of model | torch.export | ONNX | torch.compile(fullgraph=True), {args.backend} |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.kinds or KINDS:
            model = build(kind)
            cells = (cell(exported, model), cell(served, model, Path(folder, "model.onnx")), cell(compiled, model, args.backend))
            print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
