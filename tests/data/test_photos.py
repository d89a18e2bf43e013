"""The photographs' clips say what their labels say, betray nothing in a bag of frames, and share no pixel between splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2vlib.data import photos
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.drawing import generator
from i2vlib.data.lists import read_list
from i2vlib.data.photos import PHOTOS, TASKS, mover_path, open_photo, part_of, photo_data, place_map
from i2vlib.data.video import VideoFile, read_clip
from i2vlib.protocol import ClipConfig

COUNTS = {"train": 12, "val": 6, "test": 6}
README = Path(photos.__file__).parents[2] / "data" / "README.md"
PINNED = [[179.4, 56.3, 39.9], [50.1, 77.5, 62.3], [47.9, 64.4, 56.2]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The hardest level, a few clips of it: rendered and read back as files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "photos-two-pan", replace(TASKS["photos-two-pan"], **COUNTS))
        yield photo_data("photos-two-pan", tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def drawn():
    """Twelve clips of even label of each level: frames, labels, places."""
    found = {}
    for name, task in TASKS.items():
        frames, labels, truths = task.draw("train", 0, 12, generator("drawn", name))
        found[name] = frames, labels, truths["place"]
    return found


def read(folder, split):
    entries = read_list(folder / f"{split}.txt")
    return torch.stack([read_clip(folder / e.path, range(4)) for e in entries]), torch.tensor([e.label for e in entries])


def test_the_levels():
    assert {n: (t.movers, t.pan, t.step[0] > photos.PATCH) for n, t in TASKS.items()} == {
        "photos-one": (1, False, False), "photos-two": (2, False, False), "photos-pan": (1, True, False),
        "photos-two-pan": (2, True, False), "photos-far": (1, False, True), "photos-few": (1, False, False)}
    for name, task in TASKS.items():
        assert (task.train, task.val, task.test) == ((1000, 60, 240) if name == "photos-few" else (2000, 400, 600))
        assert (task.frames, task.classes, task.twins) == (4, 6, True)


def test_files(folder):
    assert (folder / "classes.txt").read_text().splitlines()[::2] == ["moves left", "moves up", "goes away"]
    for split, count in COUNTS.items():
        assert [e.path for e in read_list(folder / f"{split}.txt")] == [f"{split}/{i:05d}.mp4" for i in range(count)]
        assert place_map(folder, split).shape == (count, 4, 8, 8)


@pytest.mark.parametrize("split", COUNTS)
def test_a_decoded_twin_is_the_reversal_with_the_other_label(folder, split):
    frames, labels = read(folder, split)
    places = place_map(folder, split)
    assert frames.shape[1:] == (4, 112, 128, 3) and torch.equal(labels, torch.arange(COUNTS[split]) % 6)
    assert torch.equal(frames[1::2], frames[::2].flip(1)) and torch.equal(places[1::2], places[::2].flip(1))
    assert not torch.equal(frames[1::2], frames[::2])  # the negative control: backwards is another clip


def test_the_data_set_shows_the_model_the_columns_of_the_map(folder):
    clip = ClipConfig(frames=4, size=112, test_short_side=112)
    with VideoFile(folder / "test/00003.mp4") as video:
        frames = video.frames(range(4))
        assert len(video) == 4 and "IDR" in video.why
    data = VideoDataset(folder / "test.txt", folder, clip, train=False)
    mean, std = (torch.tensor(v)[:, None, None] for v in (clip.mean, clip.std))
    seen = (data[3]["video"][0] * std + mean) * 255
    assert data.class_names == list(TASKS["photos-one"].class_names) and data[3]["error"] == ""
    assert (seen - frames[:, :, 8:120].permute(0, 3, 1, 2)).abs().max() < 0.01


def motion(places: torch.Tensor) -> torch.Tensor:
    """The change of x, y and area of a map of places (n,T,8,8) from the first frame to the last: (n,3), places."""
    mass, line = places.float().sum((2, 3)), torch.arange(8.0)
    x, y = ((places.float().sum(d) * line).sum(-1) / mass for d in (2, 3))
    return torch.stack([x, y, mass], -1)[:, -1] - torch.stack([x, y, mass], -1)[:, 0]


@pytest.mark.parametrize("name", TASKS)
def test_the_motion_of_the_truth_is_that_of_the_label(drawn, name):
    _, labels, places = drawn[name]
    change = motion(places)
    assert places.flatten(2).any(-1).all() and labels.unique().tolist() == [0, 2, 4]
    for label, (column, sign) in {0: (0, -1), 2: (1, -1), 4: (2, -1)}.items():
        assert (change[labels == label, column] * sign > 0.7).all()
        assert (motion(places[labels == label].flip(1))[:, column] * sign < 0).all()  # the twins


@pytest.mark.parametrize("name", TASKS)
def test_what_moves_is_where_the_truth_says(drawn, name):
    frames, _, places = drawn[name]
    seen = frames[:, :, :, 8:120].float().unflatten(3, (8, 14)).unflatten(2, (8, 14)).transpose(3, 4)
    change = (seen[:, 1:] - seen[:, :-1]).abs().mean((-1, -2, -3))
    arrives = (places[:, 1:] & ~places[:, :-1])
    assert change[arrives].median() > 15
    never = ~places.any(1, keepdim=True).expand_as(change)  # a tenth of a patch may be covered where the map says no
    if name in ("photos-one", "photos-far"):
        assert change[never].median() < 4
    elif TASKS[name].pan:
        assert change[never].median() > 4


def test_the_map_is_that_of_a_white_cut_out_on_black(monkeypatch):
    def pieces(split, n, movers, g):
        white = torch.full((n, 4, 96, 96), 255.0)
        white[:, 3] = torch.stack([photos.mask(g) for _ in range(n)])
        return torch.zeros(n, 3, 140, 156), [white] * movers

    monkeypatch.setattr(photos, "_pieces", pieces)
    frames, _, truths = TASKS["photos-pan"].draw("val", 0, 9, generator(4))
    share = torch.nn.functional.avg_pool2d(frames[:, :, :, 8:120].float().mean(-1) / 255, 14)
    assert not (truths["place"] & (share < 0.09)).any() and not (~truths["place"] & (share > 0.11)).any()
    assert 0.1 < truths["place"].float().mean() < 0.4


# ---- paths ----

def paths(name, kind, sign=1.0, within=None, n=600):
    """Labelled cut-outs, or others below the radius `within`."""
    within = within if within is None else torch.full((n,), within)
    return mover_path(TASKS[name], torch.full((n,), kind), torch.full((n,), sign), within, generator(name, kind, sign))


@pytest.mark.parametrize("name, kind", [(name, kind) for name in TASKS for kind in range(3)])
def test_steps_and_reach(name, kind):
    path, low, high = paths(name, kind), *TASKS[name].step
    assert path.shape == (600, 4, 3)
    assert (path[..., :2].abs() + path[..., 2:] / 2).max() <= 56.4  # three quarters or more of a cut-out are in sight
    step = path[:, 1:, :2] - path[:, :-1, :2]
    if kind < 2:
        assert (-step[..., kind]).min() >= low - 0.8 and (-step[..., kind]).max() <= high + 0.8
        assert step[..., 1 - kind].abs().max() <= 0.8 and torch.equal(path[:, 0, 2], path[:, -1, 2])
    else:
        change = path[:, 0, 2] / path[:, -1, 2]
        assert 1.59 < change.min() < 1.65 < 1.85 < change.max() < 1.91 and (path[:, :-1, 2] > path[:, 1:, 2]).all()
        assert step.norm(dim=-1).max() <= (high + 1.2 if name == "photos-far" else 1.2)
    if name == "photos-far":
        assert step.norm(dim=-1).min() > photos.PATCH
    else:
        assert step.norm(dim=-1).max() < photos.PATCH


@pytest.mark.parametrize("kind", range(3))
def test_a_path_backwards_is_a_path_of_the_opposite_sign(kind):
    """So over a clip and its twin, and over the signs of the other cut-out, first frames are as last frames are."""
    there, back = paths("photos-two", kind, 1.0, 20.0, 4000), paths("photos-two", kind, -1.0, 20.0, 4000).flip(1)
    assert (there.mean(0) - back.mean(0)).abs().max() < 2 and (there.std(0) - back.std(0)).abs().max() < 1


@pytest.mark.parametrize("column", range(3))
def test_a_first_frame_says_little_of_the_direction(column):
    """Where, and how large, a slow cut-out and its twin start overlaps: the best guess of one from it is far from sure."""
    path = paths("photos-one", column, n=4000)
    first, last = path[:, 0, column], path[:, -1, column]
    line = torch.linspace(-56, 56, 113)[:, None]
    assert 0.65 < ((first < line).float().mean(1) - (last < line).float().mean(1)).abs().max() / 2 + 0.5 < 0.93


def test_the_labelled_one_is_the_larger_in_every_frame(monkeypatch):
    task, seen, paste = TASKS["photos-two"], [], photos.paste
    blank = lambda split, n, movers, g: (torch.zeros(n, 3, 140, 156), [torch.zeros(n, 4, 96, 96)] * 2)  # noqa: E731
    monkeypatch.setattr(photos, "_pieces", blank)
    monkeypatch.setattr(photos, "paste", lambda image, cutout, path: (seen.append(path[..., 2]), paste(image, cutout, path))[1])
    for first in range(0, 60, 20):
        task.draw("train", first, 20, generator(first))
    for other, labelled in zip(seen[::2], seen[1::2], strict=True):
        assert (other.amax(1) < 0.86 * labelled.amin(1)).all() and other.min() > 4


def test_the_labelled_one_passes_in_front(monkeypatch):
    """It is laid over the other, and where it is, nothing shows through."""
    task, order, paste = TASKS["photos-two"], [], photos.paste
    monkeypatch.setattr(photos, "paste", lambda *args: (order.append(args[2][..., 2].mean()), paste(*args))[1])
    task.draw("val", 0, 6, generator(1))
    assert len(order) == 2 and order[0] < order[1]
    image, cutout = torch.zeros(1, 1, 3, 112, 128), torch.full((1, 4, 96, 96), 1.0)
    cutout[:, :3] = 200
    painted, cover = paste(image, cutout, torch.tensor([[[0.0, 0.0, 20.0]]]))
    assert painted[0, 0, :, 56, 64].tolist() == [200] * 3 and painted[0, 0, :, 5, 5].tolist() == [0] * 3
    assert abs(cover.sum() - 52**2) < 60  # 2.6 radii a side


def test_the_other_cut_outs_motion_says_nothing_of_the_label(monkeypatch):
    task, seen, spied = TASKS["photos-two"], [], photos.mover_path
    monkeypatch.setattr(photos, "mover_path", lambda *args: (seen.append(args[1:3]), spied(*args))[1])
    monkeypatch.setattr(photos, "_pieces", lambda *args: (_ for _ in ()).throw(InterruptedError))
    with pytest.raises(InterruptedError):
        task.draw("train", 0, 3000, generator(2))
    (label, _), (kind, sign) = seen
    table = torch.stack([((label == a) & (kind == b) & (sign == s)).float().mean()
                         for a in range(3) for b in range(3) for s in (-1, 1)])
    assert (table - 1 / 18).abs().max() < 0.02


# ---- splits ----

def test_no_pixel_of_a_photograph_is_in_two_splits():
    for name in PHOTOS:
        width, height = open_photo(name).size
        used = np.zeros((height, width), int)
        for split in COUNTS:
            if box := part_of(name, split, (width, height)):
                left, top, right, bottom = box
                assert 0 <= left < right <= width and 0 <= top < bottom <= height
                used[top:bottom, left:right] += 1
        assert used.max() == 1 and used.mean() > (0.4 if PHOTOS[name].box else 0.9)
    assert [sum(p.split == s for p in PHOTOS.values()) for s in ("val", "test")] == [6, 6]


@pytest.fixture
def repainted(monkeypatch):
    """Give the photographs other pixels, where `touch` of a split says so, and forget the parts cut off before."""
    def repaint(touch):
        def other(name):
            image = np.array(open_photo(name))
            for split in COUNTS:
                if (box := part_of(name, split, image.shape[1::-1])) and touch(split):
                    image[box[1]:box[3], box[0]:box[2]] = 77
            return Image.fromarray(image)
        monkeypatch.setattr(photos, "open_photo", other)
        photos.parts.cache_clear()
    yield repaint
    photos.parts.cache_clear()


@pytest.mark.parametrize("split", COUNTS)
def test_the_clips_of_a_split_are_made_of_its_own_pixels_alone(split, repainted):
    def clips():
        return TASKS["photos-two-pan"].draw(split, 0, 8, generator(3))[0]

    before = clips()
    repainted(lambda other: other != split)
    assert torch.equal(clips(), before)
    repainted(lambda other: other == split)  # the negative control
    assert not torch.equal(clips(), before)


def test_photographs_have_their_licence_on_the_page_on_data():
    page = README.read_text()
    for name, photo in PHOTOS.items():
        assert f"| `{name}` | {photo.package}: `{photo.path}` | {photo.licence} | {photo.split} |" in page
    for name, task in TASKS.items():
        assert f"| `{name}` | {task.frames} | {task.classes} |" in page


def test_a_photograph_that_is_missing_or_another_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(PHOTOS, "china", PHOTOS["china"]._replace(sha256="0" * 16))
    with pytest.raises(ValueError, match=r"china.jpg: is not the photograph that it was \(SHA-256 0000000000000000"):
        open_photo("china")
    monkeypatch.setattr(photos, "find_spec", lambda package: None)
    photos.parts.cache_clear()
    with pytest.raises(FileNotFoundError, match="astronaut.png: there is no such photograph; pip install scikit-image"):
        photo_data("photos-one", tmp_path)
    assert not list(tmp_path.iterdir())  # nothing half-made is left behind


# ---- the folder ----

def test_it_is_kept_and_drawn_again_the_same(folder, monkeypatch, tmp_path):
    monkeypatch.setitem(TASKS, "photos-two-pan", replace(TASKS["photos-two-pan"], **COUNTS))
    victim = folder / "test" / "00001.mp4"
    bytes_before, age = victim.read_bytes(), (folder / "test" / "00000.mp4").stat().st_mtime_ns
    assert photo_data("photos-two-pan", folder.parent) == folder
    assert (folder / "test" / "00000.mp4").stat().st_mtime_ns == age
    victim.write_bytes(bytes_before[:-1])
    photo_data("photos-two-pan", folder.parent)
    assert victim.read_bytes() == bytes_before and (folder / "test" / "00000.mp4").stat().st_mtime_ns > age
    one, other = (TASKS["photos-one"].draw("val", 0, 2, generator(seed))[0] for seed in (0, 1))
    assert not torch.equal(one, other)


def test_they_lie_in_a_folder_of_their_own(monkeypatch):
    monkeypatch.setattr("i2vlib.data.rendered.render", lambda tasks, name, root, seed, progress: Path(root) / name)
    assert photo_data("photos-far").parts[-3:] == ("data", "photos", "photos-far")


def test_what_version_2_draws_does_not_change_unnoticed():
    """Mean colours of first frames: where they change, VERSION must be raised, or old caches would stay."""
    frames = TASKS["photos-two-pan"].draw("val", 0, 3, generator(0, "pinned"))[0]
    means = frames[:, 0].float().mean((1, 2))
    assert (means - torch.tensor(PINNED)).abs().max() < 0.5 and photos.VERSION == 2, means


def test_unknown_names(folder, tmp_path):
    with pytest.raises(ValueError, match="no embedded task 'photos': allowed are photos-one, photos-two, .*photos-far"):
        photo_data("photos", tmp_path)
    with pytest.raises(ValueError, match="split 'dev': allowed is 'train' or 'val' or 'test'"):
        place_map(folder, "dev")
    with pytest.raises(FileNotFoundError, match="val_place.npy: there is no such file; only the tasks of photographs have one"):
        place_map(tmp_path, "val")
