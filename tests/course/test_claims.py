from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from i2vlib.course.claims import MIME, Claim, claim


@pytest.fixture
def shell():
    shell = InteractiveShell.instance()
    yield shell
    InteractiveShell.clear_instance()


def test_a_claim_that_holds_prints_one_line_outside_of_a_notebook(capsys):
    claim("two and two", 4, True, paper="4")
    assert capsys.readouterr().out == "holds: two and two (measured: 4; paper: 4)\n"


def test_a_claim_that_fails_is_shown_first_and_then_raises(capsys):
    with pytest.raises(AssertionError, match="two and two: measured 5"):
        claim("two and two", 5, False)
    assert capsys.readouterr().out == "FAILS: two and two (measured: 5)\n"


@pytest.mark.parametrize("holds", [True, False])
def test_in_a_notebook_the_row_travels_as_html_text_and_json(shell, holds):
    with capture_output() as seen:
        try:
            claim("a < b", 0.98765, holds, paper="<1")
        except AssertionError:
            assert not holds
    (output,) = seen.outputs
    data = output.data
    assert json.loads(json.dumps(data[MIME])) == {"statement": "a < b", "measured": "0.9877", "paper": "<1",
                                                  "holds": holds}
    assert "a &lt; b" in data["text/html"] and ("holds" if holds else "fails") in data["text/html"]
    assert "0.9877" in data["text/plain"]


@pytest.mark.parametrize("value, text", [
    (2.123e-16, "2.123e-16"), (float("nan"), "nan"), (86192640, "86,192,640"), (True, "True"), ("as is", "as is"),
    (torch.tensor(0.5), "0.5"), (np.float32(0.25), "0.25"), ([0.5, 0.123456], "0.5, 0.1235"),
    ({"a": 1, "b": 0.5}, "a: 1, b: 0.5"),
])
def test_measured_values_are_written_for_a_reader(value, text, capsys):
    claim("value", value, True)
    assert f"(measured: {text})" in capsys.readouterr().out


def test_a_tensor_may_say_whether_it_holds():
    claim("one", 1, torch.tensor(True))
    with pytest.raises(AssertionError):
        claim("none", 0, np.bool_(False))


def test_rows_carry_plain_json_truth_values():
    assert Claim("s", "1", "", True)._repr_mimebundle_()[MIME]["holds"] is True
