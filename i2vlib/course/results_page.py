"""The page of results: one HTML file that needs no other, made from what the notebooks gave."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

import bleach  # which nbconvert brings
from nbconvert.filters import markdown2html

from i2vlib.show.names import inert

# What a reader must know before reading a number. Facts about the defaults of the course, not about one run.
SCALE = """
<p><b>Miniature.</b> Every model that is trained here is a tower of 0.2 million parameters, and every video is a
synthetic clip, seen at 48 by 48 pixels: drawn by this repository, stored as H.264 and decoded like any other video.
Accuracies on these tasks show what a method can and cannot tell apart. They are not the papers' accuracies, and where
a paper's value stands beside ours, it was measured on other data with a model four hundred times as large.</p>
<p><b>Full size.</b> What follows from formulas is checked at the papers' own shapes with random weights: the tower equals
open_clip's at ViT-B and ViT-L, parameters and multiply-adds agree with the papers' columns, latency is timed at ViT-B on this
machine. That merged adapters give the same outputs is checked on the miniature and on small towers, for every placement.</p>
<p><b>Not reproduced here.</b> The papers' accuracies on Kinetics-400, Something-Something V2, UCF101, HMDB51 and
Diving48 need those data sets, CLIP's released weights and GPUs. The same notebooks run on them, by their parameters; a
laptop does not reach them, and this page does not claim them.</p>
"""
TAGS = bleach.ALLOWED_TAGS | set("br caption div p pre span sub sup table tbody td th thead tr".split())
WORDS = {"ran": "ran", "failed": "failed here", "stopped": "stopped here", "not run": "not run"}
MARKS = {"holds": "yes", "fails": "no", "amber": "amber"}  # state of a claim: its class in the style sheet


def render(runs: list, machine: dict[str, str]) -> str:
    """The page as text. runs: objects with the fields of reproduce.Run; machine: label -> fact, shown in order."""
    claims = [c for run in runs for c in run.claims]
    held = sum(c.holds for c in claims)
    good = held == len(claims) and all(r.state == "ran" for r in runs)
    done = sum(r.state == "ran" for r in runs)
    amber = sum(c.state == "amber" for c in claims)
    besides = f" ({amber} of the others with changed parameters)" if amber else ""
    verdict = f"{held} of {len(claims)} claims held{besides}; {done} of {len(runs)} notebooks ran to their end."
    css = Path(__file__).with_name("results_page.css").read_text(encoding="utf-8")
    body = [f'<p class="verdict {"good" if good else "bad"}">{verdict}</p>', *map(_failure, runs),
            '<section class="scale"><h2>What is miniature and what is not</h2>', SCALE, "</section>",
            "<h2>Claims</h2>", _claims(runs), "<h2>Figures and tables</h2>", *map(_results, runs),
            "<h2>Notebooks</h2>", _notebooks(runs), "<h2>Measured on</h2>", _facts(machine)]
    head = ('<meta charset="utf-8"><title>Results</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>\n{css}</style>')
    text = "\n".join(["<h1>What the notebooks found</h1>", *filter(None, body)])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{text}\n</main></body></html>\n'


def _failure(run) -> str:
    if run.state not in ("failed", "stopped"):
        return ""
    what = f'<div class="failure"><h2>{_heading(run.title)}: {WORDS[run.state]}</h2>'
    return f"{what}<pre>{_e(run.error or 'interrupted')}</pre></div>"


def _claims(runs: list) -> str:
    rows = []
    for run in runs:
        if run.claims:
            rows.append(f'<tr class="group"><th colspan="4" scope="rowgroup">{_heading(run.title)}</th></tr>')
        for c in run.claims:
            measured = _e(c.measured) + (f"<br>with the defaults: {_e(c.default)}" if c.default else "")
            rows.append(f"<tr><td>{_e(c.statement)}</td><td class=number>{measured}</td>"
                        f'<td class=number>{_e(c.paper) or "–"}</td><td class="{MARKS[c.state]}">{_e(c.words)}</td></tr>')
    if not rows:
        return "<p>No claim was reached.</p>"
    head = "<tr><th>Statement</th><th>Measured here</th><th>Paper</th><th>Holds</th></tr>"
    return f'<table class="claims"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def _results(run) -> str:
    if not run.results:
        return ""
    parts, last = [f"<section><h3>{_heading(run.title)}</h3>"], run.title
    for heading, data in run.results:
        if heading != last:
            parts.append(f"<h4>{_heading(heading)}</h4>")
        last = heading
        parts.append(f'<div class="result">{_shown(data, heading)}</div>')
    return "\n".join([*parts, "</section>"])


def _shown(data: dict, heading: str) -> str:
    """The richest form of an output that a page without scripts can hold; the first that is there wins.

    Names of a reader's classes and files may stand in it: of its HTML remain tables and marks of text.
    """
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<img alt="{_heading(heading)}" src="data:{kind};base64,{"".join(data[kind].split())}">'
    if "image/svg+xml" in data:
        code = base64.b64encode(data["image/svg+xml"].encode()).decode()
        return f'<img alt="{_heading(heading)}" src="data:image/svg+xml;base64,{code}">'
    if "text/html" in data:
        return bleach.clean(data["text/html"], TAGS, {"*": ["class", "colspan", "rowspan"]})
    if "text/markdown" in data:
        return markdown2html(inert(data["text/markdown"]))
    return f"<pre>{_e(data.get('text/plain', ''))}</pre>"


def _notebooks(runs: list) -> str:
    rows = []
    for r in runs:
        name = _heading(r.title)
        if r.state != "not run":
            name = f'<a href="{_e(r.name)}.html">{name}</a>'
        time = f"{r.seconds:.0f} s" if r.state != "not run" else "–"
        held = f"{sum(c.holds for c in r.claims)} of {len(r.claims)}"
        rows.append(f"<tr><td>{name}</td><td class=number>{time}</td><td class=number>{held}</td>"
                    f'<td class="{"yes" if r.state == "ran" else "no"}">{WORDS[r.state]}</td></tr>')
    head = "<tr><th>Notebook</th><th>Wall time</th><th>Claims held</th><th>State</th></tr>"
    return f'<table class="claims"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def _facts(machine: dict[str, str]) -> str:
    rows = (f"<tr><th scope=row>{_e(label)}</th><td>{_e(text)}</td></tr>" for label, text in machine.items())
    return f'<table class="facts">{"".join(rows)}</table>'


def _heading(markdown: str) -> str:
    """A markdown heading as plain text for HTML: without the marks of `code` and *emphasis*."""
    return _e(re.sub(r"[`*]", "", markdown))


def _e(text: str) -> str:
    return html.escape(text)


def inert_outputs(notebook):
    """The notebook, without HTML in the Markdown that its cells gave: the pages made of it get none."""
    for output in (o for cell in notebook.cells for o in cell.get("outputs", [])):
        if "text/markdown" in output.get("data", {}):
            output.data["text/markdown"] = inert(output.data["text/markdown"])
    return notebook
