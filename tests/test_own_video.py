"""A file in, probabilities out; a folder in, list files out; and a message for whatever a person may bring instead."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime

import matplotlib.pyplot as plt
import pytest
import torch
from _train_victim import MODEL
from test_folders import film, wrong_files

from i2vlib import own_video
from i2vlib.checked import ConfigError
from i2vlib.config import FOUR_ADAPTERS, AdaptationConfig, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.folders import FolderLists
from i2vlib.data.sampling import view_indices
from i2vlib.data.uploads import answer_upload, uploaded_files
from i2vlib.data.video import VideoError, read_clip, write_clip
from i2vlib.own_video import (
    TUNING,
    Prediction,
    Tuned,
    drawn_video,
    fine_tune,
    further,
    predict,
    start_real,
    tower_at_hand,
    upload_box,
    wilson,
)
from i2vlib.protocol import ClipConfig
from i2vlib.show.own_video import bars, timeline
from i2vlib.tower.checkpoints import load_checkpoint
from i2vlib.tower.classifier import build_model, merge
from i2vlib.training import features
from i2vlib.training.evaluate import Result, evaluate

CLIP = ClipConfig(2, size=16, short_side=16, test_short_side=16, random_crop=False, flip=0.0)
NAMES = ("runs", "jumps", "stands")


@pytest.fixture
def model():
    torch.manual_seed(3)
    model = build_model(MODEL)
    torch.nn.init.normal_(model.head.weight)
    return model


# ---- prediction ----

@pytest.mark.parametrize("changes", [{}, {"test_clips": 3, "test_crops": 3}, {"sampling": "dense", "stride": 3, "test_clips": 2}])
def test_probabilities_are_those_of_evaluate(tmp_path, model, changes):
    path, clip = film(tmp_path / "a.mp4"), ClipConfig.from_dict(CLIP.to_dict() | changes)
    (tmp_path / "list.txt").write_text("a.mp4 1\n")
    data = VideoDataset(tmp_path / "list.txt", tmp_path, clip, train=False)
    data.classes = 3
    found = predict(model, path, clip, NAMES)
    assert torch.allclose(found.probabilities, evaluate(model, data, progress=False).scores[0], atol=1e-6)
    assert torch.equal(found.views, data[0]["video"])
    with torch.no_grad():  # by hand, view after view
        each = [model.eval()(view[None]).softmax(-1)[0] for view in found.views]
    assert torch.allclose(found.probabilities, sum(each) / len(each), atol=1e-6)
    assert torch.allclose(found.per_view, torch.stack(each), atol=1e-6) and len(each) == clip.test_clips * clip.test_crops


def test_the_frames_are_those_of_the_indices(tmp_path, model):
    found = predict(model, film(tmp_path / "a.mp4"), CLIP, NAMES)
    assert found.total == 10 and found.indices == [[2, 7]] and found.class_names == NAMES
    assert torch.equal(found.frames[0], read_clip(tmp_path / "a.mp4", [2, 7]))
    dense = ClipConfig.from_dict(CLIP.to_dict() | {"sampling": "dense", "stride": 3, "test_clips": 3})
    found = predict(model, tmp_path / "a.mp4", dense)
    assert found.indices == [[0, 3], [3, 6], [6, 9]] and found.class_names == ("0", "1", "2")
    for numbers, frames in zip(found.indices, found.frames, strict=True):
        assert torch.equal(frames, read_clip(tmp_path / "a.mp4", numbers))
    assert predict(model, film(tmp_path / "b.mp4", 2), CLIP).indices == [[0, 1]], "as many frames as a clip takes are enough"


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(tmp_path, model, training):
    model.train(training)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    predict(model, film(tmp_path / "a.mp4"), CLIP)
    assert model.training is training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_entropy_of_known_probabilities():
    def entropy(p):
        return Prediction(torch.tensor(p), torch.tensor([p]), NAMES, 2, [[0, 1]], torch.zeros(0), torch.zeros(0)).entropy

    assert entropy([1.0, 0.0, 0.0]) == 0
    assert entropy([1 / 3] * 3) == pytest.approx(math.log(3)) and entropy([.5, .5, 0.]) == pytest.approx(math.log(2))


def test_what_does_not_fit_is_refused(tmp_path, model):
    path = film(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="8 frames of 16 pixels: the model takes 2 of 16"):
        predict(model, path, ClipConfig.from_dict(CLIP.to_dict() | {"frames": 8}))
    with pytest.raises(ValueError, match="2 class names: the model has 3 classes"):
        predict(model, path, CLIP, ("a", "b"))
    with pytest.raises(ValueError, match="no head"):
        predict(build_model(type(MODEL).from_dict(MODEL.to_dict() | {"classes": 0})), path, CLIP)
    model.head.bias.data[1] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        predict(model, path, CLIP)


def test_every_wrong_file_has_its_reason(tmp_path, model):
    for name, (content, reason) in wrong_files(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError, match=f"{name}: {reason}"):
            predict(model, tmp_path / name, CLIP)
    with pytest.raises(VideoError, match="there is no such file"):
        predict(model, tmp_path / "gone.mp4", CLIP)


@pytest.mark.parametrize("kind", ["linear", "full", "frozen"])
def test_a_model_that_goes_on_has_the_old_tower_and_a_new_head(model, kind):
    old, video = merge(model), torch.randn(2, 2, 3, 16, 16)
    new = further(old, AdaptationConfig("linear", FOUR_ADAPTERS) if kind == "linear" else AdaptationConfig(kind), 5)
    same = new.eval().frame_features(video), old.eval().frame_features(video)
    assert torch.allclose(*same, atol=1e-6)  # adapters start as nothing
    assert new.head.weight.shape == (5, 16) and new.config.temporal == old.config.temporal
    trains = {name for name, p in new.named_parameters() if p.requires_grad}
    assert {"head.weight", "head.bias"} <= trains and any(".adapters." in n for n in trains) == (kind == "linear")
    with torch.no_grad():
        new.backbone.conv1.weight.zero_()
    assert old.backbone.conv1.weight.any()  # a copy, not the same tensors
    with pytest.raises(ValueError, match="has linear adapters: allowed is one without"):
        further(model, AdaptationConfig(), 5)


def test_a_drawn_video_goes_where_it_says():
    right, again, other = (drawn_video("square", 0.625, key, frames=8) for key in (0, 0, 1))
    assert right.shape == (8, 48, 64, 3) and right.dtype == torch.uint8
    assert torch.equal(right, again) and not torch.equal(right, other)

    def differ(a, b):  # share of pixels that are plainly not alike
        return ((a.float() - b.float()).abs().amax(-1) > 70).double().mean()

    first, middle, last = right[0], right[4], right[-1]  # 30 pixels apart: columns 17 and 47 are the centres
    assert differ(first[:, 41:53], middle[:, 41:53]) < 0.02 < 0.15 < differ(first[:, 11:23], middle[:, 11:23]), "from the left"
    assert differ(first[:, 11:23], last[:, 41:53]) < 0.02 < 0.15 < differ(first[:, 11:23], last[:, 11:23])
    left = drawn_video("square", -0.625, 0, frames=8)
    assert differ(left[0][:, 41:53], left[-1][:, 11:23]) < 0.02 < 0.15 < differ(left[0][:, 11:23], left[-1][:, 11:23])
    with pytest.raises(ValueError, match="shape 'cube': allowed is circle"):
        drawn_video("cube", 0.6)

# ---- fine-tuning ----

TOWER = TowerConfig(16, 4, 32, 2, 2, 2.0, 0)
UPPER = ModelConfig(TOWER, TemporalConfig((-1, 1)), AdaptationConfig("linear", FOUR_ADAPTERS, dropout=0.0), 2, 2, 0.0, upper=1)


@pytest.fixture(scope="module")
def day_and_night(tmp_path_factory) -> FolderLists:
    """8 bright and 8 dark clips, of four recordings by their names; one to train on and one held out are damaged."""
    root = tmp_path_factory.mktemp("own")
    for label, name in enumerate(("day", "night")):
        (root / name).mkdir()
        for i in range(8):
            clip = torch.randint(150 * (1 - label), 150 * (1 - label) + 60, (4, 16, 24, 3), dtype=torch.uint8,
                                 generator=torch.Generator().manual_seed(i))
            write_clip(root / name / f"{name}{i // 2}_{i % 2}.mp4", clip)
    for part, numbers in (("train", (1, 2, 3)), ("val", (0,))):
        (root / f"{part}.txt").write_text("".join(f"{n}/{n}{i}_{j}.mp4 {k}\n" for i in numbers for j in (0, 1)
                                                  for k, n in enumerate(("day", "night"))))
    (root / "classes.txt").write_text("day\nnight\n")
    for damaged in ("day/day2_1.mp4", "night/night0_1.mp4"):
        (root / damaged).write_bytes(b"no video")
    return FolderLists(root / "train.txt", root / "val.txt", root)


@pytest.fixture
def tuned_out(day_and_night, tmp_path, monkeypatch):
    """A function upper, steps -> the model before and after, Tuned, and the folder that it was written to."""
    def tune(upper: int, steps: int):
        monkeypatch.setattr(features, "kept_in", lambda name: tmp_path / name)
        torch.manual_seed(0)
        model = build_model(replace(UPPER, upper=upper))
        before = {k: v.clone() for k, v in model.state_dict().items()}
        config = replace(TUNING, steps=steps, lr=1e-2, precision="no")
        return before, model, fine_tune(model, day_and_night, tmp_path / "out", config=config, progress=False), tmp_path / "out"
    return tune


def test_a_folder_becomes_a_model_with_a_held_out_number(day_and_night, tuned_out, capsys):
    before, model, tuned, out = tuned_out(1, 8)
    assert (tuned.right, len(tuned.result.labels), tuned.recordings) == (3, 3, 2), "day0_0 and day0_1 are of one recording"
    assert str(tuned) == ("3 of 3 held-out clips of 2 recordings right, 100%; 95 % interval 34% to 100%; chance 67%: no better "
                          "than chance, as far as so few clips can tell")
    printed = capsys.readouterr()
    assert all(name in printed.out + printed.err for name in ("day2_1.mp4", "night0_1.mp4"))
    assert not (out / "run/best.safetensors").exists(), "what is held out chooses no step"
    assert (out.parent / "data/features").exists()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if "resblocks.0" in k)
    loaded = load_checkpoint(out / "mine.safetensors")
    assert not any(".adapters." in name for name in loaded.state_dict()) and tuned.class_names == ("day", "night")
    found = predict(loaded, day_and_night.root / "night/night0_0.mp4", tuned.clip, tuned.class_names)
    assert torch.allclose(found.probabilities, tuned.result.scores[tuned.result.labels == 1][0], atol=1e-4) and found.best == 1


def test_a_model_of_which_all_blocks_are_adapted_is_tuned_from_the_videos(tuned_out):
    before, model, tuned, out = tuned_out(0, 1)
    assert not (out.parent / "data/features").exists() and len(tuned.result.labels) == 3
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items() if "resblocks.0.adapters" in k)


def scored(right: int, wrong: int, recordings: int = 0, warning: str = "") -> Tuned:
    """So many right and wrong of two classes that are as frequent."""
    n = right + wrong
    labels = torch.arange(n) % 2
    told = torch.where(torch.arange(n) < right, labels, 1 - labels)
    result = Result(torch.nn.functional.one_hot(told, 2).float(), labels, torch.arange(n))
    return Tuned(None, CLIP, NAMES[:2], result, recordings or n, {}, warning)


def test_no_better_than_chance_is_said_where_the_interval_holds_chance():
    assert "no better than chance" in str(scored(14, 10)) and "no better than chance" in str(scored(4, 20))
    sure = str(scored(36, 12))
    assert sure == "36 of 48 held-out clips right, 75%; 95 % interval 61% to 85%; chance 50%"
    assert "no better than chance" in str(scored(36, 12, recordings=12)), "12 recordings of four pieces are no 48 trials"
    assert str(scored(36, 12, warning="beware")).endswith("; beware")


def test_chance_is_what_the_most_frequent_class_would_get():
    labels = torch.tensor([0] * 9 + [1])
    tuned = Tuned(None, CLIP, NAMES[:2], Result(torch.tensor([[1.0, 0.0]] * 10), labels, torch.arange(10)), 10, {})
    assert tuned.chance == tuned.result.top1 == 0.9 and "no better than chance" in str(tuned)


def test_wilsons_interval():
    """Against statsmodels 0.14's proportion_confint(..., method="wilson"), and its ends."""
    assert wilson(23 / 24, 24) == pytest.approx((0.79758, 0.99259), abs=1e-4)
    assert wilson(0.5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0, 0.27754), abs=1e-4) and wilson(1.0, 10)[1] == pytest.approx(1)


