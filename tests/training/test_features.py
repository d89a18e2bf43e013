"""Training from kept features is training from the videos; what would not be the same is refused."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from i2vlib.config import (
    FOUR_ADAPTERS,
    AdaptationConfig,
    ConfigError,
    ModelConfig,
    TemporalConfig,
    TowerConfig,
)
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.video import write_clip
from i2vlib.protocol import ClipConfig, TrainConfig
from i2vlib.tower.classifier import build_model, merge
from i2vlib.training import features
from i2vlib.training.evaluate import evaluate
from i2vlib.training.features import check_clips, keep_features, tower_hash
from i2vlib.training.train import train

TOWER = TowerConfig(32, 16, 32, 3, 2, 2.0, 0)
CONFIG = ModelConfig(TOWER, TemporalConfig((-1, 1), embedding=True), AdaptationConfig("linear", FOUR_ADAPTERS, dropout=0.0), 4, 2,
                     head_dropout=0.0, upper=1)
CLIP = ClipConfig(4, size=32, short_side=32, test_short_side=32, random_crop=False, flip=0.0)
RUN = TrainConfig(steps=6, batch_size=8, lr=1e-2, workers=0, precision="no")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """20 clips of noise, two chunks; clip 3 is damaged."""
    root = tmp_path_factory.mktemp("videos")
    g = torch.Generator().manual_seed(0)
    for i in range(20):
        write_clip(root / f"{i}.mp4", torch.randint(256, (4, 48, 64, 3), generator=g, dtype=torch.uint8))
    (root / "3.mp4").write_bytes(b"no video")
    (root / "list.txt").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in range(20)))
    return root


def clips(root: Path, train: bool = False, **changes) -> VideoDataset:
    return VideoDataset(root / "list.txt", root, replace(CLIP, **changes), train=train)


def model(config: ModelConfig = CONFIG):
    torch.manual_seed(0)
    return build_model(config)


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_training_and_testing_give_what_they_give_from_the_videos(videos, tmp_path):
    results = []
    for name, data in (("video", clips(videos)), ("kept", keep_features(model(), clips(videos), tmp_path / "f", progress=False))):
        net = model()
        summary = train(net, data, RUN, tmp_path / name, val_set=data, progress=False)
        scores = evaluate(net, data, progress=False)
        results.append((summary["loss"], scores, net.state_dict()))
        assert list(scores.bad_files) and "3.mp4" in next(iter(scores.bad_files)) and len(scores.scores) == 19
    (loss, scores, state), (kept_loss, kept_scores, kept_state) = results
    assert kept_loss == pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(kept_scores.scores, scores.scores, rtol=0, atol=1e-5)
    assert not torch.equal(state["backbone.temporal_embedding"], model().state_dict()["backbone.temporal_embedding"])
    for name in state:
        torch.testing.assert_close(kept_state[name], state[name], rtol=0, atol=1e-4)


def test_views_are_kept_apart(videos, tmp_path):
    views = clips(videos, test_short_side=40, test_crops=3)
    data = keep_features(model(), views, tmp_path, progress=False)
    assert data[0]["video"].shape == (3, 4, 5, 32)
    with torch.no_grad():
        torch.testing.assert_close(data[19]["video"], model().eval().backbone.lower(views[19]["video"]), rtol=0, atol=1e-5)
    assert data[19]["label"] == 1 and data[3]["weight"] == 0 and "no video" not in data[3]["error"] and data[3]["error"]


def test_a_part_is_a_set_of_its_own(videos, tmp_path):
    data = keep_features(model(), clips(videos), tmp_path, progress=False)
    part = data.part([18, 3, 1]).part([0, 2])
    assert len(part) == 2 and [e.path for e in part.entries] == ["18.mp4", "1.mp4"] and len(data) == 20
    assert torch.equal(part[1]["video"], data[1]["video"]) and (part[0]["label"], part[0]["index"]) == (0, 0)
    assert len(evaluate(model(), part, progress=False).scores) == 2


def test_what_is_there_is_found_again_and_what_changed_is_not(videos, tmp_path):
    root, folder = tmp_path / "videos", tmp_path / "features"
    shutil.copytree(videos, root)
    write_clip(root / "3.mp4", torch.zeros(4, 48, 64, 3, dtype=torch.uint8))
    keep_features(model(), clips(root), folder, progress=False)
    before = written(folder)
    assert len(before) == 2
    keep_features(merge(model()), clips(root), folder, progress=False)
    assert written(folder) == before, "a merged model has the same lower blocks"
    os.utime(root / "17.mp4", (1, 1))
    keep_features(model(), clips(root), folder, progress=False)
    assert len(written(folder)) == 3 and before.items() <= written(folder).items(), "the other chunk is as it was"
    other = model()
    with torch.no_grad():
        other.backbone.transformer.resblocks[1].ln_1.bias[0] += 1
    for net, changes in ((other, {}), (model(replace(CONFIG, upper=2)), {}), (model(), {"test_short_side": 40})):
        count = len(written(folder))
        keep_features(net, clips(root, **changes), folder, progress=False)
        assert len(written(folder)) == count + 2


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:100]), Path.unlink])
def test_a_damaged_file_and_one_with_unread_clips_are_made_again(videos, tmp_path, damage):
    first = keep_features(model(), clips(videos), tmp_path, progress=False)
    whole = first[16]["video"].clone()  # the item is a view of the file
    damage(first.chunks[1])
    before = written(tmp_path)
    again = keep_features(model(), clips(videos), tmp_path, progress=False)
    assert torch.equal(again[16]["video"], whole)
    assert written(tmp_path)[first.chunks[0].name] != before[first.chunks[0].name], "clip 3 is tried again"


def test_an_interrupted_call_goes_on(videos, tmp_path, monkeypatch):
    write, calls = features._write, []

    def once(path, tokens, errors):
        if calls:
            raise KeyboardInterrupt
        calls.append(path)
        write(path, tokens, errors)

    good = videos / "good.txt"
    good.write_text("".join(f"{i}.mp4 0\n" for i in [*range(4, 20), 0]))
    data = VideoDataset(good, videos, CLIP, train=False)
    monkeypatch.setattr(features, "_write", once)
    with pytest.raises(KeyboardInterrupt):
        keep_features(model(), data, tmp_path, progress=False)
    before = written(tmp_path)
    assert len(before) == 1
    monkeypatch.setattr(features, "_write", write)
    keep_features(model(), data, tmp_path, progress=False)
    assert before.items() <= written(tmp_path).items() and len(written(tmp_path)) == 2


def test_what_would_not_be_the_same_is_refused(videos, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="upper = 0"):
        keep_features(model(replace(CONFIG, upper=0)), clips(videos), tmp_path)
    with pytest.raises(ConfigError, match="train=False"):
        keep_features(model(), clips(videos, train=True), tmp_path)
    data, other = keep_features(model(), clips(videos), tmp_path, progress=False), model(replace(CONFIG, upper=2))
    for call in (lambda: evaluate(other, data), lambda: train(other, data, RUN, tmp_path / "run")):
        with pytest.raises(ConfigError, match="another tower, or from another number"):
            call()
    with pytest.raises(ConfigError, match="mixup and cutmix"):
        train(model(), data, replace(RUN, mixup=0.8), tmp_path / "run")
    check_clips(model(), data)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10))
    with pytest.raises(OSError, match="20 clips take 0.0 GiB"):
        keep_features(model(), clips(videos), tmp_path / "full")
    assert not list((tmp_path / "full").iterdir())


def test_the_hash_is_of_the_lower_blocks_alone():
    net = model()
    before = tower_hash(net)
    with torch.no_grad():
        net.backbone.transformer.resblocks[2].ln_1.bias += 1
        net.backbone.ln_post.bias += 1
    assert tower_hash(net) == before
    for name in ("conv1.weight", "positional_embedding", "transformer.resblocks.1.mlp.c_proj.bias"):
        net = model()
        with torch.no_grad():
            net.get_parameter(f"backbone.{name}").add_(1)
        assert tower_hash(net) != before, name
