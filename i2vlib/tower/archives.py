"""Tensors out of files, without running code from them: safetensors, torch.save of any age, OpenAI's TorchScript archives.

A pickle is a program that may call anything. The reader here lets it build lists, dicts and tensors, and nothing else: whatever
other name it holds, be it a class of mmengine that is not installed or os.system, stands for Inert, which does nothing.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from i2vlib.tower.wrappers import plain_name

MODULE_PARTS = {"_modules", "_parameters", "_buffers"}  # where a pickled nn.Module keeps its children and tensors
LEGACY = 0x1950A86A20F9469CFC6C  # the number in front of what torch.save wrote before version 1.6
STORAGES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
            "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
            "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
            "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128}


class WeightsError(ValueError):
    """Weights that cannot be found, read, or do not fit the model."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a file, on the CPU, under its dotted path in the file's dicts: "state_dict.backbone.conv1.weight".

    What wrappers put into names (`module.`, `_orig_mod.`) is left out. Raises WeightsError for a file that cannot be read or
    has two tensors of one name.
    """
    path = Path(path).expanduser()
    try:
        with open(path, "rb") as file:
            head = file.read(9)
        if head.startswith(b"PK\x03\x04"):
            held = _read_zip(path)
        else:
            held = load_file(path) if head.endswith(b"{") and len(head) == 9 else _read_legacy(path)
    except Exception as error:  # a damaged file can fail in any of the readers in many ways
        reason = str(error).split("\n")[0] or type(error).__name__
        raise WeightsError(f"{path}: not a readable weights file: {reason}") from error
    return flat_tensors(held, str(path))


def flat_tensors(held: object, source: str) -> dict[str, Tensor]:
    """The tensors in nested dicts under their dotted plain names, in order. One dict under two names is met once."""
    if not isinstance(held, Mapping):
        raise WeightsError(f"{source}: holds a {type(held).__name__}: allowed is a dict of tensors, or dicts that hold one")
    found: dict[str, Tensor] = {}
    seen, todo = set(), [("", held)]
    while todo:
        name, value = todo.pop()
        if isinstance(value, Tensor):
            name = ".".join(part for part in plain_name(name).split(".") if part not in MODULE_PARTS)
            if name in found:
                raise WeightsError(f"{source}: holds two tensors of the name {name!r}")
            found[name] = value
        elif isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            todo += [(f"{name}.{key}" if name else str(key), inner) for key, inner in reversed(list(value.items()))]
    return found


def hash_tensors(state: Mapping[str, Tensor], start: bytes = b"") -> str:
    """SHA-256 of `start` and of every tensor's name, dtype, shape and bytes: 0.2 s for ViT-B where the processor has
    instructions for it."""
    digest = hashlib.sha256(start)
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class Inert(dict):
    """Stands for anything that a pickle names and that is no tensor: takes what is done to it, keeps the items, does nothing."""

    def __new__(cls, *_, **__):
        return super().__new__(Inert)  # also where `cls` is an instance

    def __init__(self, *arguments, **_):
        pairs = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], (dict, list, tuple)) else ()
        if isinstance(pairs, dict) or all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
            super().__init__(pairs)

    def __call__(self, *_, **__):
        return Inert()

    def take(self, state: object) -> None:
        """What a pickle gives to an object as its state: the attributes, or (attributes, slots)."""
        for part in state if isinstance(state, tuple) else (state,):
            self.update(part if isinstance(part, dict) else {})

    def append(self, *_):
        """Also `extend` and `add`: what a pickle does to lists and sets."""

    extend = add = append
    __hash__ = object.__hash__  # it may be a key
    __eq__ = object.__eq__


class Reader(pickle._Unpickler):
    """An unpickler for which the world holds tensors, lists and dicts. `storage`: (dtype, key, numbers, view) -> flat tensor.

    The Python form of the unpickler, because it can be closed: BUILD, which sets attributes, is for Inert alone, and the memo is
    a dict, which no index in the file can make large.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file, storage: Callable[..., Tensor]):
        super().__init__(file, encoding="utf-8")
        self.storage = storage

    def find_class(self, module, name):
        if module == "torch._utils" and name in REBUILDERS:
            return REBUILDERS[name]
        if module in ("torch", "torch.cuda", "torch.storage"):
            value = STORAGES.get(name) or getattr(torch, name, None)
            if isinstance(value, torch.dtype):
                return value
        return Inert

    def persistent_load(self, reference):
        kind, *data = reference
        if kind != "storage":  # a class with its source, in old files
            return Inert
        dtype, key, _, count, *view = data
        return self.storage(dtype, str(key), count, view[0] if view else None)

    def load_build(self):
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].take(state)

    dispatch[pickle.BUILD[0]] = load_build


