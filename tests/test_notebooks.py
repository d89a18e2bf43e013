"""The rules of the house for every notebook, and the training notebooks at small parameters.

The other notebooks are executed by nbval in the same pytest call: see `make test`.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import statistics
from pathlib import Path

import nbformat
import pytest
import torch
from safetensors.torch import load_file, save_file

from i2vlib.data.video import write_clip
from i2vlib.own_video import tower_at_hand
from i2vlib.tower.checkpoints import checkpoint_info
from i2vlib.tower.weights import MINI_TOWER

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SETUP = (ROOT / "notebooks" / "setup_cell.py").read_text().strip()
REPOSITORY = re.search(r"https://github\.com/([\w.-]+/[\w.-]+)", SETUP).group(1)
MACHINE_PATHS = re.compile(r"/(?:root|work|tmp|home/\w+|Users/\w+)/|[A-Z]:\\\\Users")

# Training notebooks, kept out of nbval in the Makefile: the parameters that make them quick.
SMALL = {"04": {"steps": 12, "seed": 3}, "06": {"steps": 12, "seed": 1}}
# The others, with parameters that their text offers and that break a claim: the cheap part of tests/grid.py.
OFFERED = {"03": {"seed": 3, "adapter_size": 1.5}, "05": {"clips": 2}, "13": {"seed": 3, "fit_steps": 4}}


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


def open_code(notebook) -> list:
    """What a reader meets: the code cells without the setup, solutions, and figures' code that is folded."""
    return [c for c in code_cells(notebook)[1:] if not {"solution", "figure"} & set(tags(c))]


def prose_of(notebook) -> str:
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def sections(notebook) -> dict[str, str]:
    """The prose under each heading of second order, by that heading."""
    parts = re.split(r"^## (.+)$", prose_of(notebook), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


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


def test_the_check_of_the_parameters_knows_their_defaults(notebook):
    """claim() goes by what check_parameters notes: it must be told the very values of the parameters cell."""
    cells = code_cells(notebook)
    defaults: dict = {}
    exec(next(c.source for c in cells if "parameters" in tags(c)), defaults)
    call = next(node for c in cells for node in ast.walk(ast.parse(re.sub(r"^[%!].*$", "", c.source, flags=re.MULTILINE)))
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("check_parameters"))
    told = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    assert told == {k: v for k, v in defaults.items() if not k.startswith("__")}


def test_code_cells_are_short(notebook):
    sizes = {c.id: lines(c) for c in code_cells(notebook)[1:]}  # the setup cell has a limit of its own
    assert max(sizes.values()) <= 25, {k: v for k, v in sizes.items() if v > 25}
    sizes = sorted(map(lines, open_code(notebook)))
    assert statistics.median(sizes) <= 6, sizes


def test_says_how_long_it_takes_what_one_can_do_then_and_where_to_go(notebook):
    """200 words and 10 lines of open code a minute; folded answers are not counted."""
    first, words = notebook.cells[0].source, re.sub(r"<details>.*?</details>", "", prose_of(notebook), flags=re.DOTALL).split()
    told = re.search(r"\*\*(\d+) minutes\.\*\* Afterwards you can:\n\n(?:- .+\n?){2,4}", first)
    assert told, "the first cell says **N minutes.** Afterwards you can: and two to four points"
    counted = len(words) / 200 + sum(map(lines, open_code(notebook))) / 10
    assert abs(counted - int(told[1])) <= 3 and counted <= 47, f"{counted:.0f} minutes"
    assert re.search(r"\*\*Next:\*\* ", sections(notebook)["What was learned"])


ASIDE = re.compile("What was learned|Where this comes from|Exercises|How to read this|The letters|The parameters|This machine")


def test_each_section_closes_with_what_to_take_home(notebook):
    missing = [name for name, text in sections(notebook).items()
               if not ASIDE.fullmatch(name) and len(re.findall(r"^> \*\*Take home\.\*\* ", text, re.MULTILINE)) != 1]
    assert not missing


def test_says_where_it_comes_from(notebook):
    box = sections(notebook)["Where this comes from"]
    assert len(re.findall(r"\]\(https://", box)) >= 2 and len(box.split()) <= 200


def test_code_that_draws_is_folded(notebook):
    for cell in code_cells(notebook)[1:]:
        if "figure" in tags(cell):
            assert cell.source.startswith("# Figure: ") and cell.metadata.get("cellView") == "form"
            assert cell.metadata.get("jupyter") == {"source_hidden": True}
        elif "solution" not in tags(cell):
            drawing = len(re.findall(r"\b(?:axis|axes|axs?|plt|figure|fig)\b(?:\[.*?\])*\.", cell.source))
            assert drawing <= 5, f"{drawing} lines that draw stand open:\n{cell.source}"


READING = ("09", "10", "12")  # these read results: their exercises ask questions of them


def test_two_exercises_ask_for_a_function_that_a_cell_checks(notebook):
    if Path(notebook.metadata.path).name[:2] in READING:
        return
    tries = [c for c in code_cells(notebook) if re.search(r"^attempt\(\w+, \w+\)$", c.source, re.MULTILINE)]
    assert len(tries) >= 2 and all("raise NotImplementedError" in c.source for c in tries)
    for cell in tries:
        check, name = re.search(r"^attempt\((\w+), (\w+)\)$", cell.source, re.MULTILINE).groups()
        solved = [c for c in code_cells(notebook) if "solution" in tags(c) and f"def {name}(" in c.source]
        assert len(solved) == 1 and f"{check}({name})" in solved[0].source


def test_letters_mean_what_the_map_of_symbols_says(notebook):
    """Tables with a column `letter` consist of rows of notebooks/symbols.md."""
    known = (ROOT / "notebooks" / "symbols.md").read_text(encoding="utf-8").splitlines()
    for table in re.findall(r"^\| letter \|.*\n\|.*\n((?:\|.*\n?)+)", prose_of(notebook), re.MULTILINE):
        for row in table.splitlines():
            cells = row.split(" | ")  # a notebook may add columns of its own
            assert any(line.startswith(" | ".join(cells[:2]).removesuffix(" |")) for line in known), row


def test_the_setup_cell_is_short():
    assert len(SETUP.splitlines()) <= 16


def test_prose_carries_the_code(notebook):
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    cells = [c for c in code_cells(notebook)[1:] if "figure" not in tags(c)]  # nor the setup that all share
    code = "\n".join(c.source for c in cells)
    count = sum(map(lines, cells))
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
    for cell in solutions:  # JupyterLab shows a folded cell's first line; Colab folds what is a form
        assert cell.source.startswith("# Solution\n") and cell.execution_count and cell.metadata.get("cellView") == "form"
        assert cell.metadata.get("jupyter") == {"source_hidden": True, "outputs_hidden": True}
    behind = [c.source for c in notebook.cells[notebook.cells.index(solutions[0]):] if c.cell_type == "markdown"]
    assert all(re.match(r"\*\*\d\.\*\*|<details>", text) for text in behind), "an answer in the open"

def test_the_map_of_symbols_leads_to_sections_and_names_that_exist():
    text = (ROOT / "notebooks" / "symbols.md").read_text(encoding="utf-8").split("## Equations")[1]
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("|") and "`" in row]
    assert len(rows) >= 12
    for *_, where, names in rows:
        number, _, section = where.partition(", ")
        headings = [re.sub(r"^#+ (?:\d+\. )?", "", line) for line in prose_of(nbformat.read(named(number), 4)).splitlines()
                    if line.startswith("##")]
        assert section in headings, f"{where}: {headings}"
        for name in re.findall(r"`([\w.]+)`", names):
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


