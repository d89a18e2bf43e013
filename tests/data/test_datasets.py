"""List files as found on disk, bad files among good ones, randomness that depends on nothing but its key."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from i2vlib.data.datasets import VideoDataset, collate
from i2vlib.data.lists import ListError
from i2vlib.data.video import write_clip
from i2vlib.protocol import ClipConfig

CLIP = ClipConfig(frames=4, size=32, short_side=32, test_short_side=32, random_crop=False, flip=0.0,
                  mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
STRONG = ClipConfig(frames=4, size=32, short_side=40, test_short_side=32, flip=0.5, flip_pairs=((0, 1),),
                    rand_augment=(2, 7), erasing=0.5)


def listed(folder, text, name="train.txt"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six clips of 12 frames, 32x64 pixels, whose grey is 20 * clip + frame; classes 0, 1, 2."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(6):
        grey = (20 * i + torch.arange(12)).to(torch.uint8)
        write_clip(root / f"clip {i}.mp4", grey.view(12, 1, 1, 1).expand(12, 32, 64, 3).contiguous())
    listed(root, "".join(f"clip {i}.mp4 {i % 3}\n" for i in range(6)), "list.txt")
    return root


def greys(video: torch.Tensor) -> list[int]:
    return (video[..., 0, 5, 5] * 255).round().int().flatten().tolist()


def test_missing_lists_and_roots_are_named(tmp_path, videos):
    with pytest.raises(ListError, match="nowhere.txt: there is no such list file"):
        VideoDataset(tmp_path / "nowhere.txt", videos, CLIP, train=False)
    with pytest.raises(FileNotFoundError, match="gone: there is no such folder"):
        VideoDataset(videos / "list.txt", videos / "gone", CLIP, train=False)


def test_classes_and_their_names(tmp_path, videos):
    assert VideoDataset(videos / "list.txt", videos, CLIP, train=False).classes == 3
    path = listed(tmp_path, (videos / "list.txt").read_text())
    listed(tmp_path, "up\ndown\nleft\nright\n", "classes.txt")
    dataset = VideoDataset(path, videos, CLIP, train=False)
    assert dataset.classes == 4 and dataset.class_names == ["up", "down", "left", "right"]
    listed(tmp_path, "up\ndown\n", "classes.txt")
    with pytest.raises(ListError, match="line 3: label 2: allowed is 0 to 1, the classes of classes.txt"):
        VideoDataset(path, videos, CLIP, train=False)


@pytest.mark.parametrize("cache", [False, True])
def test_test_items_are_the_frames_of_the_views(videos, cache):
    config = ClipConfig(frames=4, sampling="dense", stride=2, size=32, test_short_side=32, test_clips=3, test_crops=3,
                        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    dataset = VideoDataset(videos / "list.txt", videos, config, train=False, cache=cache)
    for _ in range(2):
        item = dataset[2]
        assert item["video"].shape == (9, 4, 3, 32, 32) and item["video"].dtype == torch.float32
        assert [greys(view) for view in item["video"]] == [
            [40 + start + 2 * t for t in range(4)] for start in (0, 2, 5) for _ in range(3)]
        assert (item["label"], item["index"], item["weight"], item["error"]) == (2, 2, 1.0, "")
    uniform = VideoDataset(videos / "list.txt", videos, CLIP, train=False, cache=cache)
    assert greys(uniform[1]["video"]) == [21, 24, 27, 30]


def test_training_samples_one_frame_of_each_segment(videos):
    dataset, seen = VideoDataset(videos / "list.txt", videos, CLIP, train=True), set()
    for epoch in range(12):
        dataset.set_epoch(epoch)
        frames = greys(dataset[1]["video"])
        assert [(g - 20) // 3 for g in frames] == [0, 1, 2, 3]
        seen.add(tuple(frames))
    assert len(seen) > 8


def test_an_item_depends_on_seed_epoch_and_index_alone(videos):
    def items(dataset, order, epoch=3, workers=0):
        dataset.set_epoch(epoch)
        torch.manual_seed(int(np.random.default_rng().integers(1000)))  # whatever happened before
        loader = DataLoader(dataset, sampler=order, batch_size=2, num_workers=workers, collate_fn=collate)
        found = {int(i): (v, int(label)) for b in loader
                 for i, v, label in zip(b["index"], b["video"], b["label"], strict=True)}
        return [found[i] for i in range(6)]

    def same(a, b):
        return [torch.equal(x[0], y[0]) and x[1] == y[1] for x, y in zip(a, b, strict=True)]

    def make(seed=0, cache=False):
        return VideoDataset(videos / "list.txt", videos, STRONG, train=True, seed=seed, cache=cache)

    first = items(make(), range(6))
    assert all(same(first, items(make(), [5, 3, 1, 0, 2, 4])))
    assert all(same(first, items(make(), range(6), workers=2)))
    assert all(same(first, items(make(cache=True), range(6))))
    assert not any(same(first, items(make(), range(6), epoch=4)))
    assert not any(same(first, items(make(seed=1), range(6))))


def test_an_item_leaves_the_callers_random_state_alone(videos):
    dataset = VideoDataset(videos / "list.txt", videos, STRONG, train=True)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dataset[0]
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("cache", [False, True])
def test_a_bad_file_is_zeros_without_weight_and_named(tmp_path, videos, train, cache):
    (tmp_path / "zero.mp4").touch()
    good = (videos / "clip 1.mp4").read_bytes()
    (tmp_path / "good.mp4").write_bytes(good)
    (tmp_path / "half.mp4").write_bytes(good[:len(good) // 2])
    path = listed(tmp_path, "zero.mp4 1\ngood.mp4 0\nmissing.mp4 2\nhalf.mp4 0\nempty 0 1\nfolder 9 1\n")
    (tmp_path / "empty").mkdir()
    batch = collate(list(VideoDataset(path, tmp_path, CLIP, train=train, cache=cache)))
    assert batch["video"].shape == (6, 1, 4, 3, 32, 32) and batch["weight"].tolist() == [0, 1, 0, 0, 0, 0]
    assert [bool(v.any()) for v in batch["video"]] == [False, True, False, False, False, False]
    assert batch["label"].tolist() == [1, 0, 2, 0, 1, 1] and batch["index"].tolist() == list(range(6))
    assert batch["error"][0] == f"{tmp_path / 'zero.mp4'}: is empty (0 bytes)" and batch["error"][1] == ""
    assert "missing.mp4: there is no such file" in batch["error"][2] and "half.mp4: is cut off" in batch["error"][3]
    assert "gives it 0 frames" in batch["error"][4] and "no such folder of frames" in batch["error"][5]


def test_folders_of_frames(tmp_path):
    (tmp_path / "a clip").mkdir()
    for i in range(8):
        Image.new("RGB", (64, 32), (20 * i, 0, 0)).save(tmp_path / "a clip" / f"img_{i + 1:05d}.jpg", quality=100)
    dataset = VideoDataset(listed(tmp_path, "a clip 8 1\na clip/ 30 0\n"), tmp_path, CLIP, train=False)
    assert np.abs(np.array(greys(dataset[0]["video"])) - [20, 60, 100, 140]).max() <= 2  # frames 1, 3, 5, 7
    item = dataset[1]
    assert item["weight"] == 0 and "a clip: img_00012.jpg cannot be read" in item["error"]
