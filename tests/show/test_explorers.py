"""The explorers without a browser: what i2vlib.show.{board,views,explorers,embedded} and i2vlib.course.ship do and draw."""

import base64
import io
import json
import re
import statistics
import subprocess
import sys
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from traitlets import TraitError

import i2vlib as i2v
from i2vlib.compression import cascade, interpolation_weights
from i2vlib.course.ship import ASSETS, SHIPPED, ship, shipped
from i2vlib.insight.attention import frame_read
from i2vlib.show.board import FIRST, HEAT, INK, SHARP, Board, compact, heat, rgb, weight_colours, weight_table
from i2vlib.show.clips import pictures
from i2vlib.show.embedded import (
    SCRIPTS,
    attention_page,
    interpolation_page,
    most_concentrated,
    quantise,
    read_attention,
    read_weights,
)
from i2vlib.show.explorers import explore_attention, explore_interpolation, explore_offsets, explore_scale
from i2vlib.show.page import grey
from i2vlib.show.views import View, _highest, receptive_field

NAMES = ("left", "right", "up", "down", "away", "closer")


def made(preset: str, **changes):
    """A preset's model on the shipped tower with random weights in all that is new, so that nothing is the identity."""
    torch.manual_seed(0)
    model = i2v.build_model(replace(i2v.PRESETS[preset], **changes), "mini")
    for name, parameter in model.named_parameters():
        if {"adapters", "compression", "temporal_embedding"} & set(name.split(".")):
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def motion():
    return made("zeroi2v-mini-motion")


@pytest.fixture(scope="module")
def inti():
    return made("inti-mini-motion")


@pytest.fixture(scope="module")
def clip():
    return torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def state(model) -> dict:
    return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.fixture
def drawn(monkeypatch):
    """What was put on the last board: {method of Board: [the arguments of each call]}."""
    calls = {}

    def kept(name, method):
        def call(board, *args, **kwargs):
            if name == "__init__":
                calls.clear()
            calls.setdefault(name, []).append(args)
            return method(board, *args, **kwargs)
        return call

    for name in ("__init__", "picture", "patch", "box", "line", "bars"):
        monkeypatch.setattr(Board, name, kept(name, getattr(Board, name)))
    return calls


# ---- the board ----

def test_heat_lies_on_its_patch_and_nowhere_else():
    frame = np.full((16, 16, 3), 100, np.uint8)
    values = np.zeros((4, 4))
    values[1, 2] = 0.5
    drawn = heat(frame, values, 0.5)
    hot = np.any(drawn != drawn[0, 0], axis=2)
    assert hot[4:8, 8:12].all() and hot.sum() == 16
    assert np.abs(drawn[5, 9] - (0.15 * 165 + 0.85 * rgb(HEAT))).max() <= 1
    assert (heat(frame, values * 0, 0.0) == drawn[0, 0]).all(), "no attention anywhere: no division by zero"
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    assert (heat(red, values * 0, 1.0) == grey(red)).all(), "one grey for all pictures"
    half = 0.85 / 2
    assert np.abs(heat(frame, values, 1.0)[5, 9] - ((1 - half) * 165 + half * rgb(HEAT))).max() <= 1, "of `most`, not of its own"


def test_weight_colours_are_white_at_the_mean_whatever_it_is():
    for neutral in (0.5, 0.25, 1 / 16):
        colours = weight_colours(np.array([0.0, neutral, 1.0]), neutral)
        assert colours[1].min() > 240 and (colours[0] == weight_table()[0]).all() and (colours[2] == weight_table()[-1]).all()


def test_pictures_and_bars_land_where_they_are_put():
    board = Board(300, 120)
    board.picture(np.zeros((2, 2, 3), np.uint8), 10, 20, 30)
    end = board.bars(100, 10, 200, [("a", 1.0, None), ("b", -1.0, 0.5)], (-1.0, 1.0))
    drawn = pixels(board.png())
    assert drawn.shape == (120 * SHARP, 300 * SHARP, 3) and end == 50
    black = (drawn[:, :95 * SHARP] == 0).all(2)
    assert black.sum() == (30 * SHARP) ** 2 and black[20 * SHARP, 10 * SHARP] and not black[20 * SHARP - 1, 10 * SHARP]
    tick = 100 + 96 + (0.5 + 1) / 2 * (200 - 96 - 34)
    assert (drawn[(30 + 4) * SHARP, int(tick * SHARP)] == rgb(INK)).all(), "where b stood before"
    middle = 100 + 96 + (200 - 96 - 34) / 2
    row = drawn[(10 + 4) * SHARP]
    assert (row[int((middle + 20) * SHARP)] == rgb(HEAT)).all() and (row[int((middle - 20) * SHARP)] == 255).all()
    row = drawn[(30 + 4) * SHARP]
    assert (row[int((middle - 20) * SHARP)] == rgb("#0072B2")).all() and (row[int((middle + 10) * SHARP)] == 255).all()
    assert pixels(compact(board.png())).shape == drawn.shape


