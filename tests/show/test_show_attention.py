"""i2vlib.show.attention: every map on the frame that its head reads, one scale, marks, rows that wrap, files that open."""

import warnings

import av
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from PIL import Image

import i2vlib as i2v
from i2vlib.insight.attention import attention_weights, frame_read, query_maps
from i2vlib.show import attention, head_table, rollout_map, save_animation, use_style
from i2vlib.show.attention import OTHER, _share
from i2vlib.show.page import LINE, Page
from i2vlib.tower.backbone import Attention

LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)


def clip(frames, side=12):
    return torch.randint(0, 256, (frames, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(frames))


def weights(frames, heads=2, side=3, blocks=2):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(1, frames, heads, 1 + side**2, 1 + side**2, generator=g).softmax(-1) for _ in range(blocks)]


def pictures_of(figure):
    """(axes of plain frames, axes with a map), each in the order in which they were drawn."""
    return [a for a in figure.axes if len(a.images) == 1], [a for a in figure.axes if len(a.images) == 2]


def same_picture(axis, frame):
    """Whether the picture under an overlay is this frame without its colour."""
    under = np.asarray(axis.images[0].get_array())[..., 0].ravel()
    return np.corrcoef(under, (frame.double() @ LUMA).ravel())[0, 1] > 0.999


def place(axis):
    """Its box on the page as drawn, inches: left, bottom, right, top."""
    axis.apply_aspect()
    return (axis.get_position().extents.reshape(2, 2) * axis.figure.get_size_inches()).ravel()


def marks(axis):
    return [p.get_bbox().extents.tolist() for p in axis.patches]


def test_the_picture_of_a_temporal_head_shows_the_frame_that_it_reads():
    """A bright patch that moves is placed by hand, and a head that looks for brightness: its map must lie on the patch in the
    frame that it reads, and that very frame must be drawn under it."""
    side, frames, places = 4, 4, [(0, 0), (1, 2), (2, 3), (3, 1)]
    offsets, width = (-1, 2, 0), 6
    block = Attention(width, 3, offsets)
    with torch.no_grad():  # channels 2i and 2i+1 of head i: every query is (1,0), every key (brightness,0)
        block.in_proj_weight.zero_()
        block.in_proj_bias[:width].view(3, 2)[:, 0] = 1
        block.in_proj_weight[width:2 * width].view(3, 2, width)[:, 0, 0] = 1
    x, shown = torch.zeros(frames, 1 + side**2, width), torch.zeros(frames, 8, 8, 3, dtype=torch.uint8)
    for t, (row, column) in enumerate(places):
        x[t, 1 + row * side + column, 0] = 9
        shown[t, 2 * row:2 * row + 2, 2 * column:2 * column + 2] = 200 + t
    with attention_weights(block) as read:
        block(x, frames, torch.nn.ModuleDict())
    figure = attention(shown, read, layer=0, offsets=offsets)
    plain, mapped = pictures_of(figure)
    assert len(plain) == frames and len(mapped) == frames * 3
    cells = {(t, head): mapped[t * 3 + head] for t in range(frames) for head in range(3)}
    for (t, head), axis in cells.items():
        source = (t - 1 if t else 0, t + 2 if t < 2 else t, t)[head]
        assert axis.get_title() == f"reads t = {source}" and plain[t].get_title() == f"query t = {t}"
        assert same_picture(axis, shown[source]) and not any(same_picture(axis, shown[s]) for s in range(4) if s != source)
        overlay = np.asarray(axis.images[1].get_array())
        assert np.unravel_index(overlay.argmax(), overlay.shape) == places[source], "the map lies on the object there"
        assert (axis.spines["top"].get_edgecolor() == to_rgba(OTHER)) == (source != t), "framed where it is another frame"
    assert [a.get_ylabel().split("\n")[0] for a in figure.axes if a.get_ylabel()][:4] == [
        "frames", "head 0, δ = −1", "head 1, δ = +2", "head 2, spatial"]


@pytest.mark.parametrize("frames", [1, 4, 8, 16, 32])
def test_rows_wrap_and_nothing_leaves_the_page(frames):
    shown, w, offsets = clip(frames), weights(frames), (1, 0)
    figure = attention(shown, w, layer=-1, offsets=offsets, query=(1, 2))
    plain, mapped = pictures_of(figure)
    assert len(plain) == frames and len(mapped) == 2 * frames and not plt.get_fignums(), "closed"
    maps = query_maps(w[-1][0], (1, 2)).numpy()
    for t in range(frames):
        assert np.array_equal(plain[t].images[0].get_array(), shown[t].numpy())
        for head in range(2):
            axis, read = mapped[2 * t + head], frame_read(t, offsets[head], frames)
            assert same_picture(axis, shown[read]) and axis.get_title() == f"reads t = {read}"
            assert np.allclose(axis.images[1].get_array(), maps[t, head] / maps[:, head].max()), "one scale a head"
            assert axis.images[1].get_clim() == (0, 1) and list(axis.images[1].get_extent()) == [-0.5, 11.5, 11.5, -0.5]
            assert place(plain[t])[1] > place(axis)[3] and np.isclose(place(plain[t])[0], place(axis)[0]), "below its query"
    for shares in (figure, rollout_map(shown, torch.full((frames, 10), 0.1 / frames), title="t")):
        width, height = shares.get_size_inches()
        assert width < 12
        for x0, y0, x1, y1 in map(place, shares.axes):
            assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    assert len({round(place(a)[0], 3) for a in plain}) == min(frames, 8), "columns of at most eight"


