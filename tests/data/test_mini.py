"""The embedded data say what their labels say, carry nothing in a bag of frames, and are the same every time."""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from i2vlib.data import mini, rendered
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.drawing import (
    ATTRIBUTES,
    JUNK,
    PALETTE,
    REACH,
    corrupt,
    draw,
    generator,
    image_batch,
    junk_patches,
    junk_places,
    random_scene,
)
from i2vlib.data.lists import read_list
from i2vlib.data.mini import TASKS, junk_map, mini_data, render
from i2vlib.data.video import read_clip
from i2vlib.presets import PROTOCOLS

COUNTS = {"motion": (24, 36), "appearance": (32, 64), "blink": (8, 24), "corrupted": (96, 64)}


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
        "motion": (4, 6), "appearance": (4, 32), "blink": (8, 4), "corrupted": (4, 32)}
    assert TASKS["motion"].class_names[:2] == ("moves left", "moves right")
    assert TASKS["appearance"].class_names[0] == "red circle" and len(set(TASKS["appearance"].class_names)) == 32
    assert TASKS["corrupted"].class_names == TASKS["appearance"].class_names
    assert (TASKS["corrupted"].train, TASKS["corrupted"].val, TASKS["corrupted"].twins) == (4096, 384, False)
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
    assert torch.equal(frames[1::2], frames[::2].flip(1))
    assert torch.equal(labels[1::2], mini.twin(labels[::2])) and torch.equal(labels[::2], mini.twin(labels[1::2]))
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


def patches(frames: torch.Tensor) -> torch.Tensor:
    """The patches that the model sees of frames (n,T,48,64,3): float (n,T,8,8,6,6,3)."""
    seen = frames[:, :, :, 8:56].float()
    return seen.unflatten(3, (8, 6)).unflatten(2, (8, 6)).transpose(3, 4)


def test_junk_hits_half_the_places_of_a_pair_one_frame_or_the_other_never_both():
    junk = junk_places(400, 4, generator("places"))
    assert junk.shape == (400, 4, 8, 8) and junk.dtype == torch.bool
    first, second = junk[:, ::2].float(), junk[:, 1::2].float()
    assert not (first * second).any()
    either, pairs = first + second, first.numel()  # 51,200: the standard error of a half is 0.0022
    assert JUNK == 0.5 and abs(either.mean() - JUNK) < 0.01
    assert abs(first.sum() / either.sum() - 0.5) < 0.014
    assert (either.mean((0, 1)) - JUNK).abs().max() < 5 * 0.5 / (pairs / 64) ** 0.5  # at every place
    for a, b in ((either[:, 0], either[:, 1]), (either[..., 1:], either[..., :-1]), (either[:, :, 1:], either[:, :, :-1]),
                 (either[1:], either[:-1])):  # independent of the other pair, the neighbours, the next clip
        assert abs((a * b).mean() - JUNK**2) < 0.015
    assert torch.equal(junk, junk_places(400, 4, generator("places")))
    assert not torch.equal(junk, junk_places(400, 4, generator("other places")))
    with pytest.raises(ValueError, match="3 frames: allowed is an even number"):
        junk_places(1, 3, generator("places"))


def test_junk_is_made_of_all_colours_and_no_row_of_it_of_one():
    junk = junk_patches(500, generator("junk")).float() / 255
    assert junk.shape == (500, 6, 6, 3)
    shards = junk.unflatten(2, (2, 3)).unflatten(1, (2, 3)).mean((2, 4))  # (n,2,2,3)
    distance, colour = (shards[..., None, :] - PALETTE).norm(dim=-1).min(-1)
    assert distance.max() < 0.15
    assert (colour[..., 0] != colour[..., 1]).all()
    assert ((colour.flatten(0, 1).T[..., None] == torch.arange(4)).float().mean(1) - 0.25).abs().max() < 0.06
    noise = junk[:, :3, :3] - shards[:, 0, 0][:, None, None]
    assert 0.02 < noise.std() < 0.035