def test_the_highest_bar_is_told_apart_where_all_are_below_zero():
    board = Board(300, 120)
    board.bars(100, 10, 200, [("a", -2.0, None), ("b", -1.0, None)], (-2.0, -1.0))
    drawn, left_of_zero = pixels(board.png()), 100 + 200 - 34 - 10
    for y, colour in ((14, FIRST), (34, HEAT)):
        assert (drawn[y * SHARP, left_of_zero * SHARP] == rgb(colour)).all()


def test_a_patch_is_marked_in_its_row_and_a_scale_has_its_most_on_top():
    board = Board(120, 100)
    board.patch(10, 10, 80, 4, 6, HEAT)  # row 1, column 2: from (50, 30) to (70, 50)
    board.colour_bar(100, 20, 60, np.array([[0, 0, 0], [250, 0, 0]], np.uint8), [])
    drawn = pixels(board.png())
    for x, y in ((50, 40), (70, 40), (60, 30), (60, 50)):
        assert (drawn[y * SHARP, x * SHARP - (x == 70)] == rgb(HEAT)).all(), (x, y)
    top, foot = drawn[[22 * SHARP, 78 * SHARP], 105 * SHARP].astype(int)
    assert (drawn[40 * SHARP, 40 * SHARP] == 255).all() and top[0] > 200 > 50 > max(top[1], foot[0])


# ---- explorers ----

def test_the_attention_shown_is_that_of_the_frame_that_is_read(motion, clip):
    explorer = explore_attention(motion, clip)
    maps = read_attention(motion, clip)
    for layer, head, t in ((0, 0, 2), (3, 0, 0), (2, 1, 1), (1, 1, 3), (2, 5, 3)):
        explorer.set(block=layer + 1, head=head, frame=t, query="patch", row=5, column=2)
        offset = (-1, 1, 0, 0, 0, 0, 0, 0)[head]
        row = maps[layer][t, head, 1 + 5 * 8 + 2]
        best = int(row[1:].argmax())
        assert explorer.text.value == (
            f"<code>block {layer + 1} head {head} offset {offset:+d} frame {t} reads {frame_read(t, offset, 4)}: most on "
            f"({best // 8}, {best % 8}), {row[1 + best]:.4f}; class token {row[0]:.4f}</code>")
    explorer.controls["query"].value = "class token"
    assert f"token {maps[2][3, 5, 0, 0]:.4f}" in explorer.text.value
    explorer.controls["row"].value = 1
    assert explorer.controls["query"].value == "patch", "who moves a row means a patch"
    explorer.set(query="class token", row=3)
    assert explorer.controls["query"].value == "class token", "a program says what it means"


def test_the_maps_are_drawn_on_the_frames_that_are_read(motion, clip, drawn):
    explorer, shown = explore_attention(motion, clip), pictures(clip).numpy()
    explorer.set(block=2, head=1, frame=1, query="patch", row=5, column=2)
    weights = read_attention(motion, clip)[1][1, :, 1 + 5 * 8 + 2, 1:].reshape(8, 8, 8)
    film, (query, large), small = drawn["picture"][:4], drawn["picture"][4:6], drawn["picture"][6:]
    assert [outline for *_, outline in film] == ["", FIRST, HEAT, ""], "the query's frame and the one that is read"
    assert (query[0] == shown[1]).all() and (large[0] == heat(shown[2], weights[1], weights[1].max())).all()
    for head, read in enumerate((0, 2, 1, 1, 1, 1, 1, 1)):
        assert (small[head][0] == heat(shown[read], weights[head], weights[head].max())).all(), head
    assert len(small) == 8 and [args[4] for args in drawn["patch"]] == [5 * 8 + 2]


