"""A model as a graph: any batch, PyTorch's outputs; as an ONNX file that a server runs with what the file says of itself."""

import copy
import json
import sys

import pytest
import torch
from bench_export import FRAMES, build, clips, compiled, difference, exported

import i2vlib as i2v
from i2vlib.data.sampling import view_indices
from i2vlib.data.transforms import test_views as views_of
from i2vlib.tower import export

CLIP = i2v.ClipConfig(FRAMES, size=16, short_side=16, test_short_side=16)
NAMES = ("left", "right", "$\\frac{$", "<b>größer</b>", "")


@pytest.mark.parametrize("kind", ["InTI, cat, attention", "ZeroI2V and InTI", "InTI+ (both, InTI)", "ToMe, STDHA", "STA, STDHA",
                                  "UniFormerV2, stem, InTI", "AIM, STDHA, InTI", "EVL"])
def test_one_graph_serves_any_batch(kind):
    """The other kinds are made of the same parts; bench_export.py has them all."""
    model = build(kind)
    assert exported(model) <= 1e-6 and compiled(model) <= 1e-6


def test_a_compiled_model_trains_as_the_eager_one_does():
    """Relocation in place has a backward of its own; what is traced takes autograd's."""
    torch._dynamo.reset()
    grads = []
    for run in (lambda m: m, lambda m: torch.compile(m, fullgraph=True, backend="aot_eager")):
        model = build("ZeroI2V, unmerged")
        run(model)(clips(2)).square().sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 20
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.filterwarnings("ignore")
def test_a_traced_batch_is_not_frozen_in():
    for kind in ("ZeroI2V and InTI", "UniFormerV2, global"):
        model = build(kind)
        assert difference(torch.jit.trace(model, clips(2), check_trace=False), model) <= 1e-6