@pytest.mark.parametrize("height, width, patch", [(48, 64, 6), (112, 128, 14)])
def test_corrupt_touches_the_places_named_and_nothing_else(height, width, patch):
    g = generator("frames")
    frames = torch.randint(0, 256, (3, 4, height, width, 3), generator=g, dtype=torch.uint8)
    junk, before = junk_places(3, 4, g), frames.clone()
    found, fill = corrupt(frames, junk, generator("fill")), iter(junk_patches(int(junk.sum()), generator("fill"), patch))
    expected = frames.clone()
    for n in range(3):
        for t in range(4):
            for row in range(8):
                for column in range(8):
                    if junk[n, t, row, column]:
                        y, x = patch * row, 8 + patch * column
                        expected[n, t, y:y + patch, x:x + patch] = next(fill)
    assert torch.equal(found, expected) and torch.equal(frames, before)
    assert not torch.equal(found, frames)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_pixels_agree_with_the_map_of_junk(root, split):
    frames, _ = clips(root, "corrupted", split)
    junk, seen = junk_map(root / "corrupted", split), patches(frames)
    assert junk.dtype == torch.bool and junk.shape == (len(frames), 4, 8, 8) == seen.shape[:4]
    apart, either = (seen[:, ::2] - seen[:, 1::2]).abs().mean((-1, -2, -3)), junk[:, ::2] | junk[:, 1::2]
    assert apart[~either].median() < 10 and apart[~either].max() < 50  # noise; texture that moved by half a pixel
    assert apart[either].min() > 36 and (apart[~either] > 36).float().mean() < 0.002
    shards = seen.unflatten(-2, (2, 3)).unflatten(-4, (2, 3)).mean((-2, -4))  # (n,T,8,8,2,2,3)
    motley = (shards[..., 0, :] - shards[..., 1, :]).abs().amax(-1).amin(-1) > 110  # both rows of two colours
    assert motley[junk].all() and motley[~junk].float().mean() < 0.002  # which of the two frames it is
    sides = torch.cat([frames[..., :8, :], frames[..., 56:, :]], 3).float()
    assert (sides[:, 1:] - sides[:, :-1]).abs().mean((-1, -2, -3)).max() < 16


def test_what_is_clean_in_either_frame_is_the_object_at_rest(root):
    frames, labels = clips(root, "corrupted")
    junk, seen = junk_map(root / "corrupted", "val"), patches(frames)
    whole = torch.where(junk[:, ::2, ..., None, None, None], seen[:, 1::2], seen[:, ::2])  # (n,2,8,8,6,6,3)
    assert (whole[:, 0] - whole[:, 1]).abs().mean((-1, -2, -3)).median() < 10
    views = whole.transpose(3, 4).flatten(4, 5).flatten(2, 3)  # (n,2,48,48,3)
    for colour in range(3):  # red, green, blue
        for view in views[labels % 4 == colour].flatten(0, 1):
            mask = view.amax(-1) - view.amin(-1) > 90
            assert mask.sum() > 20 and view[mask].mean(0).argmax() == colour
    places = middle(views)
    assert (places[:, 0, :2] - places[:, 1, :2]).norm(dim=-1).max() < 1.5  # pixels


def test_the_model_sees_the_grid_of_the_map(root):
    clip, folder = PROTOCOLS["mini-corrupted"].clip, root / "corrupted"
    frames, _ = clips(root, "corrupted")
    for train in (True, False):
        video = VideoDataset(folder / "val.txt", folder, clip, train=train)[5]["video"][0]
        mean, std = (torch.tensor(v)[:, None, None] for v in (clip.mean, clip.std))
        seen = (video * std + mean) * 255
        assert (seen - frames[5, :, :, 8:56].permute(0, 3, 1, 2)).abs().max() < 0.01


def test_junk_map_says_what_is_wrong(root, tmp_path):
    with pytest.raises(ValueError, match="split 'test': allowed is 'train' or 'val'"):
        junk_map(root / "corrupted", "test")
    with pytest.raises(FileNotFoundError, match=r"val_junk.npy: there is no such file; .* only `corrupted` has one"):
        junk_map(root / "motion", "val")
    path = tmp_path / "val_junk.npy"
    for wrong in (np.zeros((2, 4, 8, 8)), np.zeros((2, 8, 8), bool)):
        np.save(path, wrong)
        with pytest.raises(ValueError, match=r"val_junk.npy: holds .*: allowed is bool \(clips, 4, 8, 8\)"):
            junk_map(tmp_path, "val")
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match="val_junk.npy: is damaged"):
        junk_map(tmp_path, "val")


