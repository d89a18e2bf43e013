"""Tensors come out of any archive; nothing in it runs, and nothing is allocated that the file does not hold."""

import argparse
import importlib.util
import os
import pickle
import random
import sys
import types
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from i2vlib.tower.archives import REBUILDERS, Inert, Reader, WeightsError, flat_tensors, read_tensors

TENSORS = {"a.weight": torch.randn(3, 4), "a.bias": torch.randn(4).half(), "b": torch.arange(5), "c": torch.randn(2, 6).T,
           "d": torch.tensor(1.5, dtype=torch.float64), "e": torch.zeros(0, 3), "f": torch.randn(4).bfloat16(),
           "g": torch.tensor([True, False])}


def same(found, wanted=TENSORS):
    return found.keys() == wanted.keys() and all(
        torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in wanted.items())


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request, tmp_path):
    """torch.save in the format of today and in that before 1.6; returns the path."""
    def write(held):
        torch.save(held, tmp_path / "w.pth", _use_new_zipfile_serialization=request.param)
        return tmp_path / "w.pth"
    return write


def stranger(name, **attributes):
    """An instance of a class of a module that is gone when the file is read."""
    module = sys.modules.setdefault("mmengine_gone", types.ModuleType("mmengine_gone"))
    kind = type(name, (), {"__module__": "mmengine_gone"})
    setattr(module, name, kind)
    thing = kind()
    vars(thing).update(attributes)
    return thing


class ConfigDict(dict):
    """Importable here, but not for the reader."""


def test_every_kind_of_tensor_comes_back(save):
    shared = torch.randn(4, 4)
    assert same(read_tensors(save(TENSORS)))
    assert same(read_tensors(save({"rows": shared[:2], "view": shared[1:, ::2]})), {"rows": shared[:2], "view": shared[1:, ::2]})
    state = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()  # an OrderedDict with _metadata
    assert same(read_tensors(save(state)), dict(state))
    parameter = nn.Parameter(torch.randn(2))
    parameter.note = "kept with its state"
    assert torch.equal(read_tensors(save({"p": parameter}))["p"], parameter)
    assert not any(v.requires_grad for v in read_tensors(save({"p": parameter})).values())


def test_an_epoch_checkpoint_of_mmengine_gives_its_tensors(save):
    history = stranger("HistoryBuffer", _log_history=np.random.rand(5), _statistics={"mean": len}, _max_length=10)
    held = {
        "meta": {"epoch": 40, "cfg": "model = dict()", "time": "2026", "dataset_meta": ConfigDict(classes=["a"])},
        "state_dict": OrderedDict(TENSORS),
        "message_hub": {"log_scalars": OrderedDict({"train/loss": history, "again": [history, (history,), {1}]}),
                        "runtime_info": {"seed": np.int64(3), "kind": np.dtype("float32"), "state": np.random.get_state(),
                                         "generator": np.random.default_rng(0), "device": torch.device("cpu"),
                                         "size": torch.Size([2])}},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "args": argparse.Namespace(lr=1.0), "by": defaultdict(list, {"k": [1]}), "random": random.getstate(),
        "fn": torch.nn.functional.gelu, "path": stranger("Other"),
    }
    path = save(held)
    del sys.modules["mmengine_gone"]
    found = read_tensors(path)
    assert found.pop("optimizer.state.0.step") == 3
    assert same(found, {f"state_dict.{k}": v for k, v in TENSORS.items()})


def test_a_pickled_module_gives_its_tensors(save):
    module = nn.Sequential(OrderedDict(first=nn.Linear(2, 3), norm=nn.BatchNorm1d(3)))
    assert same(read_tensors(save({"model": module})), {f"model.{k}": v for k, v in module.state_dict().items()})
    assert same(read_tensors(save(module)), dict(module.state_dict()))


# ---- nothing runs ----------------------------------------------------------------------------------------------------