def test_a_page_places_its_rows_to_the_inch():
    page = Page(5, 3, 1.5, 1.0, left=0.5, right=0.7, below=0.2, title="t", note="n", indent=0.5)
    picture = page.picture(0, 2, 0.4, 0.5, np.zeros((4, 8, 3), np.uint8))
    bars, (width, height) = page.bars(1, [3, 4], 0, 0.9, "words"), page.figure.get_size_inches()
    assert np.isclose(width, 0.5 + 3 + 0.7) and np.isclose(height, 0.3 + 0.2 + 2 * 1.5 + LINE + 0.34), "note, below, rows, title"
    assert np.allclose(place(picture), [2.5, 2.64, 3.5, 3.14]), "in the upper row, its third column"
    assert np.allclose(place(bars), [0.5, 0.5, 2.5, 1.4]) and bars.get_xlim() == (2.5, 4.5), "as wide as its two frames"
    assert page.done() is page.figure and not plt.get_fignums()


def test_a_patch_query_is_framed_on_its_own_frame_alone():
    figure = attention(clip(4), weights(4), layer=0, offsets=(1, 0), query=(1, 2))
    plain, mapped = pictures_of(figure)
    patch = [7.5, 3.5, 11.5, 7.5]  # row 1, column 2 of 3 on 12 pixels
    assert all(marks(axis) == [patch] * 2 for axis in plain + mapped[1::2]), "the query's frames and the spatial head"
    assert [len(marks(axis)) for axis in mapped[::2]] == [0, 0, 0, 2], "the temporal head: only where it falls back on its own"
    assert "row 1, column 2" in figure._suptitle.get_text()
    plain, mapped = pictures_of(attention(clip(4), weights(4), layer=0))
    assert not any(map(marks, plain + mapped)), "the class token has no place"


def test_heads_and_frames_are_chosen_and_the_scale_stays():
    w = weights(4, heads=3)
    all_of = pictures_of(attention(clip(4), w, layer=1, offsets=(1, 0, -1)))[1]
    for t in range(4):
        plain, mapped = pictures_of(attention(clip(4), w, layer=1, offsets=(1, 0, -1), heads=(2, 0), t=t, title="x"))
        assert len(plain) == 1 and len(mapped) == 2
        for axis, head in zip(mapped, (2, 0), strict=True):
            assert np.array_equal(axis.images[1].get_array(), all_of[3 * t + head].images[1].get_array())
            assert axis.get_title() == all_of[3 * t + head].get_title()
    for one in (np.int64(2), torch.tensor(2), np.array([2])):
        _, mapped = pictures_of(attention(clip(4), w, layer=1, offsets=np.array([1, 0, -1]), heads=one, t=np.int64(0)))
        assert len(mapped) == 1 and np.array_equal(mapped[0].images[1].get_array(), all_of[2].images[1].get_array())


def test_heads_of_two_models_are_told_apart_by_their_names():
    both = [torch.cat([weights(4)[0], weights(4, heads=1)[0]], 2)]
    _, mapped = pictures_of(attention(clip(4), both, layer=0, heads=(2, 1), offsets=(0, -1, 1), names=("ours", "theirs")))
    assert [axis.get_ylabel().split("\n")[0] for axis in mapped[:2]] == ["ours, δ = +1", "theirs, δ = −1"]
    with pytest.raises(ValueError, match="3 names: allowed is one a row, 2"):
        attention(clip(4), both, layer=0, heads=(2, 1), names=("a", "b", "c"))