def test_a_corrupted_task_without_its_truth_is_not_whole(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "corrupted", replace(TASKS["corrupted"], train=6, val=6))
    folder = render("corrupted", tmp_path, progress=False)
    names = contents(folder)
    assert {name for name in names if "/" not in name} == \
        {"train.txt", "val.txt", "classes.txt", "manifest.json", "train_junk.npy", "val_junk.npy"}
    pictures = clips(tmp_path, "corrupted")[0]
    damages = [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-9]), lambda p: p.write_bytes(b""),
               lambda p: np.save(p, np.zeros((5, 4, 8, 8), bool))]
    for split in ("train", "val"):
        for damage in damages:
            damage(folder / f"{split}_junk.npy")
            render("corrupted", tmp_path, progress=False)  # the same seed: the same truth and the same clips
            assert contents(folder) == names
    assert torch.equal(clips(tmp_path, "corrupted")[0], pictures)
    other = render("corrupted", tmp_path / "other", seed=1, progress=False)
    assert not torch.equal(junk_map(other, "val"), junk_map(folder, "val"))
    assert not torch.equal(junk_map(folder, "train"), junk_map(folder, "val"))


@pytest.mark.parametrize("task, means", [
    ("motion", [[127.7, 150.3, 133.1], [130.5, 119.1, 140.3], [102.0, 103.8, 86.3]]),
    ("appearance", [[149.6, 162.5, 160.6], [175.1, 184.1, 172.6], [111.2, 111.6, 116.5]]),
    ("blink", [[142.7, 161.9, 156.0], [133.8, 110.2, 130.2], [94.1, 94.6, 97.1]]),
    ("corrupted", [[121.4, 125.4, 107.4], [138.8, 124.4, 119.3], [87.0, 98.6, 100.1]]),
])
def test_what_version_2_draws_does_not_change_unnoticed(task, means):
    """Mean colours of three first frames: where they change, VERSION must be raised, or old caches would stay."""
    frames, _, junk = mini._clips(TASKS[task], 0, 3, generator(0, task, "val", 0))
    assert (frames[:, 0].float().mean((1, 2)) - torch.tensor(means)).abs().max() < 0.3 and mini.VERSION == 2
    assert (junk is not None) == (task == "corrupted")