@pytest.mark.parametrize("name", ["attention", "interpolation", "offsets", "scale"])
def test_every_control_changes_the_picture(name, motion, inti, clip):
    build = {"attention": lambda: explore_attention(motion, clip), "offsets": lambda: explore_offsets(motion, clip, NAMES),
             "interpolation": lambda: explore_interpolation(inti, clip, NAMES),
             "scale": lambda: explore_scale(motion, clip, NAMES)}[name]
    before = [state(m) for m in (motion, inti)]
    explorer = build()
    if name == "attention":
        explorer.set(query="patch")
    for control, widget in explorer.controls.items():
        picture, kept = explorer.image.value, widget.value
        options = getattr(widget, "_options_values", None)
        step = getattr(widget, "step", 1)
        other = next(v for v in options if v != kept) if options else kept + (step if kept < widget.max else -step)
        widget.value = other
        assert explorer.image.value != picture, control
        widget.value = kept
        assert explorer.errors.outputs == ()
    for model, values in zip((motion, inti), before, strict=True):
        assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    assert motion.backbone.transformer.resblocks[0].attn.offsets == (-1, 1, 0, 0, 0, 0, 0, 0)


def test_an_explorer_answers_in_time(motion, inti, clip):
    """CPU time of a draw; the aim of 200 ms is for the whole way through the browser, on an idle machine."""
    moves = {explore_attention(motion, clip): ("frame", "block", "head"), explore_interpolation(inti, clip): ("frame", "weights"),
             explore_offsets(motion, clip): ("head_0", "head_5"), explore_scale(motion, clip): ("share",)}
    for explorer, names in moves.items():
        times = []
        for control in [explorer.controls[n] for n in names] * 4:
            start = time.process_time()
            options = getattr(control, "_options_values", None)
            if options:
                control.value = options[(options.index(control.value) + 3) % len(options)]
            else:
                control.value = control.max if control.value != control.max else control.min
            times.append(time.process_time() - start)
        assert statistics.median(times) < 0.2, times