def _tensor(flat: Tensor, offset: int, size: tuple, stride: tuple, *_) -> Tensor | Inert:
    """A view of a storage. One that claims more numbers than are stored (a copy of it could fill any memory) is none."""
    if not isinstance(flat, Tensor):
        return Inert()
    view = torch.as_strided(flat, size, stride, offset)  # raises where it would reach beyond the storage
    return view if view.numel() <= flat.numel() else Inert()


def _tensor_v3(flat: Tensor, offset: int, size: tuple, stride: tuple, grad, hooks, dtype: torch.dtype, *_) -> Tensor | Inert:
    return _tensor(flat.view(dtype) if isinstance(flat, Tensor) else flat, offset, size, stride)


def _parameter(data: Tensor, *_) -> Tensor:
    return data


REBUILDERS = {"_rebuild_tensor": _tensor, "_rebuild_tensor_v2": _tensor, "_rebuild_tensor_v3": _tensor_v3,
              "_rebuild_parameter": _parameter, "_rebuild_parameter_with_state": _parameter}


def _read_zip(path: Path) -> object:
    """What torch.save or torch.jit.save put into a zip archive. The program in the latter is neither compiled nor run."""
    archive = torch._C.PyTorchFileReader(str(path))
    with zipfile.ZipFile(path) as records:
        sizes = {info.filename.partition("/")[2]: info.file_size for info in records.infolist()}
    if sum(size for name, size in sizes.items() if name.startswith("data")) > path.stat().st_size:
        raise WeightsError("its tensors are packed: torch stores them as they are, and packs a program at most")
    if archive.has_record("byteorder") and archive.get_record("byteorder") == b"big":
        raise WeightsError("written on a machine whose bytes stand in the other order")
    storages: dict[str, Tensor] = {}

    def storage(dtype, key, count, _):
        if key not in storages:
            if not 0 <= count * dtype.itemsize <= sizes.get(f"data/{key}", 0):
                raise WeightsError(f"storage {key} of {count} numbers is not in the file")
            storages[key] = torch.empty(0, dtype=dtype)
            if count:
                raw = archive.get_storage_from_record(f"data/{key}", count, dtype).untyped_storage()
                storages[key] = torch.empty(0, dtype=dtype).set_(raw)
        return storages[key]

    return Reader(io.BytesIO(archive.get_record("data.pkl")), storage).load()


def _read_legacy(path: Path) -> object:
    """What torch.save wrote before version 1.6: five pickles, then the storages, each behind the count of its numbers."""
    storages: dict[str, Tensor] = {}
    left = path.stat().st_size

    def storage(dtype, key, count, view):
        nonlocal left
        if key not in storages:
            left -= count * dtype.itemsize
            if count < 0 or left < 0:
                raise WeightsError(f"storage {key} of {count} numbers is not in the file")
            storages[key] = torch.zeros(count, dtype=dtype)
        return storages[key] if view is None else storages[key][view[1]:view[1] + view[2]]

    with open(path, "rb") as file:
        if Reader(file, storage).load() != LEGACY:
            raise WeightsError("neither safetensors nor torch.save wrote it")
        _, _, held, keys = (Reader(file, storage).load() for _ in range(4))  # protocol, machine, objects, order of storages
        for key in keys:
            flat = storages[str(key)]
            count = int.from_bytes(file.read(8), "little")
            if count != len(flat) or file.readinto(flat.view(torch.uint8).numpy()) != flat.nbytes:
                raise WeightsError(f"storage {key} is cut off")
    return held