def execute(path: Path, tmp_path: Path, **parameters) -> list[dict]:
    """Run a notebook through papermill; its claims as JSON."""
    import papermill

    from i2vlib.course.claims import MIME

    papermill.execute_notebook(str(path), str(tmp_path / path.name), parameters, cwd=str(path.parent), progress_bar=False)
    cells = nbformat.read(tmp_path / path.name, 4).cells
    return [o.data[MIME] for c in cells for o in c.get("outputs", []) if MIME in o.get("data", {})]


def named(number: str) -> Path:
    return next(p for p in PATHS if p.name.startswith(number))


@pytest.fixture
def readers_claims(monkeypatch):
    """As for a reader: a claim that other parameters break turns amber."""
    monkeypatch.setenv("I2V_CLAIMS", "")


@pytest.fixture(params=list(SMALL))
def training(request):
    return named(request.param)


def test_a_training_notebook_runs_at_small_parameters(training, tmp_path, readers_claims):
    parameters = SMALL[training.name[:2]]
    claims = execute(training, tmp_path, out=str(tmp_path / "run"), **parameters)
    amber = [c for c in claims if not c["holds"]]  # twelve steps teach nothing
    assert all(c["changed"].startswith("steps = 12, seed = ") for c in amber) and any(c.get("default") for c in amber)
    settings, metrics = (json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("settings", "metrics"))
    assert (settings["train"]["steps"], settings["train"]["seed"]) == (12, parameters["seed"]) and settings["versions"]["torch"]
    assert metrics["test"]["clips"] == 384 and [v["step"] for v in metrics["validation"]] == [3, 6, 9, 12]
    assert metrics["summary"]["best"]["step"] in (3, 6, 9, 12) and (tmp_path / "run/best.safetensors").exists()