def test_a_table_of_heads_has_their_numbers_and_frames_the_relocated():
    tables = {"before": torch.tensor([[0.1, 0.25], [1.0, 0.0]]), "after": torch.tensor([[0.5, 0.75], [0.3, 0.9]])}
    figure = head_table(tables, offsets=[(), (0, -1)], label="share", title="x")
    before, after = figure.axes[:2]
    assert [t.get_text() for t in before.texts] == [".10", ".25", "1.00", ".000"] and before.get_title() == "before"
    assert np.array_equal(np.asarray(after.images[0].get_array()), tables["after"].numpy())
    assert not before.patches and [p.get_x() for p in after.patches] == [0.54], "a frame around head 1"
    assert [t.get_text() for t in after.get_xticklabels()] == ["0", "1\n−1"] and not plt.fignum_exists(figure.number)
    for wrong in ([()], [(), (1,)]):
        with pytest.raises(ValueError, match="for each of 2 tables"):
            head_table(tables, offsets=wrong)
    for wrong in ({}, {"a": torch.rand(3)}, {"a": torch.rand(2, 2), "b": torch.rand(0, 2)}):
        with pytest.raises(ValueError, match="allowed is one or more, each \\(blocks, h\\)"):
            head_table(wrong)
    trained = head_table({"a": tables["after"].clone().requires_grad_()}, offsets=np.array([[0, 1]]))
    assert np.array_equal(np.asarray(trained.axes[0].images[0].get_array()), tables["after"].numpy())


def test_labels_under_a_table_keep_apart_and_are_named_once():
    figure = head_table({"a": torch.rand(2, 6), "b": torch.rand(2, 6)}, offsets=[(), (-1, 1, -1, 1, 10, -10)], title="x")
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[1].get_xticklabels()]
    assert all(left.x1 + 2 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))
    named = [text for text in figure.findobj(plt.Text) if text.get_visible() and "head" in text.get_text()]
    assert [text.get_text() for text in named] == ["head, and its offset δ"] and figure._supxlabel is named[0]
    assert named[0].get_window_extent().y1 < min(box.y0 for box in boxes)
    later = head_table({"a": torch.rand(2, 2)}, first=8).axes[0].get_yticklabels()
    assert [label.get_text() for label in later] == ["block 9", "block 10"]
    assert head_table({"a": torch.rand(2, 2)})._supxlabel.get_text() == "head", "no offsets anywhere"


def test_a_small_share_keeps_two_digits():
    assert [_share(v) for v in (0.0, 1.6e-4, 1 / 6304, np.float32(0.0042), 0.00999, 0.0312, 0.25, 1.0)] == [
        ".000", ".00016", ".00016", ".0042", ".010", ".031", ".25", "1.00"]
    shares = torch.full((32, 197), 1 / (32 * 197))
    labels = [a.get_ylabel() for a in rollout_map(clip(32, 28), shares).axes]
    assert "rollout: share of the patch\n(1: the most, .00016)" in labels


def test_behind_a_site_the_fused_frames_are_drawn():
    shown, w = clip(8), weights(4)
    plain, mapped = pictures_of(attention(shown, w, layer=0, offsets=(-1, 0)))
    assert [a.get_title() for a in plain] == ["query t = 0–1", "query t = 2–3", "query t = 4–5", "query t = 6–7"]
    assert mapped[2].get_title() == "reads t = 0–1" and same_picture(mapped[2], shown[:2].double().mean(0))


def test_rollout_has_the_share_of_each_patch_and_a_bar_a_frame():
    shares = torch.rand(1, 4, 10)
    shares = shares / shares.sum()
    shown = clip(4)
    figure = rollout_map(shown, shares, title="a title")
    _, mapped = pictures_of(figure)
    bars = next(a for a in figure.axes if len(a.patches) == 8)
    for t in range(4):
        assert same_picture(mapped[t], shown[t])
        assert np.allclose(mapped[t].images[1].get_array(), shares[0, t, 1:].view(3, 3) / shares[0, :, 1:].max())
        lower, upper = bars.patches[t], bars.patches[4 + t]
        assert np.isclose(lower.get_height() + upper.get_height(), shares[0, t].sum()) and upper.get_y() == lower.get_height()
        assert np.isclose(upper.get_height(), shares[0, t, 0])
        centre = place(bars)[0] + (t + 0.5) / 4 * (place(bars)[2] - place(bars)[0])
        assert np.isclose(centre, place(mapped[t])[[0, 2]].mean()), "the bar stands under its frame"
    assert bars.lines[0].get_ydata()[0] == 0.25 and [x.get_text() for x in bars.get_xticklabels()][1] == "t = 1"


def test_png_and_svg_twice_without_a_warning(tmp_path):
    with plt.rc_context(), warnings.catch_warnings():
        use_style()
        warnings.simplefilter("error")
        for figure in (attention(clip(2), weights(2), layer=0), rollout_map(clip(2), torch.full((2, 10), 0.05))):
            for name in ("a.png", "a.svg", "b.png"):
                figure.savefig(tmp_path / name)
            assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
            assert "<svg" in (tmp_path / "a.svg").read_text()