def test_a_real_start_adapts_the_last_blocks_of_a_tower_that_is_there(tmp_path, monkeypatch):
    asked, build = [], build_model
    monkeypatch.setattr(own_video, "cached_path", lambda name: tmp_path / name)
    monkeypatch.setattr(own_video, "tower_at", lambda name, size: replace(TOWER, image_size=size))
    monkeypatch.setattr(own_video, "build_model", lambda config, name, resize_positions: asked.append(name) or build(config))
    assert tower_at_hand() == ""
    (tmp_path / "saliency-vit-s14").touch()
    assert tower_at_hand() == "saliency-vit-s14"
    model = start_real(tower_at_hand(), 3, frames=2, size=24, upper=1)
    assert asked == ["saliency-vit-s14"] and model.config.temporal.offsets == (-1, 1) and model.config.lower == 1
    assert model(torch.zeros(1, 2, 3, 24, 24)).shape == (1, 3) and model.config.adaptation.places == FOUR_ADAPTERS


# ---- uploads ----

def test_the_value_of_both_widget_versions_is_read():
    seven = {"a.mp4": {"metadata": {"name": "a.mp4", "size": 2}, "content": b"ab"}}
    eight = ({"name": "a.mp4", "type": "video/mp4", "size": 2, "content": memoryview(b"ab"), "last_modified": None},)
    assert uploaded_files(seven) == uploaded_files(eight) == [("a.mp4", b"ab")]
    assert uploaded_files({}) == uploaded_files(()) == []
    for wrong in (3, ("a.mp4",), {"a.mp4": b"ab"}, None):
        with pytest.raises(TypeError, match="not the value of a FileUpload"):
            uploaded_files(wrong)