@pytest.mark.parametrize("number", OFFERED)
def test_a_notebook_goes_on_where_offered_parameters_break_a_claim(number, tmp_path, readers_claims):
    claims = execute(named(number), tmp_path, **OFFERED[number])
    amber = [c for c in claims if not c["holds"]]
    assert all(c["changed"] for c in amber) and (number in ("03", "13") or any(c.get("default") for c in amber))


@pytest.mark.parametrize("wrong", [{"no_such_parameter": 1}, {"steps": "many"}])
def test_a_training_notebook_refuses_unknown_and_ill_typed_parameters(training, tmp_path, wrong):
    from papermill import PapermillExecutionError

    with pytest.raises(PapermillExecutionError, match=f"ConfigError(.|\n)*{next(iter(wrong))}"):
        execute(training, tmp_path, out=str(tmp_path / "run"), **wrong)


@pytest.fixture(scope="module")
def own_clips(tmp_path_factory) -> Path:
    """36 small clips of 3 classes, class/clip.mp4, that are none of the course's: a bar that gets brighter, darker, or stays."""
    folder = tmp_path_factory.mktemp("own")
    g = torch.Generator().manual_seed(0)
    for name, change in (("brighter", 120), ("darker", -120), ("stays", 0)):
        (folder / name).mkdir()
        for i in range(12):
            clip = torch.randint(40, 60, (6, 40, 56, 3), generator=g, dtype=torch.uint8)
            bar = 128 + torch.linspace(-0.5, 0.5, 6) * change
            clip[:, 10:30, 8 + i:24 + i] = bar[:, None, None, None].to(torch.uint8)
            write_clip(folder / name / f"{i:02d}.mp4", clip)
    return folder


def test_notebook_04_takes_a_miniature_preset_with_lists_of_ones_own(own_clips, tmp_path, readers_claims):
    lines = [f"{p.relative_to(own_clips)} {label}" for label, name in enumerate(("brighter", "darker", "stays"))
             for p in sorted((own_clips / name).iterdir())]
    given = {"data_root": str(own_clips)}
    for name, chosen in (("train", lines[0::3] + lines[1::3]), ("val", lines[2::6]), ("test", lines[5::6])):
        (tmp_path / f"{name}.txt").write_text("\n".join(chosen) + "\n")
        given[f"{name}_list"] = str(tmp_path / f"{name}.txt")
    file = tmp_path / "tower.safetensors"  # of weights that do not say which GELU
    save_file({k: v.contiguous() for k, v in load_file(MINI_TOWER).items()}, file)
    claims = execute(named("04"), tmp_path, out=str(tmp_path / "run"), steps=3, batch_size=8, validate_every=1,
                     weights=str(file), quick_gelu=False, **given)
    said = [c["statement"] for c in claims]
    assert not any("of the test clips" in s or s.startswith("negative control") for s in said), said
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["test"]["tested"] == "the clips of test_list" and metrics["test"]["clips"] == 6
    assert [v["step"] for v in metrics["validation"]] == [1, 2, 3]
    assert checkpoint_info(tmp_path / "run/merged.safetensors")["config"]["classes"] == 3


def test_notebook_12_says_so_and_stops_well_where_no_tower_is(tmp_path):
    assert execute(named("12"), tmp_path, tower="none") == []
    said = (tmp_path / named("12").name).read_text()
    assert "The rest of this notebook is skipped" in said and "i2vlib.fetch saliency-vit-s14" in said


@pytest.mark.skipif(tower_at_hand() != "saliency-vit-s14", reason="needs python -m i2vlib.fetch saliency-vit-s14")
def test_notebook_12_runs_at_small_parameters(tmp_path, readers_claims):
    claims = execute(named("12"), tmp_path, out=str(tmp_path / "run"), steps=4, seed=1)
    amber = [c for c in claims if not c["holds"]]
    assert amber and all(c["changed"] == "steps = 4, seed = 1" for c in amber)
    assert any(c["holds"] and c["statement"].startswith("no offsets") for c in claims)


def test_notebook_11_makes_no_claim_about_the_courses_data_of_a_folder_of_ones_own(own_clips, tmp_path, readers_claims):
    claims = execute(named("11"), tmp_path, out=str(tmp_path / "run"), folder=str(own_clips), steps=3)
    said = [c["statement"] for c in claims]
    assert not any(s.startswith(("negative control", "four new classes")) for s in said), said
    assert checkpoint_info(tmp_path / "run/mine.safetensors")["class_names"] == ["brighter", "darker", "stays"]
