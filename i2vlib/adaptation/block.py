"""The adapters of one block, of whatever kind, and how those that can merge go into the weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from i2vlib.adaptation.aim import aim_adapter
from i2vlib.adaptation.beside import HeadColumns, HeadRows, LoRA, head_channels
from i2vlib.adaptation.linear import GELUAdapter, LinearAdapter, merge_before, merge_behind, with_float64
from i2vlib.adaptation.st_adapter import STAdapter, st_multiply_adds
from i2vlib.config import ModelConfig

BESIDE = (LoRA, HeadRows, HeadColumns)


def make_adapters(config: ModelConfig) -> nn.ModuleDict:
    """What is trained in a block beside its own weights, by place (config.PLACES); empty for frozen and full."""
    tower, adaptation = config.tower, config.adaptation
    width, hidden = tower.width, int(tower.width * tower.mlp_ratio)
    if adaptation.kind == "heads":
        moved = head_channels(config.temporal.offsets, width)
        return nn.ModuleDict({place: HeadRows(width, moved) for place in "qkv"} | {"attn_out": HeadColumns(width, moved)})

    def adapter(place: str) -> nn.Module:
        if adaptation.kind == "lora":
            inputs, outputs = {"mlp_in": (width, hidden), "mlp_out": (hidden, width)}.get(place, (width, width))
            return LoRA(inputs, outputs, max(1, int(width * adaptation.ratio)), adaptation)
        if adaptation.kind == "st_adapter":
            return STAdapter(width, tower.grid**2, adaptation)
        if adaptation.kind == "aim":
            return aim_adapter(place, width, adaptation)
        return {"linear": LinearAdapter, "gelu": GELUAdapter}[adaptation.kind](width, adaptation)

    return nn.ModuleDict({place: adapter(place) for place in adaptation.places})


def in_front(adapters: Mapping[str, nn.Module], place: str) -> list[nn.Module]:
    """The adapter of a place if its input is a norm's output and its own output the weight's input: one or none."""
    return [adapters[place]] if place in adapters and isinstance(adapters[place], LinearAdapter) else []


def beside(adapters: Mapping[str, nn.Module], place: str, x: Tensor, y: Tensor) -> Tensor:
    """y, what the weight at a place gives for x, with what stands beside that weight."""
    return y + adapters[place](x) if place in adapters and isinstance(adapters[place], BESIDE) else y


def on_stream(adapters: Mapping[str, nn.Module], place: str, x: Tensor, frames: int) -> Tensor:
    """x (B·T, N, D) through the adapter over time of a place, if it is one."""
    return adapters[place](x, frames) if place in adapters and isinstance(adapters[place], STAdapter) else x


def adapter_multiply_adds(config: ModelConfig, frames: int, tokens: int, left: int) -> int:
    """Multiply-adds of one block's adapters for one clip: tokens a frame at attention, `left` of them at the MLP.

    A serial adapter: 2·D·rD a token. LoRA: rD·(inputs + outputs). ST-Adapter: see st_multiply_adds. heads: 4·D·(their channels).
    """
    tower, adaptation = config.tower, config.adaptation
    D, hidden, r = tower.width, int(tower.width * tower.mlp_ratio), max(1, int(tower.width * adaptation.ratio))
    if adaptation.kind == "heads":
        return frames * tokens * 4 * D * len(head_channels(config.temporal.offsets, D))
    if adaptation.kind == "st_adapter":
        return len(adaptation.places) * st_multiply_adds(frames, tower.grid**2, D, r)
    total = 0
    for place in adaptation.places:
        wide = adaptation.kind == "lora" and place.startswith("mlp")
        total += frames * (left if place.startswith("mlp") else tokens) * r * (D + (hidden if wide else D))
    return total


# ---- merging ----

# place -> where its weight lies, and which of the packed q, k, v
LAYERS = {"qkv": ("attn.in_proj_", None), "q": ("attn.in_proj_", 0), "k": ("attn.in_proj_", 1), "v": ("attn.in_proj_", 2),
          "attn_out": ("attn.out_proj.", None), "mlp_in": ("mlp.c_fc.", None), "mlp_out": ("mlp.c_proj.", None)}


def merged_state(blocks: Mapping[str, nn.Module], state: Mapping[str, Tensor],
                 layers: Mapping[str, tuple[str, int | None]] = LAYERS) -> dict[str, Tensor]:
    """A state dict in which the adapters of `blocks` (prefix in `state` -> block) are folded into the weights beside them.

    layers: where in a block those weights lie, LAYERS in a plain ViT. Returns new tensors where something is folded; keys of
    adapters are dropped. Raises ValueError for adapters that cannot merge.
    """
    merged = {k: with_float64(v) for k, v in state.items() if ".adapters." not in k}
    for prefix, block in blocks.items():
        for place, adapter in block.adapters.items():
            _fold(merged, prefix, place, adapter, layers)
    return merged


def _fold(state: dict[str, Tensor], prefix: str, place: str, adapter: nn.Module,
          layers: Mapping[str, tuple[str, int | None]]) -> None:
    if isinstance(adapter, STAdapter):
        raise ValueError("an ST-Adapter cannot be merged: it reads other frames; train with kind='linear' for a model that "
                         "merges")
    change = adapter.difference() if isinstance(adapter, BESIDE) else adapter.affine()
    layer, third = layers[place]
    weight, bias = f"{prefix}.{layer}weight", f"{prefix}.{layer}bias"
    W, b = state[weight].clone(), state[bias].clone()
    width = W.shape[1]
    rows = slice(None) if third is None else slice(third * width, (third + 1) * width)  # only the adapter's rows change
    if isinstance(adapter, BESIDE):
        dW, db = change
        W[rows] = (W[rows].double() + dW).to(W.dtype)
        b[rows] = b[rows] if db is None else (b[rows].double() + db).to(b.dtype)
    else:
        W[rows], b[rows] = (merge_behind if place.endswith("_out") else merge_before)(W[rows], b[rows], *change)
    state[weight], state[bias] = W, b
