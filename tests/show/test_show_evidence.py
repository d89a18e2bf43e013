"""i2vlib.show.evidence: the right numbers on the right frames, one scale, one time axis, signs that are seen."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from i2vlib.show import frame_importance, gradcam, patch_importance, use_style
from i2vlib.show.clips import pictures
from i2vlib.show.evidence import AGAINST, FOR


def clip(frames):
    return torch.randint(0, 256, (frames, 12, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(frames))


def place(axis):
    """Its box on the page as drawn, inches: left, bottom, right, top."""
    axis.apply_aspect()
    figure = axis.figure
    return (axis.get_position().extents.reshape(2, 2) * figure.get_size_inches()).ravel()


def split(figure):
    """(axes of plain frames, axes with a map, colour bar or axes of bars) in the order of time."""
    plain = [a for a in figure.axes if len(a.images) == 1]
    return plain, [a for a in figure.axes if len(a.images) == 2], [a for a in figure.axes if not a.images]


@pytest.mark.parametrize("frames", [1, 4, 8, 16, 32])
def test_each_map_lies_on_its_frame(frames):
    cam = torch.rand(frames, 3, 4)
    shown = clip(frames)
    figure = gradcam(shown, cam, name="falls", title="a title")
    plain, mapped, (bar,) = split(figure)
    assert len(plain) == len(mapped) == frames and not plt.get_fignums()
    for t in range(frames):
        assert np.array_equal(plain[t].images[0].get_array(), shown[t].numpy())
        grey, overlay = mapped[t].images
        luma = shown[t].double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
        assert np.corrcoef(np.asarray(grey.get_array())[..., 0].ravel(), luma.ravel())[0, 1] > 0.999
        assert np.array_equal(overlay.get_array(), cam[t].numpy()) and overlay.get_clim() == (0, 1), "one scale"
        assert list(overlay.get_extent()) == [-0.5, 15.5, 11.5, -0.5] and mapped[t].get_xlabel() == f"t = {t}"
        above, below = place(plain[t]), place(mapped[t])
        assert np.allclose(above[[0, 2]], below[[0, 2]]) and above[1] > below[3], "under its frame"
    assert "evidence for falls" in bar.get_ylabel().replace("\n", " ") and figure._suptitle.get_text() == "a title"
    width, height = figure.get_size_inches()
    assert width < 11 and all(0 <= x0 and x1 <= width and 0 <= y0 and y1 <= height for x0, y0, x1, y1 in map(place, figure.axes))
    assert {round(place(a)[0], 3) for a in plain} == {round(place(a)[0], 3) for a in plain[:8]}, "rows of eight, in columns"


def test_a_fused_map_lies_between_its_frames_on_their_average():
    shown, cam = clip(16), torch.rand(4, 3, 4)
    plain, mapped, _ = split(gradcam(shown, cam))
    assert len(plain) == 16 and [a.get_xlabel() for a in mapped] == [f"t = {4 * i} to {4 * i + 3}, fused" for i in range(4)]
    for i, axis in enumerate(mapped):
        first, last = place(plain[4 * i]), place(plain[4 * i + 3])
        assert np.isclose(place(axis)[[0, 2]].mean(), (first[0] + last[2]) / 2) and place(axis)[3] < first[1]
        average = shown[4 * i:4 * i + 4].double().mean(0) @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
        assert np.corrcoef(np.asarray(axis.images[0].get_array())[..., 0].ravel(), average.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("maps", [1, 2, 4])
def test_a_map_of_many_frames_stands_under_rows_of_eight(maps):
    shown, cam = clip(32), torch.rand(maps, 3, 4)
    figure = gradcam(shown, cam, title="t")
    plain, mapped, _ = split(figure)
    each = 32 // maps
    assert len(plain) == 32 and len(mapped) == maps and figure.get_size_inches()[0] < 11
    assert len({round(place(axis)[0], 3) for axis in plain}) == 8
    for t, axis in enumerate(plain):
        assert np.array_equal(axis.images[0].get_array(), shown[t].numpy())
        assert t % 8 == 0 or place(axis)[0] > place(plain[t - 1])[0]
    for i, axis in enumerate(mapped):
        own = [place(a) for a in plain[i * each:(i + 1) * each]]
        middle = (min(box[0] for box in own) + max(box[2] for box in own)) / 2
        assert np.isclose(place(axis)[[0, 2]].mean(), middle) and place(axis)[3] < min(box[1] for box in own)
        assert all(place(a)[3] < place(axis)[1] for a in plain[(i + 1) * each:]), "and above the next"
    boxes = [place(axis) for axis in figure.axes]
    assert all(x0 >= 0 and y0 >= 0 for x0, y0, _, _ in boxes) and max(box[3] for box in boxes) <= figure.get_size_inches()[1]


def test_the_scale_says_that_0_is_the_least_of_the_clip():
    for name in ("falls", "the class"):
        _, _, (bar,) = split(gradcam(torch.randn(4, 3, 12, 12), torch.rand(4, 3, 3), name=name))
        assert bar.get_ylabel() == f"evidence for {name}\n0: least, 1: most in this clip"


def test_stronger_is_more_opaque_and_signs_have_two_colours():
    drops = torch.tensor([[[-2.0, 0.0, 0.5, 1.0]]]).expand(2, 1, 4)
    _, mapped, (bar,) = split(patch_importance(clip(2), drops, name="falls", score="log_probability"))
    overlay = mapped[1].images[0 + 1]
    colours = overlay.cmap(overlay.norm(np.array([-2.0, 0.0, 0.5, 1.0, 2.0])))
    assert overlay.get_clim() == (-2, 2), "zero in the middle"
    assert np.allclose(colours[0, :3], to_rgb(AGAINST)) and np.allclose(colours[3, :3], to_rgb(FOR))
    assert colours[1, 3] < 0.01 < colours[2, 3] < colours[3, 3] < colours[4, 3] == colours[0, 3] < 1
    assert "log-probability of falls" in bar.get_ylabel().replace("\n", " ")
    assert split(patch_importance(clip(2), 0 * drops))[1][0].images[1].get_clim() == (-1, 1), "no drop anywhere"


@pytest.mark.parametrize("frames", [1, 4, 8, 16, 32])
def test_bars_stand_under_their_frames_on_one_scale(frames):
    drops = torch.randn(frames, generator=torch.Generator().manual_seed(0))
    figure = frame_importance(clip(frames), drops, name="falls")
    plain, _, rows = split(figure)
    assert len(plain) == frames and len(rows) == -(-frames // 8) and not plt.get_fignums()
    bars = [(axis, bar) for axis in rows for bar in axis.patches]
    scale = [place(a)[3] - place(a)[1] for a in rows]
    assert len({axis.get_ylim() for axis in rows}) == 1 and np.ptp(scale) < 1e-9
    for t, (axis, bar) in enumerate(bars):
        x0, y0, x1, _ = place(axis)
        low, high = axis.get_xlim()
        middle = x0 + (bar.get_x() + bar.get_width() / 2 - low) / (high - low) * (x1 - x0)
        picture = place(plain[t])
        assert middle == pytest.approx((picture[0] + picture[2]) / 2, abs=0.035) and picture[1] > y0, "one time axis"
        assert bar.get_height() == pytest.approx(float(drops[t]))
        assert np.allclose(bar.get_facecolor()[:3], to_rgb(FOR if drops[t] > 0 else AGAINST))
        assert axis.get_ylim()[0] <= min(0, drops[t]) and axis.get_ylim()[1] >= max(0, drops[t])
        assert "+" in axis.texts[t % 8].get_text() if drops[t] > 0 else "−" in axis.texts[t % 8].get_text()
    for axis in rows:
        assert list(axis.lines[0].get_ydata()) == [0, 0], "the zero line"
    assert [label.get_text() for axis in rows for label in axis.get_xticklabels()] == [f"t = {t}" for t in range(frames)]
    assert "above 0: speaks for falls" in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("draw", [
    lambda name: gradcam(clip(4), torch.rand(4, 8, 8), name=name, title="t"),
    lambda name: patch_importance(clip(1), torch.rand(1, 8, 8), name=name),
    lambda name: gradcam(clip(1), torch.rand(1, 8, 8), title=f"{name}: a title that is wider than the frame"),
    lambda name: frame_importance(clip(4), torch.tensor([-1e3, 200.0, 0.0, -1e-3]), name=name),
], ids=["gradcam", "patches", "title", "frames"])
def test_no_text_leaves_the_page(draw, tmp_path):
    """With a class name of Something-Something's length; every bar's number stays inside its axes too."""
    torch.manual_seed(0)  # a tick label of some draws stands a pixel beyond the page
    figure = draw("Showing that something is inside something else")
    figure.savefig(tmp_path / "figure.svg")
    figure.draw_without_rendering()  # saving moved labels to where they stand at the file's resolution
    renderer = figure._get_renderer()
    for text in figure.findobj(plt.Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent(renderer)
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text.get_text()
    assert (tmp_path / "figure.svg").stat().st_size > 5000


@pytest.mark.filterwarnings("error")
def test_saved_twice_in_the_style_of_the_course_without_a_warning(tmp_path):
    with plt.rc_context():
        use_style()
        for figure in (gradcam(clip(2), torch.rand(2, 3, 4)), frame_importance(clip(2), torch.tensor([0.5, -1.0]))):
            for name in ("a.png", "b.png"):
                figure.savefig(tmp_path / name)
            assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_clip_as_the_model_sees_it():
    seen = torch.randn(4, 3, 12, 12)
    assert np.array_equal(split(gradcam(seen, torch.rand(4, 2, 2)))[0][2].images[0].get_array(), pictures(seen)[2].numpy())
    assert np.array_equal(split(frame_importance(seen, torch.zeros(4)))[0][3].images[0].get_array(), pictures(seen)[3].numpy())


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"4 frames with maps \(3, 8, 8\): allowed is"):
        gradcam(clip(4), torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match="allowed is"):
        patch_importance(clip(4), torch.rand(8, 8))
    with pytest.raises(ValueError, match="from -1 to 1: allowed is 0 to 1"):
        gradcam(clip(4), torch.tensor([-1.0, 1.0]).expand(4, 2, 2))
    with pytest.raises(ValueError, match=r"4 frames with drops \(3,\): allowed is one drop a frame"):
        frame_importance(clip(4), torch.zeros(3))
    for draw, shape in ((patch_importance, (4, 2, 2)), (frame_importance, (4,))):
        drops = torch.zeros(shape)
        drops[1] = torch.nan
        with pytest.raises(ValueError, match="[14] .*of them nan or infinite: allowed is one or more finite"):
            draw(clip(4), drops)
        with pytest.raises(ValueError, match="one or more finite numbers"):
            draw(clip(4), drops[:0])
    with pytest.raises(ValueError, match="from nan to nan: allowed is 0 to 1"):
        gradcam(clip(4), torch.full((4, 2, 2), torch.nan))
