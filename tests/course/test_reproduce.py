from __future__ import annotations

import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from i2vlib.course import reproduce as module
from i2vlib.course.claims import MIME, Claim
from i2vlib.course.reproduce import chosen, collect, reproduce
from i2vlib.course.results_page import _shown, render

ROOT = Path(__file__).resolve().parents[2]
# claims.py by itself: importing the whole package would cost each kernel seconds
CLAIM = f"import sys; sys.path.insert(0, {str(ROOT / 'i2vlib/course')!r})\nfrom claims import claim\n"
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = f"import base64\nfrom IPython.display import Image\nImage(base64.b64decode('{DOT}'))"


def notebook(folder: Path, name: str, *cells) -> Path:
    """Cells: markdown if it starts with '#' and a space, a (code, tag) pair, or code."""
    nb = new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    for cell in cells:
        code, *tags = cell if isinstance(cell, tuple) else (cell,)
        made = new_markdown_cell(code) if code.startswith("# ") else new_code_cell(code)
        made.metadata["tags"] = tags
        nb.cells.append(made)
    path = folder / f"{name}.ipynb"
    nbformat.write(nb, path)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A run whose second notebook fails at a claim; the third must not run."""
    folder = tmp_path_factory.mktemp("course")
    notebook(folder, "00_good", "# The *first* <one>", CLAIM + "claim('x < y', 0.5, True, paper='0.6')",
             "# A picture `of` it", (PICTURE, "result"), ("print('not <b>shown</b> raw')", "result"),
             "print('untagged')")
    notebook(folder, "01_bad", "# The second", CLAIM + "claim('before', 1, True)", "claim('it is five', 4, 4 == 5)",
             "claim('never reached', 0, True)")
    notebook(folder, "02_after", "# The third", "1")
    status = reproduce(chosen(folder), folder / "out", "a command")
    return status, (folder / "out" / "index.html").read_text(), folder


def test_a_failing_claim_fails_the_run_and_stands_on_the_page(page):
    status, text, folder = page
    assert status == 1
    assert "it is five" in text and "✗ fails" in text and "2 of 3 claims held" in text
    assert "The second: failed here" in text and "AssertionError" in text and "<td>never reached" not in text
    assert not (folder / "out/02_after.ipynb").exists() and "not run" in text


def test_the_page_holds_everything_itself(page):
    _, text, folder = page
    assert "data:image/png;base64,iVBOR" in text
    assert "<link" not in text and "<script" not in text and "http" not in text
    assert "A picture of it" in text and "untagged" not in text
    assert "not &lt;b&gt;shown&lt;/b&gt; raw" in text and "The first &lt;one&gt;" in text
    assert "<td>x &lt; y</td><td class=number>0.5</td><td class=number>0.6</td>" in text
    assert "not reproduced" in text.lower() and "threads" in text and "a command" in text
    for name in ("00_good", "01_bad"):
        assert (folder / f"out/{name}.html").stat().st_size > 1000 and (folder / f"out/{name}.ipynb").exists()


def test_a_good_run_succeeds_and_runs_in_the_notebooks_own_folder(tmp_path, capsys):
    path = notebook(tmp_path, "00_good", "# Good", CLAIM + "from pathlib import Path\nhere = Path.cwd()\n"
                    f"claim('folder', str(here), here == Path({str(tmp_path)!r}))")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/index.html").write_text("of an earlier run")
    assert reproduce([path], tmp_path / "out") == 0
    assert "1 of 1 claims held" in capsys.readouterr().out
    assert 'class="verdict good"' in (tmp_path / "out/index.html").read_text()


def test_a_claim_that_a_cell_swallows_still_fails_the_run(tmp_path):
    path = notebook(tmp_path, "00_x", CLAIM + "try:\n    claim('hidden', 0, False)\nexcept AssertionError:\n    pass")
    assert reproduce([path], tmp_path / "out") == 1


def test_an_amber_claim_is_shown_as_such_and_is_no_success(tmp_path, monkeypatch):
    """Somebody edited the parameters cell and calls `make reproduce`: it runs to its end, the page says what changed."""
    monkeypatch.delenv("I2V_CLAIMS", raising=False)
    path = notebook(tmp_path, "00_x", CLAIM + "parameters_changed = {'seed': 1}\nclaim('five < six', 7, False)\nprint('went on')")
    assert reproduce([path], tmp_path / "out") == 1
    text = (tmp_path / "out/index.html").read_text()
    assert '<td class="amber">◐ does not hold with your parameters (seed = 1)</td>' in text and "✗ fails" not in text
    assert "0 of 1 claims held (1 of the others with changed parameters); 1 of 1 notebooks ran" in text


def test_ctrl_c_ends_cleanly_with_a_page(tmp_path):
    path = notebook(tmp_path, "00_slow", "# Slow", "from pathlib import Path\nPath('started').touch()",
                    "import time\ntime.sleep(60)")
    # a shell without job control starts what runs in its background deaf to Ctrl-C: this process is to hear it all the same
    code = ("import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from pathlib import Path\nfrom i2vlib.course.reproduce import reproduce\n"
            f"sys.exit(reproduce([Path({str(path)!r})], Path({str(tmp_path / 'out')!r})))")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=50)[1]
    assert process.returncode == 130, errors
    assert "Stopped in 00_slow" in errors and "Traceback" not in errors, errors
    assert "stopped here" in (tmp_path / "out/index.html").read_text()


def test_what_a_notebook_writes_is_of_this_run(tmp_path):
    """Notebook 04 resumes what lies in its `out`: an earlier training must not be reported as this run's."""
    path = notebook(tmp_path, "04_train", "# Train", ("out = 'mine'", "parameters"), "from pathlib import Path\n"
                    "Path(out).mkdir(parents=True)  # fails where it exists\n(Path(out) / 'state.pt').touch()")
    for name in ("mine", "out/kept"):
        (tmp_path / name).mkdir(parents=True)
    for _ in range(2):
        assert reproduce([path], tmp_path / "out") == 0
    assert (tmp_path / "out/run_04/state.pt").exists() and not list((tmp_path / "mine").iterdir())
    assert (tmp_path / "out/kept").exists()