def test_an_upload_is_answered_like_a_file_and_leaves_nothing(tmp_path, model):
    path, seen = film(tmp_path / "a.mp4"), []

    def answer(file):
        seen.append(file)
        return predict(model, file, CLIP)

    found = answer_upload("holiday.mp4", path.read_bytes(), answer)
    assert torch.equal(found.probabilities, predict(model, path, CLIP).probabilities)
    for name in ("../../a.mp4", "C:\\x\\a.mp4", "", ".", "a\0b.mp4", "x" * 300 + ".mp4", "a." + "x" * 300):
        answer_upload(name, path.read_bytes(), answer)
    assert not any(file.exists() for file in seen) and all(file.name.startswith("upload") for file in seen)


def button_line_pictures(box):
    (button, limit, _), line, pictures = box.children[0].children, *box.children[1:3]
    assert "10 MiB" in limit.value
    return button, lambda: line.value, lambda: pictures.children


def upload(button, name: str, content: bytes) -> None:
    """What arrives from the browser, in the form of the version installed."""
    if isinstance(button.value, dict):
        button.set_trait("value", {name: {"metadata": {"name": name}, "content": content}})
    else:
        file = {"name": name, "type": "", "size": len(content), "content": memoryview(content), "last_modified": datetime.now()}
        button.set_trait("value", (file,))


