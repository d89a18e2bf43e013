"""The rules of the house for every notebook, and the training notebooks at small parameters.

The other notebooks are executed by nbval in the same pytest call: see `make test`.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SETUP = (ROOT / "notebooks" / "setup_cell.py").read_text().strip()
REPOSITORY = re.search(r"https://github\.com/([\w.-]+/[\w.-]+)", SETUP).group(1)
MACHINE_PATHS = re.compile(r"/(?:root|work|tmp|home/\w+|Users/\w+)/|[A-Z]:\\\\Users")

# Training notebooks, kept out of nbval in the Makefile: the parameters that make them quick.
SMALL = {"04": {"steps": 12}, "06": {"steps": 12, "benchmark_rounds": 0}}


@pytest.fixture(params=PATHS, ids=lambda p: p.stem)
def notebook(request):
    nb = nbformat.read(request.param, 4)
    nb.metadata["path"] = str(request.param)
    return nb


def code_cells(notebook) -> list:
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def lines(cell) -> int:
    """Lines of code without blank ones."""
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def test_every_notebook_has_its_own_number_and_stands_on_the_map_of_00():
    """Notebooks may be missing while the course is being written; their numbers and questions are fixed by 00's map."""
    start = "\n".join(c.source for c in nbformat.read(PATHS[0], 4).cells)
    course = re.search(r'course = """(.+?)"""', start, re.DOTALL).group(1).splitlines()
    numbers = [p.name[:3] for p in PATHS]
    assert numbers == sorted(set(numbers)) and PATHS[0].name == "00_start_here.ipynb"
    for path in PATHS:
        name, question = course[int(path.name[:2])].split("|")
        assert path.stem[3:].lower() == re.sub(r"\W+", "_", name.lower())
        assert nbformat.read(path, 4).cells[0].source.splitlines()[0].endswith(f"· {question}")


def test_is_a_valid_notebook_for_a_plain_python_kernel(notebook):
    path = notebook.metadata.pop("path")
    nbformat.validate(notebook)
    assert notebook.nbformat == 4 and notebook.metadata.kernelspec.name == "python3"
    assert all("id" in c for c in notebook.cells), path


def test_opens_with_its_question_and_a_colab_badge(notebook):
    name = Path(notebook.metadata.path).name
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    badge = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{name}"
    assert badge in first.source + notebook.cells[1].source


def test_has_the_shared_setup_cell_and_one_parameters_cell_in_that_order(notebook):
    cells = code_cells(notebook)
    assert cells[0].source.strip() == SETUP, "the first code cell is not notebooks/setup_cell.py"
    found = [i for i, c in enumerate(cells) if "parameters" in tags(c)]
    assert len(found) == 1, f"{len(found)} cells are tagged `parameters`"
    assert any("check_parameters(" in c.source for c in cells[found[0]:]), "the parameters are not checked"


def test_code_cells_are_short(notebook):
    sizes = {c.id: lines(c) for c in code_cells(notebook)[1:]}  # the setup cell has its own limit
    assert max(sizes.values()) <= 25, {k: v for k, v in sizes.items() if v > 25}
    assert statistics.median(sizes.values()) <= 8, sorted(sizes.values())


def test_the_setup_cell_is_short():
    assert len(SETUP.splitlines()) <= 16


def test_prose_carries_the_code(notebook):
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    code = "\n".join(c.source for c in code_cells(notebook))
    count = sum(map(lines, code_cells(notebook)))
    assert len(prose.split()) >= 3 * count, f"{len(prose.split())} words for {count} lines of code"
    assert len(prose) >= len(code), f"{len(prose)} characters of prose for {len(code)} of code"


def test_displayed_formulas_are_paragraphs_of_their_own(notebook):
    prose = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    glued = re.findall(r"[^\n]\n\$\$.*|.*\$\$\n[^\n]", prose)
    assert not glued, f"the site's Markdown wants empty lines around {glued}"


def test_stands_by_what_it_says(notebook):
    assert any(re.search(r"^\s*assert |\bclaim\(", c.source, re.MULTILINE) for c in code_cells(notebook)[1:])


def test_outputs_are_committed_whole_and_small(notebook):
    cells = code_cells(notebook)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1)), "run it whole in a fresh kernel"
    assert any(c.outputs for c in cells)
    outputs = json.dumps([c.outputs for c in cells])
    assert '"output_type": "error"' not in outputs and "Traceback" not in outputs
    assert len(outputs) < 3_000_000, f"{len(outputs) / 1e6:.1f} MB of outputs"


def test_names_no_path_of_a_machine(notebook):
    text = json.dumps([[c.source, c.get("outputs", [])] for c in notebook.cells if c.source.strip() != SETUP])
    assert not (found := MACHINE_PATHS.search(text)), text[max(0, found.start() - 60):found.end() + 60]


def test_carries_no_trace_of_an_automatic_run(notebook):
    """papermill writes its own paths and an injected cell into what it executes: commit a copy run in place."""
    assert "papermill" not in notebook.metadata
    assert not any("injected-parameters" in tags(c) or "papermill" in c.metadata for c in notebook.cells)


def test_ends_with_what_was_learned_and_folded_executed_solutions(notebook):
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    learned, exercises = (re.search(p, prose, re.MULTILINE | re.IGNORECASE)
                          for p in (r"^#+ what was learned", r"^#+ exercises"))
    assert learned and exercises and learned.start() < exercises.start()
    solutions = [c for c in code_cells(notebook) if "solution" in tags(c)]
    assert 3 <= len(solutions) <= 5
    for cell in solutions:
        assert cell.metadata.get("jupyter", {}).get("source_hidden") is True and cell.execution_count


def execute(path: Path, tmp_path: Path, **parameters) -> None:
    import papermill

    papermill.execute_notebook(str(path), str(tmp_path / path.name), {"out": str(tmp_path / "run"), **parameters},
                               cwd=str(path.parent), progress_bar=False)


@pytest.fixture(params=[p for p in PATHS if p.name[:2] in SMALL], ids=lambda p: p.stem)
def training(request):
    return request.param


def test_a_training_notebook_runs_at_small_parameters(training, tmp_path):
    execute(training, tmp_path, **SMALL[training.name[:2]])
    assert any((tmp_path / "run").iterdir()), "nothing was written to `out`"


@pytest.mark.parametrize("wrong", [{"no_such_parameter": 1}, {"steps": "many"}])
def test_a_training_notebook_refuses_unknown_and_ill_typed_parameters(training, tmp_path, wrong):
    from papermill import PapermillExecutionError

    with pytest.raises(PapermillExecutionError, match=f"ConfigError(.|\n)*{next(iter(wrong))}"):
        execute(training, tmp_path, **wrong)