def test_only_the_corrupted_task_has_junk(root):
    for task in TASKS:
        assert len(list((root / task).glob("*_junk.npy"))) == (2 if task == "corrupted" else 0)


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
        return (folder / "train" / "00000.mp4").stat().st_mtime_ns

    first = age()
    assert render("motion", tmp_path, progress=False) == folder and age() == first
    damages = [lambda: (folder / "val" / "00000.mp4").unlink(), lambda: (folder / "manifest.json").write_text("{"),
               lambda: monkeypatch.setattr(mini.MiniTask, "version", mini.VERSION + 1), lambda: shutil.rmtree(folder)]
    for damage in damages:
        damage()
        time.sleep(0.01)
        render("motion", tmp_path, progress=False)
        assert age() > first and len(list((folder / "val").iterdir())) == 6
        first = age()
    render("motion", tmp_path, seed=1, progress=False)
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["motion"]  # nothing half-made is left behind


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Six clips of `motion` a split, rendered once: what draws them again is counted, and its work is done by a copy."""
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "motion", replace(TASKS["motion"], train=6, val=6))
        render("motion", folder, progress=False)
        yield folder


@pytest.fixture
def copied(small, tmp_path, monkeypatch):
    """A copy of it, and the number of times that its clips were drawn again."""
    shutil.copytree(small, tmp_path / "copy")
    drawn, write = [], rendered._write
    monkeypatch.setattr(rendered, "_write", lambda *args: (drawn.append(1), write(*args)))
    return tmp_path / "copy", drawn


def contents(folder) -> dict:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_lies_beside_the_clips_changes_nothing(copied):
    root, drawn = copied
    for stray in (".DS_Store", "Thumbs.db", "train/.DS_Store", "val/desktop.ini", "val/00099.mp4", "notes/a.txt", "val/._00.mp4"):
        (root / "motion" / stray).parent.mkdir(exist_ok=True)
        (root / "motion" / stray).write_text("mine")
        render("motion", root, progress=False)
    assert not drawn and (root / "motion" / "notes" / "a.txt").exists()


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_and_set_the_time_back(path) -> None:
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("damage", [
    flip, flip_and_set_the_time_back, lambda p: p.unlink(), lambda p: p.write_bytes(b""),
    lambda p: p.write_bytes(p.read_bytes() + b"x"), lambda p: p.write_bytes(p.read_bytes()[:-1])])
@pytest.mark.parametrize("name", ["train/00004.mp4", "train.txt", "manifest.json"])
def test_what_is_damaged_is_drawn_again_as_it_was(copied, small, damage, name, capsys):
    root, drawn = copied
    render("motion", root, progress=False)
    if name == "manifest.json" and damage in (flip, flip_and_set_the_time_back):
        pytest.skip("one flipped bit of it may say the same")
    damage(root / "motion" / name)
    render("motion", root, progress=True)
    assert len(drawn) == 1 and contents(root / "motion") == contents(small / "motion")
    assert f"{name.split('/')[-1]} is" in capsys.readouterr().out
    render("motion", root, progress=False)
    assert len(drawn) == 1


def test_files_are_hashed_only_where_they_changed(copied, monkeypatch):
    root, drawn = copied
    folder, hashed, digest = root / "motion", [], rendered._digest
    monkeypatch.setattr(rendered, "_digest", lambda path: (hashed.append(str(path).split("motion/")[-1]), digest(path))[1])
    old = time.time() - 100
    os.utime(folder / "manifest.json", (old, old))  # as if the copy were later than the last look
    render("motion", root, progress=False)
    assert len(hashed) == 6 + 6 + 3  # clips, two lists, names of classes
    time.sleep(0.05)  # coarser than any clock of a file system here
    os.utime(folder / "manifest.json")
    hashed.clear()
    render("motion", root, progress=False)
    assert not hashed
    time.sleep(0.05)
    (folder / "val" / "00002.mp4").touch()
    render("motion", root, progress=False)
    assert hashed == ["val/00002.mp4"] and not drawn


def test_a_set_of_before_the_manifest_named_its_files_is_drawn_anew(copied):
    root, drawn = copied
    path = root / "motion" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert len(manifest["files"]) == 15 and all(len(digest) == 64 for _, digest in manifest["files"].values())
    del manifest["files"]
    path.write_text(json.dumps(manifest))
    render("motion", root, progress=False)
    assert len(drawn) == 1 and "files" in json.loads(path.read_text())


def test_two_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "motion", replace(TASKS["motion"], train=6, val=6))
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: render("motion", tmp_path, progress=False), range(3)))
    assert set(folders) == {tmp_path / "motion"} and [p.name for p in tmp_path.iterdir()] == ["motion"]
    assert len(read_list(folders[0] / "val.txt")) == 6


def test_unknown_task(tmp_path):
    with pytest.raises(ValueError, match="no embedded task 'walk': allowed are motion, appearance, blink, corrupted"):
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
        bins = ((place - 23.5 + 24 * REACH) / (12 * REACH)).floor().clamp(0, 3)
        assert (bins == words[:, column])[symmetric].float().mean() > 0.95
    sizes = [area[words[:, 5] == s].mean() for s in range(3)]
    assert sizes[0] < 0.7 * sizes[1] < 0.7 * 0.8 * sizes[2]


def test_every_attribute_changes_the_picture():
    """Two scenes that differ in one word differ; equal ones do not: the noise is drawn from the same state."""
    def picture(words):
        g = torch.Generator().manual_seed(0)
        return draw(random_scene(torch.tensor([words]), g), g).int()

    base = [0, 0, 0, 1, 1, 1]
    assert torch.equal(picture(base), picture(base))
    for column, values in enumerate(ATTRIBUTES.values()):
        pictures = [picture([*base[:column], v, *base[column + 1:]]) for v in range(len(values))]
        for i, a in enumerate(pictures):
            for b in pictures[:i]:
                assert ((a - b).abs().amax(1) > 40).sum() >= 8
