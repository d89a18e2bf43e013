"""The embedded data say what their labels say, carry nothing in a bag of frames, and are the same every time."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from i2vlib.data import mini
from i2vlib.data.datasets import read_list
from i2vlib.data.mini import ATTRIBUTES, TASKS, image_batch, mini_data, render
from i2vlib.data.video import read_clip

COUNTS = {"motion": (24, 36), "appearance": (32, 64), "blink": (8, 24)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All tasks, with fewer clips: rendered and read back as files."""
    root = tmp_path_factory.mktemp("mini")
    with pytest.MonkeyPatch.context() as patch:
        for name, (train, val) in COUNTS.items():
            patch.setitem(TASKS, name, replace(TASKS[name], train=train, val=val))
        for name in TASKS:
            render(name, root, progress=False)
    return root


def clips(root, task, split="val"):
    entries = read_list(root / task / f"{split}.txt")
    frames = [read_clip(root / task / e.path, range(TASKS[task].frames)) for e in entries]
    return torch.stack(frames), torch.tensor([e.label for e in entries])


def middle(frames: torch.Tensor) -> torch.Tensor:
    """x, y and area of what is more colourful than the wall, for frames (n,T,H,W,3): (n,T,3)."""
    saturation = (frames.amax(-1).float() - frames.amin(-1).float() - 70).clamp(min=0, max=40)
    mass = saturation.sum((-1, -2))
    ys, xs = torch.arange(frames.shape[2]).float(), torch.arange(frames.shape[3]).float()
    x = (saturation.sum(-2) * xs).sum(-1) / mass
    y = (saturation.sum(-1) * ys).sum(-1) / mass
    return torch.stack([x, y, mass], -1)


def test_tasks_are_described():
    assert {n: (t.frames, t.classes) for n, t in TASKS.items()} == {
        "motion": (4, 6), "appearance": (4, 32), "blink": (8, 4)}
    assert TASKS["motion"].class_names[:2] == ("moves left", "moves right")
    assert TASKS["appearance"].class_names[0] == "red circle" and len(set(TASKS["appearance"].class_names)) == 32
    for task in TASKS.values():
        assert task.val % task.classes == 0 and task.name in COUNTS


