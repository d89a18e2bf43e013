"""Names are data: no name of a class or file breaks a figure, becomes markup, or is left out of this by a new function."""

from __future__ import annotations

import html
import importlib
import inspect
import pkgutil
import re
from io import BytesIO

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.text import Text
from nbconvert.filters import markdown2html
from PIL import Image

import i2vlib.show
from i2vlib.data.video import write_clip
from i2vlib.own_video import Prediction
from i2vlib.protocol import ClipConfig
from i2vlib.show.attention import attention, head_table, rollout_map
from i2vlib.show.clips import film
from i2vlib.show.evidence import frame_importance, gradcam, patch_importance
from i2vlib.show.interpolation import interpolation
from i2vlib.show.names import finished, in_markdown, inert, plain
from i2vlib.show.own_video import bars, timeline
from i2vlib.show.training import confusion, curves
from i2vlib.training.evaluate import Result

HOSTILE = [r"$\frac{$", r"a $x_1$ \$ \\$", "100% {0} %s {name}", "<img src=x onerror=alert(1)>", "a|b`c*d_e",
           "two\nlines\r\n\x00\x1b[0m", "x" * 20_000, "\n" * 20_000, "שלום 跳 🎬 \u202e", "\ud800", "", " "]
DRAWN = [*HOSTILE[:2], " ".join(HOSTILE[2:6] + HOSTILE[8:10]), *HOSTILE[6:8], ""]  # few: a figure takes its time
CLIP = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
CLIP_CONFIG = ClipConfig(frames=2, size=16, short_side=16, test_short_side=16)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a film and with what a training run leaves."""
    folder = tmp_path_factory.mktemp("run")
    write_clip(folder / "a.mp4", torch.zeros(4, 16, 16, 3, dtype=torch.uint8))
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "lr": 0.1}\n')
    return folder


def drawn(name: str, run) -> dict:
    """{public function of the room: its figure}, the name wherever one can stand."""
    p, maps = torch.tensor([0.7, 0.3]), torch.rand(2, 2, 2)
    block = torch.full((1, 2, 2, 5, 5), 0.2)
    return {film: film([CLIP, CLIP], title=name, rows=[name, name], frames=[name] * 2),
            bars: bars(Prediction(p, p[None], (name, "b"), 2, [[0, 1]], torch.zeros(0), torch.zeros(0)), title=name),
            timeline: timeline(run / "a.mp4", {name: CLIP_CONFIG}, title=name),
            confusion: confusion(Result(torch.eye(2), torch.tensor([0, 1]), torch.tensor([0, 1])), [name, "b"], title=name),
            curves: curves(run, chance=0.7),
            attention: attention(CLIP, [block], layer=0, names=[name, name], title=name),
            head_table: head_table({name: torch.rand(2, 2)}, label=name, title=name),
            rollout_map: rollout_map(CLIP, torch.full((2, 5), 0.1), title=name),
            gradcam: gradcam(CLIP, maps, name=name, title=name),
            patch_importance: patch_importance(CLIP, maps, name=name, title=name),
            frame_importance: frame_importance(CLIP, torch.arange(2.), name=name, title=name),
            interpolation: interpolation(torch.rand(2, 3, 8, 8), [torch.full((1, 2, 5), 0.5)], title=name)}


@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
@pytest.mark.parametrize("name", DRAWN, ids=range(len(DRAWN)))
def test_no_name_breaks_a_figure(name, run):
    for function, figure in drawn(name, run).items():
        target = BytesIO()
        figure.savefig(target, format="png", dpi=30, bbox_inches="tight")  # as notebooks show them; formulas are read here
        assert max(Image.open(target).size) < 1500, function
    assert not plt.get_fignums()


def test_the_names_stand_in_the_figures_as_they_are(run):
    for function, figure in drawn(r"$\frac{$", run).items():
        figure.canvas.draw()
        shown = [text.get_text() for text in figure.findobj(Text)]
        assert function is curves or sum(r"$\frac{$" in words for words in shown) >= 1, function
        assert not any(text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text())


def test_every_function_that_makes_a_figure_is_tried_here(run):
    found = set()
    for module in pkgutil.iter_modules(i2vlib.show.__path__):
        module = importlib.import_module(f"i2vlib.show.{module.name}")
        found |= {f for name, f in inspect.getmembers(module, inspect.isfunction) if name[0] != "_"
                  and f.__module__ == module.__name__ and f.__annotations__.get("return") == "Figure"}
    assert found - {finished} == set(drawn("a", run)), "a figure whose names nobody tried"


def test_words_are_cut_and_freed_of_what_is_no_letter():
    assert plain("moves left") == "moves left" and plain(3) == "3" and plain("") == ""
    assert plain("abcdef", 4) == "abc…" and plain("a\nb\x0cc\u2028d") == "a b c d" and plain("a\nb\nc", 9, 2) == "a\nb c"
    assert plain("a\x00\ud800b") == "a\ufffd\ufffdb"


@pytest.mark.parametrize("name", [n for n in HOSTILE if n.strip()], ids=repr)
def test_a_name_in_a_table_is_one_cell_and_no_markup(name):
    page = markdown2html(f"| class | n |\n|---|---|\n| {in_markdown(name)} | 2 |\n")
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page, re.DOTALL)
    assert len(cells) == 2 and not re.search("<[^/]", cells[0]) and cells[1] == "2", cells
    assert html.unescape(cells[0]).strip() == plain(name, 80).strip()


@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>", "| <b>x</b> |", "<!-- x", "`<i>`", "<?x", "</script>"])
def test_html_in_markdown_is_text(text):
    assert not re.search("<(?!/?(p|code))[a-z!?/]", markdown2html(inert(text))), "a tag came through"
    for same in ("a < b, 1<2", "[x](https://example.org/a)", "[x](../data/README.md#a)", "| [1](02_b.ipynb) |"):
        assert inert(same) == same
