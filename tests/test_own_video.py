"""A file in, probabilities out; a folder in, list files out; and a message for whatever a person may bring instead."""

from __future__ import annotations

import math
import os
from datetime import datetime

import matplotlib.pyplot as plt
import pytest
import torch
from _train_victim import MODEL
from test_video import encode, sound

from i2vlib import own_video
from i2vlib.checked import ConfigError
from i2vlib.config import FOUR_ADAPTERS, AdaptationConfig
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.isolated import Isolated
from i2vlib.data.lists import read_list
from i2vlib.data.sampling import view_indices
from i2vlib.data.uploads import answer_upload, uploaded_files
from i2vlib.data.video import VideoError, read_clip, write_clip
from i2vlib.own_video import (
    FolderError,
    Prediction,
    drawn_video,
    folder_lists,
    further,
    predict,
    upload_box,
)
from i2vlib.protocol import ClipConfig
from i2vlib.show.own_video import bars, timeline
from i2vlib.tower.classifier import build_model, merge
from i2vlib.training.evaluate import evaluate

CLIP = ClipConfig(2, size=16, short_side=16, test_short_side=16, random_crop=False, flip=0.0)
NAMES = ("runs", "jumps", "stands")


class Here:
    """In the place of Isolated: a process for each of these folders would take minutes."""

    def __enter__(self):
        return lambda function, *args: function(*args)

    def __exit__(self, *_):
        pass


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    monkeypatch.setattr(own_video, "Isolated", Here)


@pytest.fixture
def model():
    torch.manual_seed(3)
    model = build_model(MODEL)
    torch.nn.init.normal_(model.head.weight)
    return model