def test_interpolation_by_hand_equals_the_model_with_replaced_weights(inti, clip):
    explorer = explore_interpolation(inti, clip, NAMES)
    for site, hand in ((1, 0.0), (1, 0.35), (2, 1.0), (2, "as learned")):
        explorer.set(frame=3, site=site, weights=hand)
        fixed = {} if hand == "as learned" else {site - 1: torch.tensor([1 - hand, hand]).repeat(4 // 2**site).view(1, -1, 1)}
        with torch.no_grad(), interpolation_weights(inti, fixed) as maps:
            logits = inti(clip[None])[0]
        pair = maps[site - 1][0, -2:, 1:].mean(1)
        best = int(logits.argmax())
        assert explorer.text.value == (
            f"<code>site {site} pair {2 - site}: mean weight first {pair[0]:.4f}, second {pair[1]:.4f}; cascade sums to 1.0000; "
            f"{NAMES[best]} {float(logits[best]):.4f}</code>")


def test_what_reaches_a_site_and_what_it_makes_is_drawn(inti, clip, drawn):
    explorer = explore_interpolation(inti, clip, NAMES)
    assert all(label == f"{value:.2f} on the second" for label, value in explorer.controls["weights"].options[2:-1])
    first, second = (torch.from_numpy(w)[:, 1:].view(-1, 1, 8, 8) for w in read_weights(inti, clip))

    def fused(frames, weights):  # pairs of frames, each pixel by its patch's weight
        return (frames * weights.repeat_interleave(6, 2).repeat_interleave(6, 3)).unflatten(0, (-1, 2)).sum(1)

    once = fused(clip, first)
    for site, arrived, weights in ((1, clip[2:], first[2:]), (2, once, second)):
        explorer.set(frame=3, site=site)
        want = [*pictures(arrived), *pictures(fused(arrived, weights)), pictures(clip[-2 * site:].mean(0, keepdim=True))[0]]
        one, one_map, two, two_map, both, average = (args[0] for args in drawn["picture"][4:10])
        for found, frame in zip((one, two, both, average), want, strict=True):
            assert np.abs(found.astype(int) - frame.numpy()).max() <= 1
        for found, wanted in ((one_map, weights[0, 0]), (two_map, weights[1, 0])):
            assert (found == weight_colours(wanted.numpy())).all()


def test_offsets_by_hand_equal_a_model_with_these_offsets(motion, clip):
    explorer = explore_offsets(motion, clip, NAMES)
    choice = explorer.children[0].children[-1]
    explorer.set(head_0=2, head_5=-3)
    assert choice.value == "by hand", "the drop-down says so whoever moved the heads"
    other = made("zeroi2v-mini-motion", temporal=i2v.TemporalConfig((2, 1, 0, 0, 0, -3, 0, 0), True))
    with torch.no_grad():
        logits = other(clip[None])[0]
    assert f"{NAMES[int(logits.argmax())]} {float(logits.max()):.4f}" in explorer.text.value
    choice.value = "all spatial"
    assert all(explorer.controls[f"head_{i}"].value == 0 for i in range(8)) and "1 of 4 frames" in explorer.text.value
    assert choice.value == "all spatial"
    explorer.controls["head_3"].value = 1
    assert choice.value == "by hand"


def test_the_frames_that_reach_a_frame_are_drawn_layer_by_layer(motion, clip, drawn):
    explorer = explore_offsets(motion, clip, NAMES)
    with torch.no_grad():
        trained = motion(clip[None])[0].tolist()
    explorer.set(frame=2, **{f"head_{i}": -1 if i == 0 else 0 for i in range(8)})
    film = [x for _, x, *_ in drawn["picture"]]
    lines = [(a, b) for (a, b), *_ in drawn["line"] if round(b[1] - a[1]) == 24]  # from a layer down to the one before
    middle = (film[1] - film[0] - 8) / 2

    def frames(point):
        return film.index(point[0] - middle)

    assert {(frames(a), frames(b)) for a, b in lines} == {(2, 2), (2, 1), (1, 1), (1, 0), (0, 0)}
    reached = [args[6] == HEAT for args in drawn["box"] if len(args) == 7]
    assert np.reshape(reached, (5, 4)).tolist() == [[True] * 3 + [False]] * 3 + [[False, True, True, False],
                                                                                [False, False, True, False]], "input first"
    assert [before for _, _, before in drawn["bars"][0][3]] == pytest.approx(trained), "ticks: as trained"


def test_the_receptive_field_is_what_gradients_find(motion, clip):
    video = clip[None].clone().requires_grad_(True)
    for t in range(4):
        features = motion.frame_features(video)[0, t].sum()
        (gradient,) = torch.autograd.grad(features, video)
        reached = {s for s in range(4) if gradient[0, s].abs().max() > 0}
        assert reached == receptive_field((-1, 1, 0, 0, 0, 0, 0, 0), 4, 4, t)[0]
    assert receptive_field((-1,), 8, 2, 5) == [{3, 4, 5}, {4, 5}, {5}]
    assert receptive_field((0,), 8, 3, 5) == [{5}] * 4
    assert receptive_field((-2,), 4, 1, 1) == [{1}, {1}], "outside of the clip a head reads its own frame"


@pytest.mark.parametrize("kind", ["linear", "lora"])
def test_the_scale_goes_from_the_bare_tower_to_beyond_the_trained(kind, clip, drawn):
    adaptation = i2v.AdaptationConfig(kind, i2v.SIX_ADAPTERS, scale=1.0)
    model = made("zeroi2v-mini-motion", adaptation=adaptation)
    explorer = explore_scale(model, clip, NAMES)
    with torch.no_grad():
        trained = model(clip[None])[0].tolist()
    for share in (0.0, 0.7, 1.5):
        explorer.set(share=share)
        scaled = made("zeroi2v-mini-motion", adaptation=replace(adaptation, scale=share))
        with torch.no_grad():
            logits = scaled(clip[None])[0]
        assert explorer.text.value == f"<code>s {share:.4f}: {NAMES[int(logits.argmax())]} {float(logits.max()):.4f}</code>"
        assert [before for _, _, before in drawn["bars"][0][3]] == pytest.approx(trained, abs=1e-5), "ticks: as trained"


def test_the_classes_shown_are_those_that_rise_highest_in_their_order():
    logits = torch.tensor([[0.0, 5.0, 1.0, 2.0], [3.0, -2.0, 1.0, 0.0]])
    assert _highest(logits, 2) == ([0, 1], (-2.0, 5.0)) and _highest(logits, 9) == ([0, 1, 2, 3], (-2.0, 5.0))


def test_what_goes_wrong_is_said_in_place_and_forgotten_when_it_is_right_again(motion, clip):
    explorer = explore_scale(motion, clip, NAMES)
    view, explorer.view = explorer.view, View(lambda share: 1 / 0, {})
    explorer.controls["share"].value = 0.5
    assert explorer.errors.outputs[0]["text"] == "ZeroDivisionError: division by zero\n"
    with pytest.raises(ZeroDivisionError):
        explorer.picture()
    explorer.view = view
    explorer.controls["share"].value = 0.6
    assert explorer.errors.outputs == ()
    with pytest.raises(ValueError, match="no control 'shar': allowed are share"):
        explorer.picture(shar=1.0)
    with pytest.raises(ValueError, match="no control 'shar': allowed are share"):
        explorer.set(shar=1.0)


def test_a_value_that_a_control_does_not_have_leaves_the_explorer_alive(motion, clip):
    explorer = explore_attention(motion, clip)
    with pytest.raises(TraitError):
        explorer.set(frame=0, query="nothing")
    assert explorer.controls["frame"].value == 0 and "frame 0 reads" in explorer.text.value
    explorer.controls["frame"].value = 3
    assert "frame 3 reads" in explorer.text.value


def test_names_are_text_and_no_markup(motion, clip):
    explorer = explore_scale(motion, clip, [f"<b>{name}" for name in NAMES])
    assert "&lt;b&gt;" in explorer.text.value and "<b>" not in explorer.text.value
    assert explore_scale(motion, clip, ["\ud800\n$\\frac{$\x00" * 3000] * len(NAMES)).image.value[1:4] == b"PNG"


def test_models_and_clips_that_do_not_fit_are_refused(motion, inti, clip):
    with pytest.raises(ValueError, match=r"clip \(1, 4, 3, 48, 48\).*allowed is one clip"):
        explore_attention(motion, clip[None])
    with pytest.raises(ValueError, match="weighs no frames"):
        explore_interpolation(motion, clip)
    with pytest.raises(ValueError, match="inti compression.*allowed is one without compression"):
        explore_offsets(inti, clip)
    for preset in ("aim-mini", "evl-mini"):
        with pytest.raises(ValueError, match="frames meet in relocated heads only"):
            explore_offsets(made(f"{preset}-motion"), clip)
    with pytest.raises(ValueError, match="no adapters with an s: allowed is one"):
        explore_scale(i2v.merge(motion), clip)
    with pytest.raises(ValueError, match="2 class names: allowed is one a class, 6, or none"):
        explore_scale(motion, clip, ("a", "b"))
    with pytest.raises(ValueError, match="merged or dropped"):
        explore_attention(made("tome-mini-motion"), clip)


def test_attention_behind_a_site_is_drawn_on_fused_frames(inti, clip):
    explorer = explore_attention(inti, clip)
    explorer.set(block=2, frame=3)
    assert "frame 1 reads 1" in explorer.text.value  # four frames became two
    explorer.set(block=4)
    assert "frame 0 reads 0" in explorer.text.value


def test_a_model_in_training_stays_in_training(clip):
    model = made("zeroi2v-mini-motion", head_dropout=0.5).train()
    read_attention(model, clip)
    explorer = explore_offsets(model, clip)
    assert all(module.training for module in model.modules())
    assert explorer.text.value == explore_offsets(model.eval(), clip).text.value, "and its dropout does not act on the copy"


# ---- pages ----

def facts(page: str) -> dict:
    return json.loads(re.search(r"DATA = (\{.*?\});\n", page).group(1))


def test_a_page_holds_the_attention_to_half_a_step(motion, inti, clip):
    for model in (motion, inti):
        page, maps = attention_page(model, clip), read_attention(model, clip)
        data = facts(page)
        raw = zlib.decompress(base64.b64decode(data["data"]))
        sizes = [m[..., 0].size for m in maps]
        largest = np.frombuffer(raw[:4 * sum(sizes)], "<f4")
        stored = np.frombuffer(raw[4 * sum(sizes):], np.uint8)
        assert data["times"] == [len(m) for m in maps] and len(page) < 1_000_000
        at = 0
        for m, n in zip(maps, sizes, strict=True):
            top = largest[at:at + n].reshape(m.shape[:3])
            byte = stored[at * 65:(at + n) * 65].reshape(m.shape)
            assert (top == m.max(-1)).all()
            assert (np.abs(byte * (top / 255)[..., None] - m) <= top[..., None] / 510 + 1e-8).all()
            at += n


def test_a_page_of_chosen_layers_holds_them_alone_and_a_large_one_is_refused(motion, clip, monkeypatch):
    assert facts(attention_page(motion, clip, layers=[-1]))["layers"] == [3]
    for layers, words in (([9], "layers has 9: allowed is -4 to 3"), ([-5], "layers has -5"), ([], "no block"), (1, "sequence")):
        with pytest.raises(ValueError, match=words):
            attention_page(motion, clip, layers=layers)
    monkeypatch.setattr("i2vlib.show.embedded.MOST", 100_000)
    with pytest.raises(ValueError, match="0.5 million numbers.*choose fewer layers"):
        attention_page(motion, clip)


def test_a_page_holds_the_weights_to_16_bits(inti, clip):
    data, maps = facts(interpolation_page(inti, clip)), read_weights(inti, clip)
    stored = np.frombuffer(zlib.decompress(base64.b64decode(data["data"])), "<u2") / 65535
    assert data["sites"] == [4, 2]
    assert np.abs(stored - np.concatenate([m.ravel() for m in maps])).max() <= 0.5 / 65535 + 1e-7
    whole = cascade([torch.from_numpy(stored[:260].reshape(1, 4, 65)), torch.from_numpy(stored[260:].reshape(1, 2, 65))])
    assert (whole.sum(1) - 1).abs().max() < 5e-5
    strip = Image.open(io.BytesIO(base64.b64decode(data["strip"].split(",")[1])))
    assert strip.size == (4 * data["size"], data["size"]) and data["size"] % data["grid"] == 0


def test_pages_have_names_of_their_own_and_no_address_and_no_open_tag(motion, clip):
    pages = [attention_page(motion, clip, title="</script><b>") for _ in range(2)]
    keys = [re.findall(r'data-i2v="(.*?)"', page)[0] for page in pages]
    assert keys[0] != keys[1]
    for page in pages:
        assert not re.search(r"https?://|src=|import\(", page)
        assert page.count("</script>") == 1 and page.endswith("</script>") and "<b>" not in page


def test_a_page_opens_with_a_relocated_head_that_reads_another_frame():
    maps = [np.full((2, 2, 5, 5), 0.1, np.float32) for _ in range(2)]
    maps[0][1, 1, 2, 3] = 0.9  # a spatial head
    maps[0][1, 0, 1, 0] = 0.9  # the class token is no patch
    maps[1][0, 0, 4, 3] = 0.8  # a relocated head, whose frame before the first is missing
    maps[1][1, 0, 0, 2] = 0.5
    assert most_concentrated(maps, [(-1, 0), (-1, 0)]) == (1, 0, 1, 0)
    assert most_concentrated(maps, [(0, 0), (0, 0)]) == (0, 1, 1, 2), "without a relocated head all take part"
    assert most_concentrated(maps, [(0, 0), (7, 0)]) == (0, 1, 1, 2), "an offset out of the clip"


def test_behind_a_site_a_page_opens_at_a_frame_of_the_clip(inti, clip):
    maps = read_attention(inti, clip)
    layer, head, frame, query = facts(attention_page(inti, clip))["open"]
    assert maps[layer][frame * len(maps[layer]) // 4, head, query, 1:].max() == max(m[..., 1:].max() for m in maps)
    group, place = facts(interpolation_page(inti, clip))["open"]
    assert group == 0 and 0 <= place < 64


def test_words_on_a_page_are_dark_enough_and_large_enough():
    text = "".join((SCRIPTS / f"explore{name}.js").read_text() for name in ("", "_attention", "_interpolation"))
    words = dict(re.findall(r'(\w+) = "(#\w+)"', text))
    used = {words[n] for n in ("INK", "HEAT_INK", "QUERY")} | set(re.findall(r'(?:color:|: ")(#\w+)', text))
    for colour in used:
        parts = [int(c, 16) / 255 for c in (re.findall("..", colour[1:]) if len(colour) == 7 else [2 * c for c in colour[1:]])]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (light + 0.05) >= 4.5, f"{colour} on white"
    assert len(used) >= 5 and min(int(n) for n in re.findall(r"\b(\d+)px[^;`]*(?:DejaVu|monospace)", text)) >= 12


def test_quantised_rows_of_zeros_stay_zeros():
    largest, stored = quantise(np.zeros((2, 3), np.float32))
    assert (largest == 0).all() and (stored == 0).all()


def test_the_rest_of_show_needs_no_ipywidgets():
    code = "import sys; sys.modules['ipywidgets'] = None; import i2vlib.show, i2vlib.show.views, i2vlib.show.embedded"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def test_only_what_both_major_versions_of_ipywidgets_have_is_used():
    """Names of widgets and traits that ipywidgets 7.7 (Colab) has too; version 8's own are tooltip=, SliderTextbox and others."""
    import inspect

    from i2vlib.show import explorers

    used = set(re.findall(r"widgets\.(\w+)", inspect.getsource(explorers)))
    assert used <= {"VBox", "HBox", "Widget", "Image", "HTML", "Output", "Layout", "ToggleButtons", "SelectionSlider", "Dropdown",
                    "FloatSlider", "IntSlider"}
    assert "on_submit" not in inspect.getsource(explorers) and "tooltip=" not in inspect.getsource(explorers)


# ---- the shipped checkpoints ----

@pytest.mark.parametrize("task", SHIPPED)
def test_a_shipped_checkpoint_is_small_and_says_what_it_is(task):
    path = ASSETS / f"{task}.safetensors"
    info = i2v.checkpoint_info(path)
    assert path.stat().st_size < 1_300_000
    assert i2v.load_checkpoint(path).config == replace(i2v.PRESETS[SHIPPED[task]], tower=i2v.load_checkpoint(path).config.tower)
    assert len(info["class_names"]) == i2v.PRESETS[SHIPPED[task]].classes and info["clip"]["size"] == 48


def test_the_shipped_model_comes_with_its_test_clips():
    model, clips, labels, names = shipped("motion")
    assert clips.shape == (384, 4, 3, 48, 48) and labels.shape == (384,) and names[0] == "moves left" and not model.training
    with torch.no_grad():
        assert (model(clips[:48]).argmax(1) == labels[:48]).all()
    with pytest.raises(ValueError, match="'blink': allowed are motion, corrupted"):
        shipped("blink")


def test_clips_are_cut_and_classes_named_as_the_file_says(tmp_path, monkeypatch):
    """Not as today's protocol and task have it: a file from yesterday comes with its own clips."""
    import i2vlib.course.ship as module

    _, clips, labels, _ = shipped("motion")
    clip = i2v.ClipConfig.from_dict(i2v.checkpoint_info(ASSETS / "motion.safetensors")["clip"])
    model, scaling = i2v.load_checkpoint(ASSETS / "motion.safetensors"), {"mean": (0.0, 0.0, 0.0), "std": (0.5, 0.5, 0.5)}
    model.config = replace(model.config, tower=replace(model.config.tower, **scaling))
    i2v.save_checkpoint(model, tmp_path / "motion.safetensors", clip=replace(clip, **scaling), class_names=NAMES)
    monkeypatch.setattr(module, "ASSETS", tmp_path)
    _, others, same, names = shipped("motion")
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (clip.mean, clip.std))
    assert names == NAMES and torch.equal(labels, same)
    torch.testing.assert_close(others, (clips * std + mean) / 0.5, rtol=0, atol=1e-5)


def test_shipping_trains_the_preset_and_saves_it(tmp_path, monkeypatch):
    import i2vlib.course.ship as module

    sets = {}

    def few(task, seed):
        made_sets = original(task, seed)
        made_sets[0].entries = made_sets[0].entries[:64]
        sets[task] = made_sets
        return made_sets

    original = module.mini_sets
    monkeypatch.setattr(module, "mini_sets", few)
    path = ship("motion", tmp_path, steps=2)
    assert path == tmp_path / "motion.safetensors" and set(sets) == {"motion"}
    model = i2v.load_checkpoint(path)
    assert model.config.temporal.offsets == (-1, 1, 0, 0, 0, 0, 0, 0)
    assert any(a.up.weight.abs().max() > 0 for b in model.backbone.transformer.resblocks for a in b.adapters.values())
    with pytest.raises(ValueError, match="'blink': allowed are motion, corrupted"):
        ship("blink", tmp_path)