def test_frame_features_are_exported_by_a_module_that_calls_them():
    class Features(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, video):
            return self.model.frame_features(video)

    model = build("ZeroI2V, merged").double()
    graph = torch.export.export(Features(model), (clips(2).double(),), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    assert torch.equal(graph(clips(3).double()), model.frame_features(clips(3).double()))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(the unmerged model of both papers, its file, a session)"""
    onnxruntime = pytest.importorskip("onnxruntime")
    model, path = build("ZeroI2V and InTI").train(), tmp_path_factory.mktemp("onnx") / "model.onnx"
    before = copy.deepcopy(model.state_dict())
    assert 0 < i2v.export_onnx(model, path, CLIP, NAMES) <= 1e-5
    assert model.training and model.config.adaptation.kind == "linear"
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return model.eval(), path, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session, video):
    return torch.from_numpy(session.run(None, {"video": video.numpy()})[0])


def test_a_server_gets_the_models_outputs_for_any_batch(served):
    model, path, session = served
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"], "one file, no part is left"
    assert session.get_inputs()[0].shape == ["batch", FRAMES, 3, 16, 16] and session.get_outputs()[0].name == "logits"
    assert difference(lambda video: run(session, video), model) <= 1e-5
    other = build("ZeroI2V and InTI")
    other.backbone.transformer.compression["1"].predictor.score.weight.data.zero_()
    assert difference(lambda video: run(session, video), other) > 1e-3, "the negative control: InTI's weights mattered"
    for wrong in (torch.zeros(1, FRAMES, 3, 24, 24), torch.zeros(1, 2 * FRAMES, 3, 16, 16)):
        with pytest.raises(Exception, match="invalid dimensions"):
            run(session, wrong)


def test_the_file_alone_says_how_it_is_fed(served):
    """A server: NumPy and what the metadata says; no resizing in it, the video has the size already."""
    model, _, session = served
    about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert about["class_names"] == list(NAMES) and about["format"] == "i2vlib onnx 1"
    assert i2v.ClipConfig.from_dict(about["clip"]) == CLIP
    assert i2v.ModelConfig.from_dict(about["config"]) == i2v.merge(model).config
    video = torch.randint(256, (11, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    given = about["input"]
    chosen = video.numpy()[eval(given["frames"], {"n": len(video)})]
    fed = ((chosen / 255 - given["mean"]) / given["std"]).transpose(0, 3, 1, 2).astype("float32")[None]
    (indices,) = view_indices(len(video), CLIP)
    want = model(views_of(CLIP)(video[indices])).detach()
    torch.testing.assert_close(run(session, torch.from_numpy(fed)), want, rtol=0, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize("clip", [i2v.ClipConfig(8), i2v.ClipConfig(3), i2v.ClipConfig(8, "dense", 16),
                                  i2v.ClipConfig(5, "dense", 3), i2v.ClipConfig(1, "dense")])
def test_the_frames_that_the_file_names_are_those_of_the_middle_view(clip):
    for n in range(1, 150):
        assert eval(export._recipe(clip)["frames"], {"n": n}) == view_indices(n, clip)[0]


def test_tokens_that_are_merged_by_rank_are_those_that_pytorch_merges(tmp_path):
    """PyTorch's exporter knows no stable sort: ours puts the earlier of equals first, as a picture of one grey needs it."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = build("ToMe, STDHA")
    i2v.export_onnx(model, tmp_path / "tome.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "tome.onnx", providers=["CPUExecutionProvider"])
    assert difference(lambda video: run(session, video), model) <= 1e-5
    about = session.get_modelmeta().custom_metadata_map
    assert about["clip"] == "null" and "mean" not in json.loads(about["input"]), "nothing is said that was not given"


@pytest.fixture
def ready(served, tmp_path, monkeypatch):
    """(a model, a path where an older file lies): the graph is the fixture's, so that no test waits for another."""
    monkeypatch.setattr(export, "_graph", lambda model, metadata: served[1].read_bytes())
    (tmp_path / "model.onnx").write_text("older")
    return served[0], tmp_path / "model.onnx"


def test_a_file_whose_outputs_differ_does_not_replace_an_older_one(ready):
    model, path = ready
    assert i2v.export_onnx(model, path) <= 1e-5 and path.stat().st_size > 10_000
    path.write_text("older")
    for wrong in (0.01, float("nan")):
        other = copy.deepcopy(model)
        other.head.bias.data[0] += wrong
        with pytest.raises(ValueError, match="outputs differ from the model's by .* allowed is 1e-05"):
            i2v.export_onnx(other, path)
        assert [p.name for p in path.parent.iterdir()] == ["model.onnx"] and path.read_text() == "older"


def test_without_onnxruntime_nothing_is_compared(ready, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert i2v.export_onnx(*ready) is None and ready[1].stat().st_size > 10_000


@pytest.mark.parametrize("change, message", [
    ({"model": lambda m: m.half()}, "is float16: allowed is float32"),
    ({"model": lambda m: m.double()}, "is float64"),
    ({"class_names": ("a", "b")}, "2 class names for a head of 5"),
    ({"clip": i2v.ClipConfig(8, size=16)}, r"clip.frames = 8: .* takes 4"),
    ({"clip": i2v.ClipConfig(FRAMES)}, "clip.size = 224: this model takes 16")])
def test_what_cannot_be_is_refused_before_anything_is_traced(change, message, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_graph", None)
    model = change.get("model", lambda m: m)(build("plain tower"))
    with pytest.raises(ValueError, match=message):
        i2v.export_onnx(model, tmp_path / "model.onnx", change.get("clip"), change.get("class_names", ()))
    with pytest.raises(TypeError, match="a VideoViT: allowed is a VideoClassifier"):
        i2v.export_onnx(model.backbone, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_more_than_one_file_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LARGEST", 10_000)
    with pytest.raises(ValueError, match="GiB of weights: one ONNX file holds less than 2"):
        i2v.export_onnx(build("plain tower"), tmp_path / "model.onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_without_the_packages_the_message_names_them(missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match="pip install onnx onnxscript onnxruntime"):
        i2v.export_onnx(build("plain tower"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
