import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from i2vlib.config import CLIP_MEAN, CLIP_STD
from i2vlib.data.mini import TASKS
from i2vlib.show import film, interpolation, use_style
from i2vlib.show.clips import pictures
from i2vlib.show.training import confusion, curves
from i2vlib.training.evaluate import Result

ROOT = Path(__file__).resolve().parents[2]


def test_film_has_a_row_a_clip_and_a_column_a_frame():
    clips = [torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.full((3, 8, 8, 3), 255, dtype=torch.uint8)]
    figure = film(clips, title="two clips", rows=["black", "white"])
    shown = [a for a in figure.axes if a.images]
    assert len(figure.axes) == 8 and len(shown) == 7
    assert figure.axes[0].get_ylabel() == "black" and figure.axes[4].get_xlabel() == "t = 0"
    assert figure.axes[0].images[0].get_array().max() == 0 and figure.axes[4].images[0].get_array().min() == 255
    assert not plt.get_fignums(), "closed, so that a notebook shows it once"


def test_a_long_film_wraps_with_its_clips_side_by_side():
    clips = [torch.randint(0, 256, (frames, 6, 6, 3), dtype=torch.uint8) for frames in (32, 18)]
    figure = film(clips, rows=["a", "b"], title="long")
    axes = np.array(figure.axes).reshape(4, 2, 8)  # (part of the time, clip, column)
    for clip, frames in enumerate(clips):
        for t in range(32):
            shown = axes[t // 8, clip, t % 8].images
            assert len(shown) == (t < len(frames)) and (not shown or np.array_equal(shown[0].get_array(), frames[t].numpy()))
            assert axes[t // 8, 1, t % 8].get_xlabel() == f"t = {t}"
    assert [a.get_ylabel() for a in axes[:, :, 0].ravel()] == ["a", "b"] * 4 and figure.get_size_inches()[0] < 12


def test_films_that_cannot_be_drawn_are_refused():
    clip = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="clips of \\[2, 2\\] frames with 1 rows: .* one row a clip"):
        film([clip, clip], rows=["one"])
    for nothing in ([], clip[:0], [clip, clip[:0]]):
        with pytest.raises(ValueError, match="allowed is one clip or more, of a frame or more"):
            film(nothing)


def test_film_undoes_the_normalisation():
    frames = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    as_seen = (frames.permute(0, 3, 1, 2) / 255 - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    assert torch.equal(pictures(as_seen), frames)
    with pytest.raises(ValueError, match=r"allowed is \(T, H, W, 3\) uint8 or \(T, 3, H, W\) float"):
        film(torch.zeros(2, 8, 8))


def test_curves_draw_the_log(tmp_path):
    rows = [{"kind": "train", "step": i + 1, "loss": 2 - i / 50, "lr": 0.1} for i in range(50)]
    rows.append({"kind": "val", "step": 50, "top1": 1})
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    left, right = curves(tmp_path, chance=math.log(6)).axes
    assert np.allclose(left.lines[0].get_ydata(), [r["loss"] for r in rows[:50]])
    assert np.allclose(left.lines[1].get_ydata()[0], (2 + 1.98) / 2) and left.lines[1].get_xdata()[0] == 2
    assert left.lines[2].get_ydata()[0] == math.log(6) and len(right.lines[0].get_xdata()) == 50


def test_curves_mark_the_validation_that_was_kept(tmp_path):
    rows = [{"split": "train", "step": i, "loss": 2.0, "lr": 0.1 * i} for i in range(1, 7)]
    rows += [{"split": "val", "step": step, "top1": top1} for step, top1 in ((2, 0.25), (4, 0.75), (6, 0.75))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, right = curves(tmp_path).axes
    rate, top1, kept = right.lines
    assert rate.get_ydata()[-1] == 1
    assert top1.get_xdata().tolist() == [2, 4, 6] and top1.get_ydata().tolist() == [0.25, 0.75, 0.75]
    assert kept.get_xdata().tolist() == [4] and kept.get_label() == "kept: step 4, 0.750"


def test_confusion_shows_shares_of_the_true_class():
    scores = torch.eye(3)[[0, 0, 1, 2]]
    figure = confusion(Result(scores, torch.tensor([0, 1, 1, 2]), torch.arange(4)), ["a", "b", "c"])
    shares = figure.axes[0].images[0].get_array()
    assert np.allclose(shares, [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1]])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
    assert "75.0%" in figure.axes[0].get_title(loc="left") + figure.axes[0].get_title()


def test_the_style_is_the_courses():
    with plt.rc_context():
        use_style()
        assert plt.rcParams["axes.titlelocation"] == "left"


def test_the_opening_figure_and_animation_are_drawn_by_one_command(tmp_path, monkeypatch):
    import i2vlib.course.opening as opening
    monkeypatch.setattr(opening, "FIGURE", tmp_path / "figures" / "opening.png")
    monkeypatch.setattr(opening, "ANIMATION", tmp_path / "figures" / "opening.gif")
    with plt.rc_context():  # it sets the course's style, which the tests after this one do not expect
        opening.main()
    assert 20_000 < (tmp_path / "figures" / "opening.png").stat().st_size < 1_500_000
    for path in (opening.ANIMATION, ROOT / "notebooks" / "figures" / "opening.gif"):  # made now, and committed
        with Image.open(path) as moving:
            assert moving.n_frames == TASKS["motion"].frames and moving.info["loop"] == 0 and moving.width <= 1000
        assert 20_000 < path.stat().st_size < 1_500_000
    plt.close("all")


def test_the_readme_says_what_the_animations_heads_do():
    from i2vlib.course.opening import clearest_heads, heads_title, object_place
    spatial, relocated, clips = clearest_heads()
    place, readme = object_place(clips), " ".join((ROOT / "README.md").read_text().split())
    assert spatial.offset == 0 and relocated.offset == 1 and spatial.maps.shape == (384, 4, 8, 8)
    assert len(clips) == 384 and 0.9 < min(spatial.on_place, relocated.on_place)
    assert [heads_title(offset).split("head in ")[1] for offset in (1, -1, 2)] == ["the next", "the one before", "frame t+2"]
    assert (f"the clearest spatial head has {spatial.on_place:.2f} of its attention to patches on the object in its own frame, "
            f"the clearest relocated head {relocated.on_place:.2f} on the object in the next frame") in readme
    assert f"the object covers {place.float().mean():.2f} of a frame" in readme


def test_the_object_is_where_the_colour_is():
    from i2vlib.course.opening import object_place
    grey = torch.full((1, 2, 3, 48, 48), 0.5)
    grey[0, 0, 1:, :6, :6] = grey[0, 1, 1:, :6, 6:12] = 0  # red: patch (0,0), then (0,1)
    clips = (grey - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    place = object_place(clips)
    assert place.nonzero().tolist() == [[0, 0, 0, 0], [0, 1, 0, 1]]


def test_interpolation_shows_each_site_the_cascade_and_the_fused_frame():
    """i2vlib.show.interpolation on weights placed by hand: all on frame 2 of 4."""
    first, second = torch.zeros(1, 4, 5), torch.zeros(1, 2, 5)
    first[:, 0] = first[:, 2] = second[:, 1] = 1
    clip = torch.stack([torch.full((3, 4, 4), v) for v in (-1.0, -0.5, 0.5, 1.0)])
    axes = [axis for axis in interpolation(clip, [first, second], title="by hand").axes if axis.images]
    shown = [np.asarray(axis.images[0].get_array()) for axis in axes]
    assert len(shown) == 4 + 4 + 2 + 4 + 2, "frames, site 1, site 2, cascade, the fused frame and the average"
    assert [x.max() for x in shown[4:14]] == [1, 0, 1, 0, 0, 1, 0, 0, 1, 0] and shown[12].min() == 1
    assert np.array_equal(shown[14], shown[2]), "all weight on frame 2: the fused frame is frame 2"
    assert np.array_equal(shown[15], pictures(clip.mean(0, keepdim=True))[0].numpy())
    assert axes[4].get_ylabel() == "weights at\nsite 1" and axes[15].get_title(loc="left") == "plain average"
    with pytest.raises(ValueError, match="allowed is"):
        interpolation(clip, [second])


@pytest.mark.parametrize(("frames", "sites"), [(2, 1), (4, 2), (16, 1), (32, 2), (32, 3), (32, 5)])
def test_weights_stand_under_their_frames_on_a_page_of_any_style(frames, sites):
    """Without the course's style, whose layout the figure must not need, and with many frames."""
    g = torch.Generator().manual_seed(0)
    maps = [torch.rand(1, frames >> site, 5, generator=g) for site in range(sites)]
    clip, group = torch.randn(frames, 3, 4, 4, generator=g), 2**sites
    figure = interpolation(clip, maps, title="any style")
    boxes = []
    for axis in figure.axes:
        axis.apply_aspect()
        boxes.append((axis.get_position().extents.reshape(2, 2) * figure.get_size_inches()).ravel())
    width, height = figure.get_size_inches()
    assert width < 13 and all(0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1 in boxes)
    pictures_at = [(axis, box) for axis, box in zip(figure.axes, boxes, strict=True) if axis.images]
    middles = [(box[0] + box[2]) / 2 for _, box in pictures_at[:frames]]
    assert len({round(m, 3) for m in middles}) == min(frames, max(8, group)), "columns"
    at = frames
    for weights in [*maps, *[maps[0]] * (sites > 1)]:  # the sites, then as many as frames: the cascade
        each = frames // weights.shape[1]
        for i in range(weights.shape[1]):
            _, box = pictures_at[at + i]
            own = slice(i * each, (i + 1) * each)
            assert (box[0] + box[2]) / 2 == pytest.approx(np.mean(middles[own])), "under the middle of its frames"
            assert all(box[3] < frame[1] for _, frame in pictures_at[own]), "under them"
            assert box[2] - box[0] == pytest.approx(pictures_at[0][1][2] - pictures_at[0][1][0]), "of their size"
        at += weights.shape[1]
    assert len(pictures_at) == at + 2 * frames // group
    for i in range(frames // group):
        (_, fused), (_, average) = pictures_at[at + i], pictures_at[at + frames // group + i]
        assert (fused[0] + average[2]) / 2 == pytest.approx(np.mean(middles[i * group:(i + 1) * group])) and fused[2] < average[0]
    small = interpolation(clip, maps, size=0.6)
    small.draw_without_rendering()
    named = [text for text in small.findobj(plt.Text) if text.get_text() in ("by its weights", "plain average")]
    words = sorted((text.get_window_extent() for text in named), key=lambda box: (-round(box.y0), box.x0))
    assert len(words) == 2 * frames // group
    assert all(a.x1 < b.x0 or a.y0 > b.y1 for a, b in zip(words, words[1:], strict=False)), "words stand apart"