def test_no_notebook_is_no_success(tmp_path, capsys, monkeypatch):
    assert reproduce([], tmp_path / "out") == 2
    monkeypatch.setattr(module, "ROOT", tmp_path)  # an installed package: no notebooks beside it
    assert module.main(["--out", str(tmp_path / "out")]) == 2
    output = capsys.readouterr()
    assert output.err.count("There is no notebook to run") == 2 and "Results" not in output.out
    assert not (tmp_path / "out").exists()


def test_a_real_tower_is_asked_for_first_and_missed_by_nobody(tmp_path, capsys, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    notebook(tmp_path / "notebooks", "00_x", "1 + 1")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "for_the_course", lambda: "No real tower: no network")
    assert module.main(["--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("No real tower: no network\n[1/1] 00_x")


def test_only_names_that_exist_are_accepted(tmp_path, capsys):
    for name in ("00_a", "01_b", "02_c", "scratch"):
        notebook(tmp_path, name, "1")
    assert [p.stem for p in chosen(tmp_path)] == ["00_a", "01_b", "02_c"]
    assert [p.stem for p in chosen(tmp_path, ["02", "00"])] == ["00_a", "02_c"]
    with pytest.raises(ValueError, match="--only 07: no such notebook in .*there are: 00_a, 01_b, 02_c"):
        chosen(tmp_path, ["07"])
    assert module.main(["--only", "nothing"]) == 2 and "--only nothing" in capsys.readouterr().err


def test_results_and_claims_of_one_cell_are_told_apart():
    row = {"statement": "s", "measured": "1", "paper": "", "holds": True}
    cell = new_code_cell("x", metadata={"tags": ["result"]}, outputs=[
        nbformat.v4.new_output("display_data", {MIME: row, "text/html": "<div>row</div>"}),
        nbformat.v4.new_output("display_data", {"text/html": "<table></table>"}),
        nbformat.v4.new_output("stream", name="stderr", text="progress")])
    claims, results = collect(new_notebook(cells=[new_markdown_cell("# Title\n\n## Below\ntext"), cell]))
    assert [c.statement for c in claims] == ["s"]
    assert results == [("Below", {"text/html": "<table></table>"})]


def test_a_run_without_claims_says_so():
    assert "No claim was reached" in render([module.Run("00_a", "A")], {})


def test_a_markdown_table_becomes_a_table():
    shown = _shown({"text/markdown": "| a | b |\n|---|---|\n| 1 | 2 |", "text/plain": "<Markdown object>"}, "heading")
    assert "<td>1</td>" in shown and "Markdown object" not in shown


ATTACKS = ["<img src=x onerror=alert(1)>", "</td></table><script>alert(1)</script>", "<a href='javascript:alert(1)'>x</a>",
           "<!--", "[x](javascript:alert(1))", "[x]( &#106;avascript:alert(1))", "\n\n[x]: javascript:alert(1)\n\n[x]",
           "`<svg onload=alert(1)>`", "<style>*{}</style>", "<b onclick='alert(1)'>x</b>"]


def live(page: str) -> list:
    """What of a page does more than to mark text."""
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.extend(
        [tag] * (tag in ("img", "script", "svg", "style", "iframe")) + [a for a in attributes if a[0].startswith("on") or
                                                                        (a[1] or "").startswith("javascript")])
    parser.handle_comment = found.append
    parser.feed(page)
    return found


@pytest.mark.parametrize("name", ATTACKS)
def test_no_name_reaches_a_page_as_html(name):
    """As class names of a reader's folder would, in the forms in which cells show them."""
    def pages(name: str) -> list[str]:
        table = f"| class |\n|---|\n| {name} |\n"
        run = module.Run("00_a", name, "ran", 1.0, [Claim(name, name, name, True)], [(name, {"text/markdown": table})], name)
        output = nbformat.v4.new_output("display_data", {"text/markdown": table})
        cell = new_code_cell("1", outputs=[output, nbformat.v4.new_output("stream", text=name)])
        shown = [{"text/markdown": table}, {"text/html": f"<table><tr><td>{name}</td></tr></table>"}, {"text/plain": name}]
        return [*(_shown(data, name) for data in shown), render([run], {name: name}),
                module._html(new_notebook(cells=[cell]), run)]

    for page, harmless in zip(pages(name), pages("name"), strict=True):
        assert live(page) == live(harmless), page[:300]