class Calls:
    """Runs a call when it is unpickled, in one of the ways that a pickle has."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def touch(path):
    return f"open({str(path)!r}, 'w').close()"


@pytest.mark.parametrize("way", ["reduce", "exec", "eval", "new", "state", "setitem", "append", "key", "nested", "inst", "import",
                                 "getattr", "hooks", "load"])
def test_nothing_in_a_file_runs(save, tmp_path, way):
    mark = tmp_path / "ran"
    hostile = {
        "reduce": lambda: Calls(os.system, (f"touch {mark}",)),
        "exec": lambda: Calls(exec, (touch(mark),)),
        "eval": lambda: Calls(eval, (touch(mark),)),
        "new": lambda: Calls(type, ("X", (), {"__del__": Calls(exec, (touch(mark),))})),
        "state": lambda: Calls(Reader, (), {"find_class": 1, "file": Calls(os.system, (f"touch {mark}",))}),
        "setitem": lambda: Calls(dict, (), None, None, iter([("k", Calls(exec, (touch(mark),)))])),
        "append": lambda: Calls(list, (), None, iter([Calls(exec, (touch(mark),))])),
        "key": lambda: {Calls(exec, (touch(mark),)): 1},
        "nested": lambda: [[({"x": Calls(os.system, (f"touch {mark}",))},)]],
        "inst": lambda: Calls(os.popen, (f"touch {mark}",)),
        "import": lambda: Calls(__import__, ("antigravity",)),
        "getattr": lambda: Calls(getattr, ("text", "upper")),
        "hooks": lambda: Calls(torch._utils._rebuild_tensor_v2,
                               (Calls(exec, (touch(mark),)), 0, (1,), (1,), False, OrderedDict())),
        "load": lambda: Calls(pickle.loads, (pickle.dumps(Calls(exec, (touch(mark),))),)),
    }[way]()
    path = save({"state_dict": {"a": torch.ones(2)}, "other": hostile})
    assert same(read_tensors(path), {"state_dict.a": torch.ones(2)}), "a call that is not made leaves the tensors readable"
    assert not mark.exists() and "antigravity" not in sys.modules


def opcodes(path, code: bytes) -> str:
    """A torch archive with a pickle written by hand."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", code)
        archive.writestr("w/version", "3\n")
        archive.writestr("w/data/0", bytes(16))
    return str(path)


GLOBAL_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"


@pytest.mark.parametrize("code", [
    b"\x80\x02cos\nsystem\n(X\x08\x00\x00\x00touch rantR.",  # REDUCE
    b"\x80\x02(X\x08\x00\x00\x00touch ranios\nsystem\n.",  # INST
    b"\x80\x02(cos\nsystem\nX\x08\x00\x00\x00touch rano.",  # OBJ
    b"\x80\x02cos\nsystem\nX\x08\x00\x00\x00touch ran\x85\x81.",  # NEWOBJ
    b"\x80\x02" + GLOBAL_TENSOR + b"}X\x0c\x00\x00\x00__defaults__)sb0}.",  # BUILD on a function of ours
    b"\x80\x02" + GLOBAL_TENSOR + b"N}X\x0c\x00\x00\x00__defaults__)s\x86b0}.",  # and by its slots
    b"\x80\x02ccollections\nOrderedDict\nN}X\x03\x00\x00\x00getX\x01\x00\x00\x00as\x86b0}.",  # BUILD on a class
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran2\x85R.",  # STACK_GLOBAL
])
def test_by_hand_too(tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    before = {k: (vars(v).copy(), v.__defaults__) for k, v in REBUILDERS.items()}
    with suppress(WeightsError):
        assert read_tensors(opcodes(tmp_path / "w.pt", code)) == {}
    assert not list(tmp_path.glob("ran*"))
    assert before == {k: (vars(v).copy(), v.__defaults__) for k, v in REBUILDERS.items()}
    assert Inert({"a": 1}).get("a") == 1


# ---- nothing is allocated that is not there --------------------------------------------------------------------------

def rebuilt(count: bytes, size: bytes, stride: bytes) -> bytes:
    """{"w": a tensor of such a size on a storage that says it has so many numbers}."""
    return (b"\x80\x02}X\x01\x00\x00\x00w" + GLOBAL_TENSOR + b"(" + STORAGE + count + b"tQK\x00" + size + stride
            + b"\x89ccollections\nOrderedDict\n)RtRs.")


def number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little")


@pytest.mark.parametrize("code, kept", [
    (rebuilt(b"K\x04", b"K\x04\x85", b"K\x01\x85"), True),
    (rebuilt(number(10**12), b"K\x04\x85", b"K\x01\x85"), False),  # the storage is not there
    (rebuilt(b"K\x04", number(10**12) + b"\x85", b"K\x01\x85"), False),  # the tensor reaches beyond it
    (rebuilt(b"K\x04", number(10**12) + b"\x85", b"K\x00\x85"), False),  # one number, a trillion times
    (rebuilt(number(2**63 - 2), b"K\x04\x85", b"K\x01\x85"), False),
])
def test_a_tensor_is_as_large_as_its_storage_at_most(tmp_path, code, kept):
    path = opcodes(tmp_path / "w.pt", code)
    try:
        found = read_tensors(path)
    except WeightsError:
        found = {}
    assert ("w" in found) == kept


def test_packed_records_and_memo_bombs_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\x80\x02}.")
        archive.writestr("w/version", "3\n")
        archive.writestr("w/data/0", bytes(10**7))
    with pytest.raises(WeightsError, match="its tensors are packed"):
        read_tensors(tmp_path / "w.pt")
    assert read_tensors(opcodes(tmp_path / "m.pt", b"\x80\x02}r\xff\xff\xff\x7f.")) == {}  # a memo with place two billion


