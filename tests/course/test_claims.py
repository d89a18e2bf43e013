from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from i2vlib.checked import check_parameters
from i2vlib.course import claims
from i2vlib.course.claims import FORMS, MIME, Claim, attempt, claim


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


@pytest.fixture
def changed(shell, monkeypatch):
    """A notebook in which `seed` is not its default, and no strictness from outside."""
    monkeypatch.delenv("I2V_CLAIMS", raising=False)
    shell.user_ns["parameters_changed"] = check_parameters({"seed": 3}, seed=0)
    return shell


def test_with_parameters_of_ones_own_a_claim_turns_amber_and_the_notebook_goes_on(changed):
    with capture_output() as seen:
        claim("a < b", 2, False)
    data = seen.outputs[0].data
    assert data[MIME] == {"statement": "a < b", "measured": "2", "paper": "", "holds": False, "changed": "seed = 3"}
    assert "does not hold with your parameters (seed = 3)" in data["text/html"] and FORMS["amber"][0] in data["text/html"]
    assert data["text/plain"].startswith("does not hold with your parameters (seed = 3): a < b")
    assert Claim(**data[MIME]).state == "amber"


def test_one_that_holds_stays_green_whatever_the_parameters(changed):
    with capture_output() as seen:
        claim("a < b", 0, True)
    assert "✓ holds" in seen.outputs[0].data["text/html"] and "with the defaults" not in seen.outputs[0].data["text/html"]


def test_an_amber_row_says_what_the_defaults_gave(changed, tmp_path, monkeypatch):
    def executed(name, *rows):
        outputs = [{"output_type": "display_data", "data": {MIME: row}} for row in rows]
        (tmp_path / name).write_text(json.dumps({"cells": [{"outputs": outputs}, {"source": []}]}))

    row = {"statement": "a < b", "measured": "0.5", "paper": "", "holds": True}
    executed("00_a.ipynb", row | {"statement": "another", "measured": "7"}, row)
    executed("01_b.ipynb", row | {"measured": "9", "holds": False, "changed": "seed = 8"})  # a reader's own run, saved in place
    (tmp_path / "02_c.ipynb").write_text("{ half")
    monkeypatch.setattr(claims, "NOTEBOOKS", tmp_path)
    with capture_output() as seen:
        claim("a < b", 2, False)
        claim("never stated", 2, False)
    first, second = (o.data for o in seen.outputs)
    assert first[MIME]["default"] == "0.5"
    assert "with the defaults: 0.5" in first["text/html"] and "with the defaults: 0.5" in first["text/plain"]
    assert "default" not in second[MIME] and "with the defaults" not in second["text/html"]


def test_strict_claims_stop_whatever_the_parameters(changed, monkeypatch):
    monkeypatch.setenv("I2V_CLAIMS", "strict")
    with capture_output(), pytest.raises(AssertionError, match="a < b: measured 2"):
        claim("a < b", 2, False)


@pytest.mark.parametrize("name", ["out", "workers"])
def test_where_a_run_writes_and_how_many_processes_decode_are_no_excuse(shell, monkeypatch, name):
    monkeypatch.delenv("I2V_CLAIMS", raising=False)
    shell.user_ns["parameters_changed"] = check_parameters({name: 7}, **{name: 0})
    with capture_output(), pytest.raises(AssertionError):
        claim("a < b", 2, False)


def test_rows_carry_plain_json_truth_values():
    assert Claim("s", "1", "", True)._repr_mimebundle_()[MIME]["holds"] is True


def check_double(f):
    assert f(2) == 4, "twice two is four"


@pytest.mark.parametrize(("answer", "said"), [
    (lambda x: 2 * x, "right"), (lambda x: x + 1, "not right yet: twice two is four"), (lambda x: x.missing, "AttributeError"),
])
def test_an_attempt_is_told_how_it_fares_and_stops_nothing(answer, said, capsys):
    answer.__name__ = "double"
    attempt(check_double, answer)
    assert capsys.readouterr().out.startswith(f"double: {said}")


def test_an_attempt_that_is_not_written_yet_says_so(shell):
    def double(x):
        raise NotImplementedError

    with capture_output() as told:
        attempt(check_double, double)
    assert "double: not written yet" in told.outputs[0].data["text/html"]
