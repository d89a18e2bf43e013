"""The cut-out is its label's, every pixel the split's own, junk is where the truth says, and its twin is clean."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image

from i2vlib.data import photos, photos_corrupted
from i2vlib.data.drawing import generator
from i2vlib.data.lists import read_list
from i2vlib.data.photos import PHOTOS
from i2vlib.data.photos_corrupted import DRIFT, TASK, corrupted_photos, junk_map
from i2vlib.data.video import read_clip

COUNTS = {"train": 13, "val": 6, "test": 6}
OWN = {split: [i for i, photo in enumerate(PHOTOS.values()) if split in ("train", photo.split)] for split in COUNTS}
LEVELS = (20, 120, 235)  # of flat colours, which stay apart under every tint
COLOURS = list(product(range(3), repeat=3))[1:25:2]
PINNED = [[116.3, 109.6, 98.5], [36.7, 75.1, 65.2], [198.1, 105.2, 78.3]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photos_corrupted, "TASK", replace(TASK, **COUNTS))
        yield corrupted_photos(tmp_path_factory.mktemp("photos"))


def test_labels_are_photographs_and_each_split_has_its_own(folder):
    assert (TASK.train, TASK.val, TASK.test, TASK.frames, TASK.twins) == (2000, 400, 600, 4, False)
    assert (folder / "classes.txt").read_text().split() == list(PHOTOS)
    for split, count in COUNTS.items():
        entries = read_list(folder / f"{split}.txt")
        assert [e.label for e in entries] == [OWN[split][i % len(OWN[split])] for i in range(count)]
    assert not set(OWN["val"]) & set(OWN["test"]) and len(OWN["val"]) == len(OWN["test"]) == 6


@pytest.mark.parametrize("split", COUNTS)
def test_the_decoded_pixels_agree_with_the_map_of_junk(folder, split):
    frames = torch.stack([read_clip(folder / e.path, range(4)) for e in read_list(folder / f"{split}.txt")])
    junk = junk_map(folder, split)
    seen = frames[:, :, :, 8:120].float().unflatten(3, (8, 14)).unflatten(2, (8, 14)).transpose(3, 4)
    assert junk.shape == (COUNTS[split], 4, 8, 8) == seen.shape[:4] and not (junk[:, ::2] & junk[:, 1::2]).any()
    apart, either = (seen[:, ::2] - seen[:, 1::2]).abs().mean((-1, -2, -3)), junk[:, ::2] | junk[:, 1::2]
    assert 0.4 < either.float().mean() < 0.6
    assert apart[~either].median() < 4 < 40 < apart[either].median()
    assert (apart[~either] < 4).float().mean() > 0.75, "the cut-out's edge alone moves"


@pytest.mark.parametrize("split", COUNTS)
def test_the_cut_out_is_its_labels_and_the_background_is_another_photographs_of_the_split(monkeypatch, split):
    drawn, paste = [], photos.paste
    flat = [Image.new("RGB", (300, 300), tuple(LEVELS[level] for level in COLOURS[i])) for i in OWN[split]]
    monkeypatch.setattr(photos, "parts", lambda asked: {split: flat}[asked])
    monkeypatch.setattr(photos, "paste", lambda image, cut, path: (drawn.extend((image[:, 0], cut)), paste(image, cut, path))[1])
    _, labels, _ = TASK.draw(split, 5, 12, generator(0))
    back, cut = ([COLOURS.index(tuple(c)) for c in torch.bucketize(x[:, :3].mean((2, 3)), torch.tensor([62.0, 170.0])).tolist()]
                 for x in drawn)
    assert cut == labels.tolist() and set(labels.tolist()) == set(OWN[split]) >= set(back)
    assert not any(a == b for a, b in zip(back, cut, strict=True)) and len(set(back)) > 3


def test_it_stays_in_sight_and_nearly_where_it_is():
    path = TASK._path(2000, generator("path"))
    assert path.shape == (2000, 4, 3)
    assert (path[..., :2].abs() + path[..., 2:]).max() <= photos.SIZE / 2
    step = (path[:, 1:, :2] - path[:, :-1, :2]).abs()
    assert 0.9 * DRIFT < step.max() <= DRIFT + 1e-4 and torch.equal(path[:, 0, 2], path[:, -1, 2])
    low, high = TASK.radius
    assert low <= path[..., 2].min() < low + 0.1 < high - 0.1 < path[..., 2].max() <= high
    assert (path[:, 0, :2].mean(0).abs() < 2).all() and path[:, 0, :2].abs().max() > 20, "all over the frame"


def test_they_lie_beside_the_moving_ones(monkeypatch):
    monkeypatch.setattr("i2vlib.data.rendered.render", lambda tasks, name, root, seed, progress: Path(root) / name)
    assert corrupted_photos().parts[-3:] == ("data", "photos", "photos-corrupted")


def test_what_version_1_draws_does_not_change_unnoticed():
    """Mean colours of first frames: where they change, VERSION must be raised, or old caches would stay."""
    means = TASK.draw("val", 0, 3, generator(0, "pinned"))[0][:, 0].float().mean((1, 2))
    assert (means - torch.tensor(PINNED)).abs().max() < 0.5 and photos_corrupted.VERSION == 1, means


def test_unknown_names(folder, tmp_path):
    with pytest.raises(ValueError, match="split 'dev': allowed is 'train' or 'val' or 'test'"):
        junk_map(folder, "dev")
    with pytest.raises(FileNotFoundError, match="val_junk.npy: there is no such file; of .* tasks only `photos-corrupted`"):
        junk_map(tmp_path, "val")


def test_the_page_on_data_tells_of_it_as_it_is():
    page = (Path(photos.__file__).parents[2] / "data" / "README.md").read_text()
    assert f"| `{TASK.name}` | {TASK.frames} | {TASK.classes} |" in page
