"""A plain ViT out of an ONNX file, as data: the graph is read, never run.

For what PyTorch's exporter writes of transformers' Dinov2Model. Biases, norms and LayerScale keep their names there, the
matrices lose theirs (`onnx::MatMul_1966`): each is found as what is multiplied in front of its bias. Head of whatever kind that
lies beside the backbone is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from i2vlib.config import IMAGENET_MEAN, IMAGENET_STD, TowerConfig
from i2vlib.tower.archives import WeightsError

LINEARS = {"attention.attention.query": "q", "attention.attention.key": "k", "attention.attention.value": "v",
           "attention.output.dense": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
SCALES = {"attn.out_proj": "layer_scale1.lambda1", "mlp.c_proj": "layer_scale2.lambda1"}


class Graph:
    """The tensors of an ONNX model by name, and who makes and reads each. Raises WeightsError where it cannot be read."""

    def __init__(self, data: bytes, source: str):
        try:
            import onnx
        except ImportError as error:
            raise WeightsError(f"{source}: the package onnx reads it: pip install onnx") from error
        self.source, self._array = source, onnx.numpy_helper.to_array
        try:
            graph = onnx.load_model_from_string(data).graph
        except Exception as error:  # protobuf's own kinds
            raise WeightsError(f"{source}: not a readable ONNX file ({type(error).__name__})") from error
        self.held = {tensor.name: tensor for tensor in graph.initializer}
        self.nodes = list(graph.node)
        self.maker = {name: node for node in self.nodes for name in node.output}
        constants = [node for node in self.nodes if node.op_type == "Constant"]
        self.held |= {node.output[0]: part.t for node in constants for part in node.attribute if part.name == "value"}

    def value(self, name: str) -> np.ndarray:
        """A stored tensor in float64. Raises WeightsError where there is none."""
        if name not in self.held:
            raise WeightsError(f"{self.source}: no tensor {name!r}: allowed is what PyTorch exports of transformers' Dinov2Model")
        return self._array(self.held[name]).astype(np.float64)

    def readers(self, name: str, kind: str) -> Iterator:
        """The nodes of a kind that read a tensor."""
        return (node for node in self.nodes if node.op_type == kind and name in node.input)

    def only(self, found: Iterator, what: str):
        """The one thing found. Raises WeightsError where it is none or several."""
        found = list(found)
        if len(found) != 1:
            raise WeightsError(f"{self.source}: {len(found)} candidates for {what}: allowed is one")
        return found[0]

    def matrix(self, bias: str) -> np.ndarray:
        """The matrix (out, in) of the linear layer whose bias has this name: what is multiplied in front of it."""
        add = self.only(self.readers(bias, "Add"), f"the layer of {bias}")
        product = self.only((self.maker[n] for n in add.input if n in self.maker), f"the product in front of {bias}")
        name = self.only((n for n in product.input if n in self.held), f"the matrix of {bias}")
        return self.value(name).T

    def epsilon(self, weight: str) -> float:
        """What the LayerNorm with this weight adds to the variance, as it was written: 1e-06, not its nearest float32."""
        scaled = self.only(self.readers(weight, "Mul"), f"the norm of {weight}")
        divide = self.only((self.maker[n] for n in scaled.input if n in self.maker), f"the division of {weight}")
        root = self.only((self.maker[n] for n in divide.input if n in self.maker and self.maker[n].op_type == "Sqrt"),
                         f"the root in {weight}")
        name = self.only((n for n in self.maker[root.input[0]].input if n in self.held), f"the epsilon of {weight}")
        return float(f"{self.value(name).item():.6g}")

    def head_width(self) -> int:
        """Channels of a head, from what queries and keys are scaled by: each d^-1/4, in every block alike."""
        found = set()
        for softmax in (node for node in self.nodes if node.op_type == "Softmax"):
            scales = [self.value(name).item() for side in self.maker[softmax.input[0]].input
                      for name in self.maker[side].input if name in self.held]
            found.add(round(math.prod(scales) ** -2) if scales else 0)
        return self.only(iter(found), "the width of a head")


def read_tower(data: bytes, source: str) -> tuple[dict[str, Tensor], TowerConfig]:
    """An ONNX file's bytes -> (tensors under open_clip's names, float32; the tower's config).

    Folded in float64, cast once: LayerScale into out_proj and c_proj, the bias of the patch convolution into the positions of
    the patches. Mean and std are ImageNet's: a graph does not tell them. Raises WeightsError for a graph of another form.
    """
    graph = Graph(data, source)
    front = graph.only((n[:-len("embeddings.cls_token")] for n in graph.held if n.endswith("embeddings.cls_token")),
                       "the class token (embeddings.cls_token)")
    layers = {int(m.group(1)) for n in graph.held if (m := re.match(rf"{re.escape(front)}encoder\.layer\.(\d+)\.", n))}
    if layers != set(range(len(layers))) or not layers:
        raise WeightsError(f"{source}: blocks {sorted(layers)}: allowed are 0, 1, 2, ... without a gap")
    conv = graph.value(f"{front}embeddings.patch_embeddings.projection.weight")
    positions = _positions(graph, conv.shape[0])
    positions[1:] += graph.value(f"{front}embeddings.patch_embeddings.projection.bias")
    state = {"class_embedding": graph.value(f"{front}embeddings.cls_token").reshape(-1), "positional_embedding": positions,
             "conv1.weight": conv, "ln_post.weight": graph.value(f"{front}layernorm.weight"),
             "ln_post.bias": graph.value(f"{front}layernorm.bias")}
    epsilons = {graph.epsilon(f"{front}layernorm.weight")}
    for i in sorted(layers):
        state |= {f"transformer.resblocks.{i}.{k}": v for k, v in _block(graph, f"{front}encoder.layer.{i}.").items()}
        epsilons |= {graph.epsilon(f"{front}encoder.layer.{i}.norm{j}.weight") for j in (1, 2)}
    if sum(node.op_type == "Erf" for node in graph.nodes) != len(layers):
        raise WeightsError(f"{source}: its activation is not GELU in every block: allowed is GELU")
    width, hidden = conv.shape[0], len(state["transformer.resblocks.0.mlp.c_fc.bias"])
    tower = TowerConfig(image_size=conv.shape[2] * math.isqrt(len(positions) - 1), patch_size=conv.shape[2], width=width,
                        layers=len(layers), heads=width // graph.head_width(), mlp_ratio=hidden / width, output_dim=0,
                        quick_gelu=False, ln_pre=False, norm_eps=graph.only(iter(epsilons), "the epsilon of the norms"),
                        mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return {name: torch.from_numpy(np.ascontiguousarray(value)).float() for name, value in state.items()}, tower


def _positions(graph: Graph, width: int) -> np.ndarray:
    """(1+g², D): two nameless tensors, told by their shape and by what reads them."""
    def stored(reader: str, fits) -> np.ndarray:
        return graph.value(graph.only(
            (n for n, t in graph.held.items() if len(t.dims) == 3 and t.dims[0] == 1 and t.dims[2] == width and fits(t.dims[1])
             and any(graph.readers(n, reader))), "the positions")).reshape(-1, width)

    return np.concatenate([stored("Concat", lambda n: n == 1), stored("Reshape", lambda n: n > 1)])


def _block(graph: Graph, front: str) -> dict[str, np.ndarray]:
    """The tensors of one block under open_clip's names."""
    found = {f"ln_{i}.{part}": graph.value(f"{front}norm{i}.{part}") for i in (1, 2) for part in ("weight", "bias")}
    for theirs, ours in LINEARS.items():
        scale = graph.value(front + SCALES[ours]) if ours in SCALES else np.ones(1)
        bias = f"{front}{theirs}.bias"
        found |= {f"{ours}.weight": graph.matrix(bias) * scale[:, None], f"{ours}.bias": graph.value(bias) * scale}
    for part in ("weight", "bias"):
        found[f"attn.in_proj_{part}"] = np.concatenate([found.pop(f"{letter}.{part}") for letter in "qkv"])
    return found