def test_the_box_shows_figures_and_a_message_for_each_wrong_file(tmp_path, model, capsys):
    def answer(path):
        return [timeline(path, {"uniform": CLIP}), bars(predict(model, path, CLIP, NAMES))]

    button, line, pictures = button_line_pictures(upload_box(answer))
    good = film(tmp_path / "good.mp4").read_bytes()
    for name, (content, reason) in wrong_files(tmp_path).items():
        upload(button, "good.mp4", good)
        assert len(pictures()) == 2 and all(bytes(p.value).startswith(b"\x89PNG") for p in pictures()) and "good.mp4" in line()
        upload(button, name, content)
        assert f"{name}: {reason}" in line() and not pictures() and str(tmp_path) not in line()
    upload(button, "<b>.mp4", b"no")
    assert "&lt;b&gt;.mp4" in line() and "Traceback" not in "".join(capsys.readouterr())
    assert not plt.get_fignums()


def test_the_box_shows_any_other_failure_in_place(tmp_path):
    def answer(path):
        raise ConfigError("the checkpoint is of another kind")

    button, line, pictures = button_line_pictures(upload_box(answer))
    upload(button, "a.mp4", b"x")
    assert "ConfigError: the checkpoint is of another kind" in line() and not pictures()


def test_a_press_of_the_button_takes_the_old_answer_away_and_a_path_needs_no_upload(tmp_path, model):
    box = upload_box(lambda path: [bars(predict(model, path, CLIP, NAMES))])
    (button, _, place), line, pictures, pressed, _ = box.children[0].children, *box.children[1:]
    path = film(tmp_path / "good.mp4")
    place.value = str(path)
    assert len(pictures.children) == 1 and "good.mp4" in line.value
    pressed.value = "1"  # what the page sets; of a file too large nothing follows
    assert not pictures.children and "No file has arrived" in line.value and "path" in line.value
    upload(button, "good.mp4", path.read_bytes())
    assert len(pictures.children) == 1 and "No file" not in line.value
    place.value = str(tmp_path / "gone.mp4")
    assert not pictures.children and "there is no such file" in line.value


