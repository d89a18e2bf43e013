"""Names are data: what a person called a class or a file is shown as it stands, whatever it is shown in would make of it."""

from __future__ import annotations

import re
import unicodedata

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~$&^@]")  # what Markdown, its tables, its formulas and HTML act on
ALIVE = re.compile(r"<(?=[A-Za-z/!?])|(?<=\])\((?!https?://|[\w./#-]+\))|(?<=\]):")  # a tag, a link to what is no address


def plain(words: object, most: int = 40, lines: int = 1) -> str:
    """Words for a picture: no control characters, no line longer than `most` letters, no more than `lines` lines.

    With one line, the line ends in the words are blanks. What is cut off shows as an ellipsis.
    """
    rows = str(words).splitlines()
    rows = rows[:lines - 1] + [" ".join(rest)] if (rest := rows[lines - 1:]) else rows
    rows = ["".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in row[:most + 1]) for row in rows]
    return "\n".join(row if len(row) <= most else row[:most - 1] + "…" for row in rows)


def finished(figure: Figure) -> Figure:
    """A figure that is drawn and closed, so that a notebook shows it once. Its words are words: `$` begins no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    plt.close(figure)
    return figure


def in_markdown(name: object, most: int = 80) -> str:
    """A name to stand in Markdown, in a cell of a table too: every character that is markup there, as an entity."""
    return MARKUP.sub(lambda found: f"&#{ord(found[0])};", plain(name, most))


def inert(markdown: str) -> str:
    """Markdown without HTML and without links that run something: what would begin them is text.

    For outputs of notebooks, into which names may have come raw.
    """
    return ALIVE.sub(lambda found: f"&#{ord(found[0])};", markdown)
