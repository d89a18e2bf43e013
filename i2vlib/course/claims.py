"""A claim: one row that a notebook shows and then stands by.

    claim("the merged model gives the same logits", difference, difference < 1e-12, paper="exact (eq. 11)")

shows the statement, what was measured, the paper's value beside it and whether it holds, and stops the notebook if
it does not. The results page collects the rows by their JSON form, which rides in the same output.
"""

from __future__ import annotations

import html
import sys
from dataclasses import asdict, dataclass

MIME = "application/vnd.i2v.claim+json"


@dataclass(frozen=True)
class Claim:
    """One row: what was stated, what was measured (as text), the paper's value or '', and whether it holds."""

    statement: str
    measured: str
    paper: str
    holds: bool

    def __str__(self) -> str:
        paper = f"; paper: {self.paper}" if self.paper else ""
        return f"{'holds' if self.holds else 'FAILS'}: {self.statement} (measured: {self.measured}{paper})"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        colour, word = ("#2a7d4f", "✓ holds") if self.holds else ("#b3261e", "✗ fails")
        e = html.escape
        paper = f" &nbsp;·&nbsp; paper: {e(self.paper)}" if self.paper else ""
        row = (f'<div style="border-left:4px solid {colour};padding:.25em .8em;margin:.2em 0">'
               f'<b style="color:{colour}">{word}</b> &nbsp;{e(self.statement)}<br>'
               f'<span style="opacity:.8">measured: <b>{e(self.measured)}</b>{paper}</span></div>')
        return {"text/plain": str(self), "text/html": row, MIME: asdict(self)}


def claim(statement: str, measured, holds: bool, *, paper: str = "") -> None:
    """Show one row, then raise AssertionError with the statement and the measured value if `holds` is false.

    measured: a number (four significant digits are shown), a string, or a list, tuple or dict of these; tensors and
    arrays of one element count as numbers. Outside of a notebook the row is a printed line.
    """
    row = Claim(statement, _text(measured), paper, bool(holds))
    ipython = sys.modules.get("IPython")  # a script that never imported it needs no display
    if ipython is not None and ipython.get_ipython() is not None:
        from IPython.display import display

        display(row)
    else:
        print(row)
    if not row.holds:
        raise AssertionError(f"{statement}: measured {row.measured}")


def _text(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_text(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
