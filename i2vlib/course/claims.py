"""A claim: one row that a notebook shows and then stands by.

    claim("the merged model gives the same logits", difference, difference < 1e-12, paper="exact (eq. 11)")

shows the statement, what was measured, the paper's value beside it and whether it holds. A claim is made of the defaults:

- with the default parameters one that does not hold stops the notebook, whoever runs it: a reader, papermill, pytest;
- with other parameters (the notebook's `parameters_changed`, which check_parameters returned) its row turns amber, "does not
  hold with your parameters", says what the defaults give, and the notebook goes on, under papermill too: a batch run of one's
  own ends with its results and exit code 0;
- with I2V_CLAIMS=strict in the environment, as in the tests of this repository, it stops the notebook whatever the parameters.

The results page collects the rows by their JSON form, which rides in the same output.
"""

from __future__ import annotations

import html
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

MIME = "application/vnd.i2v.claim+json"
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
FORMS = {"holds": ("#2a7d4f", "✓ holds"), "amber": ("#a15c00", "◐ does not hold with your parameters"),
         "fails": ("#b3261e", "✗ fails")}  # state: colour, words


@dataclass(frozen=True)
class Claim:
    """One row: what was stated, what was measured (as text), the paper's value or '', and whether it holds.

    changed: the parameters that are not the defaults, as text, or ''. default: what the defaults give, or '' where that is
    not known; only in a row that does not hold with other parameters.
    """

    statement: str
    measured: str
    paper: str
    holds: bool
    changed: str = ""
    default: str = ""

    @property
    def state(self) -> str:
        """holds | fails | amber: does not hold, with parameters that are not the defaults."""
        return "holds" if self.holds else "amber" if self.changed else "fails"

    @property
    def words(self) -> str:
        """The state in words; an amber one names the parameters."""
        said = FORMS[self.state][1]
        return f"{said} ({self.changed})" if self.state == "amber" else said

    def __str__(self) -> str:
        beside = "".join(f"; {name}: {v}" for name, v in (("with the defaults", self.default), ("paper", self.paper)) if v)
        words = "FAILS" if self.state == "fails" else self.words[2:]
        return f"{words}: {self.statement} (measured: {self.measured}{beside})"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        colour, e = FORMS[self.state][0], html.escape
        beside = "".join(f" &nbsp;·&nbsp; {name}: {e(v)}"
                         for name, v in (("with the defaults", self.default), ("paper", self.paper)) if v)
        row = (f'<div style="border-left:4px solid {colour};padding:.25em .8em;margin:.2em 0">'
               f'<b style="color:{colour}">{e(self.words)}</b> &nbsp;{e(self.statement)}<br>'
               f'<span style="opacity:.8">measured: <b>{e(self.measured)}</b>{beside}</span></div>')
        return {"text/plain": str(self), "text/html": row, MIME: self._json()}

    def _json(self) -> dict:
        return {k: v for k, v in asdict(self).items() if v or k not in ("changed", "default")}


def claim(statement: str, measured, holds: bool, *, paper: str = "") -> None:
    """Show one row, then raise AssertionError with the statement and the measured value if `holds` is false.

    With parameters that are not the defaults it does not raise but shows the row in amber (see the top of this file).
    measured: a number (four significant digits are shown), a string, or a list, tuple or dict of these; tensors and
    arrays of one element count as numbers. Outside of a notebook the row is a printed line.
    """
    ipython = sys.modules.get("IPython")  # a script that never imported it needs no display
    shell = ipython.get_ipython() if ipython is not None else None
    strict = os.environ.get("I2V_CLAIMS") == "strict"
    changed = {} if shell is None or strict else shell.user_ns.get("parameters_changed", {})
    words = ", ".join(f"{name} = {value!r}" for name, value in changed.items())
    default = _with_the_defaults(statement) if changed and not holds else ""
    row = Claim(statement, _text(measured), paper, bool(holds), words, default)
    if shell is not None:
        from IPython.display import display

        display(row)
    else:
        print(row)
    if row.state == "fails":
        raise AssertionError(f"{statement}: measured {row.measured}")


def _with_the_defaults(statement: str) -> str:
    """What the course's notebooks, as they were executed with their defaults, measured for this statement; '' if not in them."""
    found = set()
    for path in NOTEBOOKS.glob("[0-9]*.ipynb"):
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            rows = [o["data"][MIME] for c in cells for o in c.get("outputs", []) if MIME in o.get("data", {})]
        except (OSError, ValueError, KeyError):  # a notebook that is being saved
            continue
        found |= {r["measured"] for r in rows if r["statement"] == statement and not r.get("changed")}
    return found.pop() if len(found) == 1 else ""


def _text(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_text(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def attempt(check: Callable[[Callable], None], answer: Callable) -> None:
    """Say how a reader's function fares in an exercise, without stopping the notebook: not written yet, not right yet, or right.

    check: takes the function and raises AssertionError, whose text is the hint. answer: the reader's; as long as it raises
    NotImplementedError it is not written. Whatever else it raises is told. A solution calls check(answer), which stops.
    """
    try:
        check(answer)
    except NotImplementedError:
        said, colour = "not written yet", "#6b6b6b"
    except Exception as error:  # the reader's code may raise anything
        said, colour = f"not right yet: {error}" if isinstance(error, AssertionError) else repr(error), "#a15c00"
    else:
        said, colour = "right", "#2a7d4f"
    text = f"{answer.__name__}: {said}"
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        print(text)
        return
    from IPython.display import HTML, display

    display(HTML(f'<div style="border-left:4px solid {colour};padding:.25em .8em"><b>{html.escape(text)}</b></div>'))