def test_a_torchscript_archive_whose_program_is_packed(tmp_path):
    """As OpenAI's: the program is packed and larger than what is left of the file."""
    lines = "\n".join(f"        x = x + self.weight * {i}.0" for i in range(400))
    module = tmp_path / "much_program.py"  # torch.jit.script wants the source
    module.write_text("import torch\nclass Much(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
                      "        self.weight = torch.nn.Parameter(torch.arange(3.0))\n"
                      f"    def forward(self, x: torch.Tensor):\n{lines}\n        return x\n")
    spec = importlib.util.spec_from_file_location("much_program", module)
    sys.modules["much_program"] = much = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(much)
    path = tmp_path / "much.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(much.Much()).save(str(path))
    with zipfile.ZipFile(path) as records:
        assert sum(info.file_size for info in records.infolist()) > path.stat().st_size
    assert same(read_tensors(path), {"weight": torch.arange(3.0)})


def test_dicts_in_circles_and_deep_ones_end():
    circle = {"a": torch.ones(1)}
    circle["self"] = circle
    assert list(flat_tensors(circle, "x")) == ["a"]
    deep = state = {}
    for _ in range(20_000):
        deep["d"] = deep = {}
    deep["t"] = torch.ones(1)
    assert len(flat_tensors(state, "x")) == 1
    wide = {"t": torch.ones(1)}
    for _ in range(200):  # 2^200 paths to one dict
        wide = {"l": wide, "r": wide}
    assert len(flat_tensors(wide, "x")) == 1


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(WeightsError, match="x: holds two tensors of the name 'a.w'"):
        flat_tensors({"module.a.w": torch.ones(1), "a.w": torch.zeros(1)}, "x")


def test_what_holds_no_dict_is_named(save):
    with pytest.raises(WeightsError, match="w.pth: holds a list"):
        read_tensors(save([torch.ones(1)]))
    with pytest.raises(WeightsError, match="w.pth: holds a Tensor"):
        read_tensors(save(torch.ones(1)))


def test_damage_is_named_whatever_it_hits(save):
    path, draw = save(TENSORS), random.Random(0)
    whole = path.read_bytes()
    for i in range(150):
        data = bytearray(whole[:draw.randrange(len(whole))] if i % 3 == 0 else whole)
        for _ in range(draw.randrange(1, 10) if i % 3 else 0):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data)
        try:
            read_tensors(path)
        except WeightsError as error:
            assert "w.pth" in str(error)