def film(path, frames: int = 10, seed: int = 0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.randint(0, 256, (frames, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    write_clip(path, pixels)
    return path


def folder_of(tmp_path, **classes: int):
    for number, (name, clips) in enumerate(classes.items()):
        for i in range(clips):
            film(tmp_path / "own" / name / f"clip {i}.mp4", 4, 10 * number + i)
    return tmp_path / "own"


def wrong_files(tmp_path) -> dict:
    """One file of each kind that people bring, and a piece of the reason that each must get."""
    whole = film(tmp_path / "whole.mp4").read_bytes()
    wrong = {"notes.mp4": (b"not a video at all", "is not a video"), "nothing.mp4": (b"", "is empty"),
             "cut.mp4": (whole[:len(whole) // 2], "is cut off"), "short.mp4": (film(tmp_path / "s.mp4", 1).read_bytes(),
                                                                              "is too short: it has 1 frame, a clip takes 2")}
    sound(tmp_path / "song.mp4")
    wrong["song.mp4"] = (tmp_path / "song.mp4").read_bytes(), "holds no video, only audio"
    middle = bytearray(encode(tmp_path / "x.mp4", g="250", bf="0").read_bytes())
    start = middle.index(b"mdat") + 4
    size = int.from_bytes(middle[start - 8:start - 4], "big") - 8
    middle[start:start + size] = b"\xff" * size  # the index is whole: nobody notices before a frame is decoded
    wrong["damaged.mp4"] = bytes(middle), "is damaged"
    return wrong


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


# ---- folder ----

def test_a_folder_becomes_lists_that_the_data_set_reads(tmp_path):
    folder = folder_of(tmp_path, walks=8, **{"runs fast": 4, "a, b 3": 2})
    lists = folder_lists(folder, tmp_path / "lists", 0.25, seed=1)
    assert lists.class_names == ("a, b 3", "runs fast", "walks") and not lists.skipped
    assert lists.counts == {"a, b 3": (1, 1), "runs fast": (3, 1), "walks": (6, 2)}
    parts = [{(e.path, e.label) for e in read_list(p)} for p in (lists.train, lists.val)]
    everything = {(f"{name}/clip {i}.mp4", label) for label, (name, n) in
                  enumerate([("a, b 3", 2), ("runs fast", 4), ("walks", 8)]) for i in range(n)}
    assert parts[0] | parts[1] == everything and not parts[0] & parts[1]
    data = VideoDataset(lists.val, folder, CLIP, train=False)
    assert tuple(data.class_names) == lists.class_names and not any(item["error"] for item in data)


def test_the_split_is_the_seeds_and_a_class_keeps_its_own(tmp_path):
    folder = folder_of(tmp_path, walks=8, runs=8)

    def held(seed, name):
        return [e.path for e in read_list(folder_lists(folder, tmp_path / "lists", 0.5, seed).val) if e.path.startswith(name)]

    assert held(0, "walks") == held(0, "walks") and len({tuple(held(s, "walks")) for s in range(6)}) > 1
    before = held(0, "walks")
    film(folder / "jumps" / "a.mp4")
    film(folder / "jumps" / "b.mp4")
    assert held(0, "walks") == before
    assert held(0, "walks") != [path.replace("runs", "walks") for path in held(0, "runs")], "each class draws its own"
    both = folder_of(tmp_path / "two", walks=2, runs=2)
    assert folder_lists(both, tmp_path / "lists", 0.9).counts == {"runs": (1, 1), "walks": (1, 1)}, "one stays to train on"


def test_a_video_with_a_damaged_end_is_left_out(tmp_path):
    folder = folder_of(tmp_path, walks=2, runs=2)
    torn = bytearray(encode(folder / "walks" / "torn.mp4", g="250", bf="0").read_bytes())
    start = torn.index(b"mdat") - 4
    end = start + int.from_bytes(torn[start:start + 4], "big")
    torn[end - 180:end] = b"\xff" * 180  # a tenth of the frames' bytes: the first and the middle frame are whole
    (folder / "walks" / "torn.mp4").write_bytes(torn)
    assert folder_lists(folder, tmp_path / "lists").skipped == {"walks/torn.mp4": "is damaged: a frame cannot be decoded"}


def test_damage_is_left_out_unless_asked_for(tmp_path):
    folder = folder_of(tmp_path, runs=2, walks=3)
    path = encode(folder / "walks" / "bit.mkv")
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"lavf", 1))  # its pictures are right, a checksum is not
    assert folder_lists(folder, tmp_path / "lists").skipped["walks/bit.mkv"].startswith("is damaged: a checksum is wrong")
    assert not folder_lists(folder, tmp_path / "lists", strict=False).skipped


def test_a_file_that_ends_its_process_is_left_out(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, runs=2, walks=3)
    monkeypatch.setattr(own_video, "Isolated", Isolated)
    monkeypatch.setattr(own_video, "fault", _abort_on_walks)
    lists = folder_lists(folder, tmp_path / "lists")
    assert lists.counts == {"runs": (1, 1), "walks": (1, 1)} and "aborted" in lists.skipped["walks/clip 1.mp4"]


def _abort_on_walks(path, frames):
    if path.name == "clip 1.mp4" and path.parent.name == "walks":
        os.abort()
    return ""


def test_what_cannot_be_read_is_named_once_and_left_out(tmp_path, capsys):
    folder, wrong = folder_of(tmp_path, walks=3, runs=2), wrong_files(tmp_path)
    for name, (content, _) in wrong.items():
        (folder / "walks" / name).write_bytes(content)
    (folder / "walks" / "more").mkdir()
    (folder / "walks" / ".DS_Store").write_bytes(b"x")
    (folder / ".ipynb_checkpoints").mkdir()
    lists = folder_lists(folder, tmp_path / "lists", frames=2)
    assert set(lists.skipped) == {f"walks/{n}" for n in (*wrong, "more")} and lists.skipped["walks/more"] == "is a folder"
    assert all(reason in lists.skipped[f"walks/{name}"] for name, (_, reason) in wrong.items())
    printed = capsys.readouterr().out
    assert all(printed.count(f"left out: walks/{name}: ") == 1 for name in wrong) and str(tmp_path) not in printed
    assert lists.counts == {"runs": (1, 1), "walks": (2, 1)}


def test_a_folder_that_cannot_be_trained_on_says_why(tmp_path):
    lists = tmp_path / "lists"
    with pytest.raises(FolderError, match="nowhere: there is no such folder"):
        folder_lists(tmp_path / "nowhere", lists)
    film(tmp_path / "flat" / "a.mp4")
    with pytest.raises(FolderError, match=r"flat: holds no folders; expected .* class/clip\.mp4"):
        folder_lists(tmp_path / "flat", lists)
    folder = folder_of(tmp_path, walks=2)
    with pytest.raises(FolderError, match="holds only the folder 'walks'"):
        folder_lists(folder, lists)
    (folder / "runs").mkdir()
    with pytest.raises(FolderError, match="class 'runs' has no readable video: its folder is empty"):
        folder_lists(folder, lists)
    (folder / "runs" / "a.mp4").write_bytes(b"no")
    with pytest.raises(FolderError, match="class 'runs' has no readable video; the first file: a.mp4: is not a video"):
        folder_lists(folder, lists)
    film(folder / "runs" / "b.mp4")
    with pytest.raises(FolderError, match="class 'runs' has 1 readable video: allowed is 2 or more"):
        folder_lists(folder, lists)
    with pytest.raises(ValueError, match="val_share = 1: allowed is above 0 and below 1"):
        folder_lists(folder, lists, 1)


STRANGE = ["two\nlines", "ends in 12", "a\u2028b", " blanks ", 'quo"ted', '"quoted"', "# 1", "1 finger", "a, b; c\td", "é 跳 🎬",
           "<img src=x>", "$frac{$", "{0} %s `x` |"]


@pytest.mark.parametrize("name", STRANGE)
def test_any_name_of_a_class_or_file_comes_back_out_of_the_lists(tmp_path, name):
    folder = folder_of(tmp_path, walks=2)
    for clip in ("a.mp4", f"{name}.mp4", name):  # the last has no ending
        film(tmp_path / "x.mp4", 4)
        (folder / name).mkdir(exist_ok=True)
        (tmp_path / "x.mp4").rename(folder / name / clip)
    lists = folder_lists(folder, tmp_path / "lists", 0.3)
    data = [VideoDataset(p, folder, CLIP, train=False) for p in (lists.train, lists.val)]
    assert set(lists.class_names) == {"walks", name} and all(tuple(d.class_names) == lists.class_names for d in data)
    assert {(e.path, lists.class_names[e.label]) for d in data for e in d.entries} >= {
        (f"{name}/{clip}", name) for clip in ("a.mp4", f"{name}.mp4", name)}
    assert not any(item["error"] for d in data for item in d)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_a_list_cannot_hold_is_refused(tmp_path, capsys):
    folder = folder_of(tmp_path, walks=2, runs=2)
    film(tmp_path / "x.mp4").rename(folder / "walks" / "a\\b.mp4")
    with pytest.raises(FolderError, match=r"'walks/a\\\\b.mp4' cannot stand in a list file, where it reads as 'walks/a/b.mp4'"):
        folder_lists(folder, tmp_path / "lists", 0.3)
    bad = os.fsdecode(b"\xff")  # a file from a machine with another encoding
    (folder / "walks" / "a\\b.mp4").rename(folder / "walks" / f"{bad}.mp4")
    assert folder_lists(folder, tmp_path / "lists", 0.3).skipped == {
        "walks/\\udcff.mp4": "has a name that is no Unicode text: rename it"} and "udcff" in capsys.readouterr().out
    (folder / "walks").rename(folder / bad)
    with pytest.raises(FolderError, match="the folder '.udcff' is no Unicode text"):
        folder_lists(folder, tmp_path / "lists", 0.3)


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