def test_animations_of_figures_hold_one_picture_a_figure(tmp_path):
    figures = [attention(clip(3), weights(3), layer=0, offsets=(-1, 0), t=t) for t in range(3)]
    gif, mp4 = (save_animation(figures, tmp_path / f"moves.{s}", fps=2, dpi=50) for s in ("gif", "mp4"))
    film, moving = Image.open(gif), i2v.read_clip(mp4, range(3)).numpy()
    assert film.n_frames == 3 and film.info["duration"] == 500 and film.info["loop"] == 0
    for t, figure in enumerate(figures):
        figure.savefig(tmp_path / "one.png", dpi=50)
        one = np.asarray(Image.open(tmp_path / "one.png").convert("RGB")).astype(int)
        film.seek(t)
        assert np.abs(np.asarray(film.convert("RGB")).astype(int) - one).mean() < 3
        assert np.abs(moving[t, :one.shape[0], :one.shape[1]].astype(int) - one).mean() < 6
    with av.open(str(mp4)) as container:
        stream = container.streams.video[0]
        assert stream.pix_fmt == "yuv420p" and stream.average_rate == 2, "what browsers play"


def test_animation_of_a_clip_is_enlarged(tmp_path):
    shown = torch.zeros(3, 9, 12, 3, dtype=torch.uint8)
    for t in range(3):
        shown[t, :, 4 * t:4 * t + 4, 0] = 250
    film = Image.open(save_animation(shown, tmp_path / "c.gif"))
    assert film.size == (12 * 27, 9 * 27) and film.n_frames == 3
    film.seek(2)
    assert film.convert("RGB").getpixel((11 * 27, 0)) == (250, 0, 0) and film.convert("RGB").getpixel((0, 0)) == (0, 0, 0)
    moving = i2v.read_clip(save_animation(shown, tmp_path / "c.mp4", fps=2.5), range(3))
    assert moving.shape == (3, 244, 324, 3) and moving[1, 100, 160, 0] > 200 > 50 > moving[1, 100, 20, 0], "even sides"


@pytest.mark.parametrize(("fps", "delay"), [(50, 20), (30, 30), (13, 80), (3, 330), (0.8, 1250)])
def test_a_gif_plays_at_the_speed_nearest_to_the_one_asked_for(tmp_path, fps, delay):
    assert Image.open(save_animation(clip(2), tmp_path / "a.gif", fps=fps)).info["duration"] == delay
    assert save_animation(clip(2), tmp_path / "a.mp4", fps=60).exists()


def test_bad_input_is_refused(tmp_path):
    w = weights(4)
    with pytest.raises(ValueError, match="layer = 2: allowed is a block that has weights: 1"):
        attention(clip(4), [None, w[1]], layer=2)
    with pytest.raises(ValueError, match="allowed is one clip"):
        attention(clip(4), [torch.cat([w[0], w[0]])], layer=0)
    with pytest.raises(ValueError, match="heads = 2: allowed is 0 to 1"):
        attention(clip(4), w, layer=0, heads=2)
    with pytest.raises(ValueError, match="t = \\[4\\]: allowed is 0 to 3"):
        attention(clip(4), w, layer=0, t=[4])
    for wrong in (1.0, "a", [0, 1.5]):
        with pytest.raises(ValueError, match="heads = .*: allowed is a sequence of whole numbers"):
            attention(clip(4), w, layer=0, heads=wrong)
    with pytest.raises(ValueError, match="offsets = 1: allowed is a sequence"):
        attention(clip(4), w, layer=0, offsets=1)
    for wrong in (5, (1.5, 1)):
        with pytest.raises(ValueError, match="query .*: allowed is 'class' or"):
            attention(clip(4), w, layer=0, query=wrong)
    with pytest.raises(ValueError, match="1 offsets: allowed is one a head, 2"):
        attention(clip(4), w, layer=0, offsets=(1,))
    with pytest.raises(ValueError, match="clip of 6 frames with weights for 4"):
        attention(clip(6), w, layer=0)
    with pytest.raises(ValueError, match="frames of 8x12: allowed is the square"):
        attention(torch.zeros(4, 8, 12, 3, dtype=torch.uint8), w, layer=0)
    with pytest.raises(ValueError, match="clip of 4 frames with shares"):
        rollout_map(clip(4), torch.rand(3, 10))
    with pytest.raises(ValueError, match=".gif or .mp4"):
        save_animation(clip(2), tmp_path / "a.avi")
    with pytest.raises(ValueError, match="0 frames at 3"):
        save_animation([], tmp_path / "a.gif")
    for fps in (0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="a speed above 0"):
            save_animation(clip(2), tmp_path / "a.mp4", fps=fps)
    with pytest.raises(ValueError, match="fps = 60 for a .gif: allowed is up to 50"):
        save_animation(clip(2), tmp_path / "a.gif", fps=60)
    with pytest.raises(ValueError, match="figures of 2 sizes"):
        save_animation([plt.figure(figsize=(1, 1)), plt.figure(figsize=(1, 2))], tmp_path / "a.gif")
    plt.close("all")