# ---- pictures ----

def test_the_timeline_marks_the_frames_that_are_taken(tmp_path):
    path = film(tmp_path / "a.mp4", 20)
    dense = ClipConfig.from_dict(CLIP.to_dict() | {"sampling": "dense", "stride": 3, "test_clips": 2})
    figure = timeline(path, {"uniform": CLIP, "dense": dense}, title="which frames")
    for axis, wanted in zip(figure.axes, ([[5, 15]], view_indices(20, dense)), strict=True):
        marks = [[segment[0][0] for segment in lines.get_segments()] for lines in axis.collections]
        assert marks == wanted
        shown = [a for a in axis.artists if hasattr(a, "xyann")]
        assert [a.xy[0] for a in shown] == wanted[0]
        frames = read_clip(path, wanted[0]).numpy()
        assert all((a.offsetbox.get_data() == f).all() for a, f in zip(shown, frames, strict=True))
        words = [t.get_text() for t in axis.texts if t.get_text().startswith("t = ")]
        assert words == ["t = 0", "t = 1"], "places in the clip, not in the file"
    one, two = (axis.get_title(loc="left") for axis in figure.axes)
    assert one == "uniform: frames 5, 15" and two.startswith(f"dense: frames {wanted[0][0]}, {wanted[0][1]}, and 1 more view")
    with pytest.raises(VideoError):
        timeline(tmp_path / "gone.mp4", {"uniform": CLIP})
    assert not plt.get_fignums()


def test_of_many_frames_the_timeline_shows_eight_from_first_to_last(tmp_path):
    long = ClipConfig.from_dict(CLIP.to_dict() | {"frames": 16})
    (axis,) = timeline(film(tmp_path / "a.mp4", 32), {"uniform": long}).axes
    shown = [a.xy[0] for a in axis.artists if hasattr(a, "xyann")]
    assert shown == [1, 5, 9, 13, 19, 23, 27, 31] and len(axis.collections[0].get_segments()) == 16, "a mark for each of the 16"
    assert [t.get_text() for t in axis.texts[:8]] == [f"t = {n // 2}" for n in shown]


def test_the_bars_are_the_probabilities_in_falling_order():
    p, views = torch.tensor([0.1, 0.7, 0.2]), torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.6, 0.3]])
    figure = bars(Prediction(p, views, NAMES, 2, [[0, 1]], torch.zeros(0), torch.zeros(0)), top=2)
    axis = figure.axes[0]
    *dots, guess = axis.lines
    assert [d.get_xdata().tolist() for d in dots] == views[:, [1, 2]].tolist(), "each view's, of the classes shown"
    assert guess.get_xdata()[0] == pytest.approx(1 / 3), "guessing is among all classes, shown or not"
    assert [b.get_width() for b in axis.patches] == pytest.approx([0.7, 0.2])
    assert [t.get_text() for t in axis.get_yticklabels()] == ["jumps", "stands"]
    assert "jumps" in axis.get_title(loc="left") and f"{math.log(3):.2f}" in axis.get_xlabel()