@pytest.mark.parametrize("task", TASKS)
def test_files(root, task):
    folder = root / task
    assert (folder / "classes.txt").read_text().splitlines() == list(TASKS[task].class_names)
    for split, count in zip(("train", "val"), COUNTS[task], strict=True):
        entries = read_list(folder / f"{split}.txt")
        assert [e.path for e in entries] == [f"{split}/{i:05d}.mp4" for i in range(count)]
    frames, labels = clips(root, task)
    assert frames.shape[1:] == (TASKS[task].frames, 48, 64, 3)
    assert torch.equal(labels.bincount(), torch.full((TASKS[task].classes,), len(labels) // TASKS[task].classes))


@pytest.mark.parametrize("task", ["motion", "blink"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_twin_holds_the_same_frames_backwards_and_has_the_other_label(root, task, split):
    frames, labels = clips(root, task, split)
    assert torch.equal(frames[1::2], frames[::2].flip(1)) and torch.equal(labels[1::2], labels[::2] ^ 1)
    assert not torch.equal(frames[1::2], frames[::2])  # the negative control: backwards is another clip


def test_motion_is_what_its_name_says(root):
    frames, labels = clips(root, "motion")
    change = middle(frames)[:, -1] - middle(frames)[:, 0]
    for label, (column, sign) in enumerate([(0, -1), (0, 1), (1, -1), (1, 1), (2, -1), (2, 1)]):
        assert (change[labels == label, column] * sign > (6 if column < 2 else 500)).all(), label


def test_blink_shows_every_second_frame_and_moves_as_named(root):
    frames, labels = clips(root, "blink")
    where = middle(frames)
    shown = where[..., 2] > 500
    assert (shown.sum(1) == 4).all() and (shown[:, ::2] ^ shown[:, 1::2]).all()
    assert (shown[:, 0] == shown[:, 2]).all()
    for label, (column, sign) in enumerate([(0, -1), (0, 1), (1, -1), (1, 1)]):
        for clip, seen in zip(where[labels == label], shown[labels == label], strict=True):
            assert (clip[seen, column].diff() * sign > 2).all()


def test_one_frame_shows_the_appearance(root):
    frames, labels = clips(root, "appearance")
    where = middle(frames)
    assert where[:, :, :2].diff(dim=1).norm(dim=-1).median() > 8  # pixels: its place means nothing
    for colour, strongest in ((0, 0), (1, 1), (2, 2)):  # red, green, blue
        for clip in frames[labels % 4 == colour]:
            for frame in clip.float():
                mask = frame.amax(-1) - frame.amin(-1) > 90
                assert frame[mask].mean(0).argmax() == strongest


def test_shapes_are_those_of_the_labels(root):
    frames, labels = clips(root, "appearance")
    where, hollow = middle(frames).round().int(), []
    for clip, place in zip(frames, where, strict=True):
        x, y, _ = place[0].tolist()
        heart = clip[0, y - 1:y + 2, x - 1:x + 2].float()
        hollow.append(bool((heart.amax(-1) - heart.amin(-1)).mean() < 55))
    shape = labels // 4
    rings = shape == ATTRIBUTES["shape"].index("ring")
    filled = (shape < ATTRIBUTES["shape"].index("ring")) | (shape == ATTRIBUTES["shape"].index("star"))
    hollow = torch.tensor(hollow)
    assert hollow[rings].all() and not hollow[filled].any()


def test_same_seed_same_bytes_and_other_seed_other_clips(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "motion", replace(TASKS["motion"], train=6, val=6))
    files = [render("motion", tmp_path / str(i), seed, progress=False) / "val" / "00003.mp4"
             for i, seed in enumerate((0, 0, 1))]
    a, b, c = (f.read_bytes() for f in files)
    assert a == b and a != c
    train, val = clips(tmp_path / "0", "motion", "train")[0], clips(tmp_path / "0", "motion", "val")[0]
    assert not any(torch.equal(t, v) for t in train for v in val)  # of equal number: only the split tells them apart


def test_cache_is_kept_when_whole_and_replaced_when_not(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "motion", replace(TASKS["motion"], train=6, val=6))
    folder = render("motion", tmp_path, progress=False)

    def age():
        return (folder / "manifest.json").stat().st_mtime_ns

    first = age()
    assert render("motion", tmp_path, progress=False) == folder and age() == first
    damages = [lambda: (folder / "val" / "00000.mp4").unlink(), lambda: (folder / "manifest.json").write_text("{"),
               lambda: monkeypatch.setattr(mini, "VERSION", mini.VERSION + 1), lambda: shutil.rmtree(folder)]
    for damage in damages:
        damage()
        time.sleep(0.01)
        render("motion", tmp_path, progress=False)
        assert age() > first and len(list((folder / "val").iterdir())) == 6
        first = age()
    render("motion", tmp_path, seed=1, progress=False)
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["motion"]  # nothing half-made is left behind


def test_two_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "motion", replace(TASKS["motion"], train=6, val=6))
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: render("motion", tmp_path, progress=False), range(3)))
    assert set(folders) == {tmp_path / "motion"} and [p.name for p in tmp_path.iterdir()] == ["motion"]
    assert len(read_list(folders[0] / "val.txt")) == 6


def test_unknown_task(tmp_path):
    with pytest.raises(ValueError, match="no embedded task 'walk': allowed are motion, appearance, blink"):
        mini_data("walk", tmp_path)


def test_image_batch_is_a_function_of_its_seed():
    one, same, other = image_batch(3, 40), image_batch(3, 40), image_batch(4, 40)
    assert one["images"].shape == (40, 3, 48, 48) and one["images"].dtype == torch.float32
    assert one["images"].min() >= 0 and one["images"].max() <= 1
    assert torch.equal(one["images"], same["images"]) and torch.equal(one["captions"], same["captions"])
    assert not torch.equal(one["captions"], other["captions"])


def test_captions_are_true():
    batch = image_batch(0, 600)
    words = batch["captions"]
    assert words.shape == (600, 6)
    for column, values in enumerate(ATTRIBUTES.values()):
        assert set(words[:, column].tolist()) == set(range(len(values)))
    frames = (batch["images"] * 255).round().byte().permute(0, 2, 3, 1)[:, None]
    x, y, area = middle(frames)[:, 0].T
    symmetric = words[:, 0] != ATTRIBUTES["shape"].index("moon")  # its middle is not where its centre is
    for place, column in ((x, 3), (y, 4)):
        bins = ((place - 23.5 + 24 * mini.REACH) / (12 * mini.REACH)).floor().clamp(0, 3)
        assert (bins == words[:, column])[symmetric].float().mean() > 0.95
    sizes = [area[words[:, 5] == s].mean() for s in range(3)]
    assert sizes[0] < 0.7 * sizes[1] < 0.7 * 0.8 * sizes[2]


def test_every_attribute_changes_the_picture():
    """Two scenes that differ in one word differ; equal ones do not: the noise is drawn from the same state."""
    def picture(words):
        g = torch.Generator().manual_seed(0)
        return mini.draw(mini._scene(torch.tensor([words]), g), g).int()

    base = [0, 0, 0, 1, 1, 1]
    assert torch.equal(picture(base), picture(base))
    for column, values in enumerate(ATTRIBUTES.values()):
        pictures = [picture([*base[:column], v, *base[column + 1:]]) for v in range(len(values))]
        for i, a in enumerate(pictures):
            for b in pictures[:i]:
                assert ((a - b).abs().amax(1) > 40).sum() >= 8
