"""A notebook that cannot go on here ends well."""

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from i2vlib.course.skipping import skip_the_rest


def test_the_cells_after_it_do_nothing_and_keep_their_numbers():
    sources = ["x = 1", "from i2vlib.course.skipping import skip_the_rest", "skip_the_rest('no tower.') if x else None",
               "raise ValueError", "%matplotlib no-such-thing", "print(x)"]
    nb = NotebookClient(new_notebook(cells=[new_code_cell(s) for s in sources]), kernel_name="python3", timeout=120).execute()
    nbformat.validate(nb)
    assert [c.execution_count for c in nb.cells] == [1, 2, 3, 4, 5, 6]
    assert "no tower." in nb.cells[2].outputs[0].data["text/markdown"] and not any(c.outputs for c in nb.cells[3:])


def test_outside_a_notebook_there_is_nothing_to_skip():
    with pytest.raises(RuntimeError, match="only a notebook.*no tower"):
        skip_the_rest("no tower.")
