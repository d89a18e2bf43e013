"""A notebook that cannot go on here, since something is not on this machine, says why and ends well."""

from __future__ import annotations

from IPython import get_ipython
from IPython.display import Markdown


def skip_the_rest(why: str) -> Markdown:
    """Every cell after this one does nothing, until the kernel is restarted; shows why. To be a cell's last line.

    Under nbconvert, papermill and pytest too: cells keep their numbers and have no output. Raises RuntimeError outside a
    notebook.
    """
    shell = get_ipython()
    if shell is None:
        raise RuntimeError(f"only a notebook has cells to skip: {why}")
    shell.input_transformers_cleanup.append(lambda lines: ["pass\n"])
    return Markdown(f"**The rest of this notebook is skipped:** {why} Then restart the kernel and run all cells.")
