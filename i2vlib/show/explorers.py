"""Explorers for notebooks: move a slider, and a picture of a model's attention, weights or prediction follows.

Built of what ipywidgets 7 (Colab) and 8 share, which this module alone imports. What goes wrong in a callback is written under
the picture, not lost in the browser's log. What is drawn: i2vlib.show.views.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets as widgets
from torch import Tensor, nn

from i2vlib.show.board import compact
from i2vlib.show.views import LEARNED, WIDTH, View, attention_view, interpolation_view, offsets_view, scale_view


class Explorer(widgets.VBox):
    """Controls, the picture that they choose, its numbers as a line of text, and a place for errors.

    controls: {name of a value of view.draw: its widget}, one for each. For programs: `controls`; `picture(**values)` draws
    without moving a control; `set(**values)` moves several and draws once; `text.value` holds the line.
    """

    def __init__(self, view: View, controls: dict[str, widgets.Widget], extra: Sequence[widgets.Widget] = ()):
        self.view, self.controls, self._held = view, controls, False
        self.image = widgets.Image(format="png", layout=widgets.Layout(width=f"{WIDTH}px", max_width="100%"))
        self.text, self.errors = widgets.HTML(), widgets.Output()
        row = widgets.HBox([*controls.values(), *extra], layout=widgets.Layout(flex_flow="row wrap"))
        super().__init__([row, self.image, self.text, self.errors])
        for control in controls.values():
            control.observe(self.update, names="value")
        self.update()

    def values(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    def picture(self, **values) -> bytes:
        """The PNG for these values, the controls' own for the rest, in 256 colours: a figure for print. Raises what fails."""
        self._check(values)
        return compact(self.view.draw(**self.values() | values)[0])

    def set(self, **values) -> None:
        """Move several controls, then draw once. Raises ValueError or TraitError for a value that a control does not have."""
        self._check(values)
        self._held = True
        try:
            for name, value in values.items():
                self.controls[name].value = value
        finally:
            self._held = False
            self.update()

    def update(self, change=None) -> None:
        """Draw for the controls' values; where that fails, say why under the picture."""
        if self._held:
            return
        try:
            png, text = self.view.draw(**self.values())
        except Exception as error:  # raised in a callback it would reach no reader
            self._say(f"{type(error).__name__}: {error}\n")
            return
        self.image.value, self.text.value = png, f"<code>{html.escape(text)}</code>"
        self._say("")

    def _check(self, values: dict) -> None:
        if unknown := sorted(set(values) - set(self.controls)):
            raise ValueError(f"there is no control {unknown[0]!r}: allowed are {', '.join(self.controls)}")

    def _say(self, words: str) -> None:
        said = ({"output_type": "stream", "name": "stderr", "text": words},) if words else ()
        if self.errors.outputs != said:
            self.errors.outputs = said


def explore_attention(model: nn.Module, clip: Tensor) -> Explorer:
    """The attention of any head and block, from the class token or any patch, on the frame that the head reads (t+δ, not t).

    clip (T,3,S,S) float, as the model sees it. Controls: frame, block (from 1), head, query ("class token" or "patch"), row,
    column. Raises ValueError as views.attention_view.
    """
    view = attention_view(model, clip)
    controls = _sliders(view)
    query = widgets.ToggleButtons(options=["class token", "patch"], description="query",
                                  style={"button_width": "100px", "description_width": "initial"},
                                  layout=widgets.Layout(width="340px"))
    places = {name: controls.pop(name) for name in ("row", "column")}
    explorer = Explorer(view, controls | {"query": query} | places)

    def to_patch(change) -> None:  # who moves a row means a patch
        if not explorer._held:
            query.value = "patch"

    for place in places.values():
        place.observe(to_patch, names="value")
    return explorer


def explore_interpolation(model: nn.Module, clip: Tensor, class_names: Sequence[str] = (), bars: int = 8) -> Explorer:
    """InTI on one clip: any pair at any site, its two weight maps, what they fuse, the cascade, and what other weights would do.

    clip (T,3,S,S) float. Controls: frame (the pair that holds it is shown), site, weights ("as learned", or by hand the share of
    the second frame, 0 "all first" to 1 "all second", in steps of .05). Raises ValueError as views.interpolation_view.
    """
    view = interpolation_view(model, clip, class_names, bars)
    hands = [(f"{i / 20:.2f} on the second", i / 20) for i in range(1, 20)]
    hand = widgets.SelectionSlider(options=[(LEARNED, LEARNED), ("all first", 0.0), *hands, ("all second", 1.0)], value=LEARNED,
                                   description="weights", continuous_update=True, style={"description_width": "initial"},
                                   layout=widgets.Layout(width="380px"))
    return Explorer(view, _sliders(view) | {"weights": hand})


def explore_offsets(model: nn.Module, clip: Tensor, class_names: Sequence[str] = (), bars: int = 8) -> Explorer:
    """Which frame each head reads, set by hand: the frames that reach the clip's prediction, and the prediction, at once.

    clip (T,3,S,S) float. Controls: frame (whose receptive field is drawn) and head_0, head_1, ..., an offset each in every block;
    a drop-down sets all heads. The offsets act on a copy of the model. Raises ValueError as views.offsets_view.
    """
    view = offsets_view(model, clip, class_names, bars)
    controls = _sliders(view, "190px")
    heads = [name for name in controls if name != "frame"]
    choice = widgets.Dropdown(options=[*view.settings, "by hand"], description="all heads", layout=widgets.Layout(width="230px"))
    explorer = Explorer(view, controls, [choice])

    def by_choice(change) -> None:
        if change["new"] in view.settings:
            explorer.set(**dict(zip(heads, view.settings[change["new"]], strict=True)))

    def by_hand(change) -> None:
        now = tuple(controls[name].value for name in heads)
        if view.settings.get(choice.value) != now:
            choice.value = "by hand"

    choice.observe(by_choice, names="value")
    explorer.text.observe(by_hand, names="value")  # it names the offsets: it changes after every draw, a program's too
    return explorer


def explore_scale(model: nn.Module, clip: Tensor, class_names: Sequence[str] = (), bars: int = 8) -> Explorer:
    """A dial from the tower without its adapters (s = 0) to the trained s and half as far beyond: the logits on the way.

    clip (T,3,S,S) float. Control: share, what the trained s is multiplied by. Raises ValueError as views.scale_view.
    """
    view = scale_view(model, clip, class_names, bars)
    return Explorer(view, _sliders(view, "380px"))


def _sliders(view: View, width: str = "250px") -> dict[str, widgets.Widget]:
    """A slider for each range of a view: whole numbers, or steps of .1."""
    made = {}
    for name, (low, high, start) in view.ranges.items():
        kind, step = (widgets.FloatSlider, 0.1) if isinstance(low, float) else (widgets.IntSlider, 1)
        made[name] = kind(min=low, max=high, step=step, value=start, description=name.replace("_", " "), continuous_update=True,
                          style={"description_width": "initial"}, layout=widgets.Layout(width=width))
    return made
