"""The rules of the house for files: what must be there, how large it may be, what it must not say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(p for p in (ROOT / "i2vlib").rglob("*.py") if p.name != "__init__.py")
TEXTS = {".py", ".md", ".toml", ".txt", ".yml", ".css", ""}


def committed() -> list[Path]:
    """The files that git tracks; in a downloaded archive, all that lie outside of .venv and build."""
    found = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True).stdout.split("\n")
    paths = [ROOT / name for name in found if name] or [
        p for p in ROOT.rglob("*") if not {".venv", "build", ".git"} & set(p.relative_to(ROOT).parts)]
    return [p for p in paths if p.is_file()]


@pytest.mark.parametrize("name", [
    "README.md", "LICENSE", "Makefile", "requirements.txt", "environment.yml", "pyproject.toml", "data/README.md",
    ".ci/run", "notebooks/setup_cell.py",
])
def test_a_stranger_finds(name):
    assert (ROOT / name).stat().st_size > 0


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_module_is_small_documented_and_tested(path):
    text = path.read_text()
    assert text.count("\n") <= 300, "is the cut right?"
    assert text.startswith('"""') and "from __future__ import annotations" in text
    assert path.stem not in {"utils", "helpers", "common", "misc"}
    tests = ROOT / "tests"
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert (tests / path.relative_to(ROOT / "i2vlib").with_name(f"test_{path.name}")).exists() or any(
        re.search(rf"\b{dotted}\b", p.read_text()) for p in tests.rglob("test_*.py")), f"no test imports {dotted}"


# from the ground up: a room imports those below it, never one above; a room in the same line as another leaves it alone
FLOORS = [{"checked", "files"}, {"towers"}, {"config", "layers", "places"}, {"protocol"},
          {"temporal", "adaptation", "compression", "data", "recipes"}, {"other_towers"}, {"presets", "tower"},
          {"training", "insight", "measure", "fetch"}, {"detection", "own_video"}, {"show"}, {"course"}, {"command"}]


def imports(path: Path) -> set[str]:
    """The modules of the library that a file imports, wherever in it the line stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "i2vlib":
            deeper = [f"{node.module}.{name.name}" for name in node.names]
            found |= {d if (ROOT / f"{d.replace('.', '/')}.py").exists() else node.module for d in deeper}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.startswith("i2vlib")}
    return found


def test_arrows_between_rooms_point_down():
    floor = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
    for path in MODULES:
        own = path.relative_to(ROOT / "i2vlib").with_suffix("").parts[0]
        for module in imports(path):
            other = module.split(".")[1]
            assert other == own or floor[other] < floor[own], f"{path.relative_to(ROOT)} imports {module}"


def test_no_module_imports_itself_by_way_of_others():
    graph = {".".join(p.relative_to(ROOT).with_suffix("").parts): imports(p) for p in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_readme_has_a_line_for_every_room():
    lines = re.findall(r"^    (\S.*?)    ?\S", (ROOT / "README.md").read_text(), re.M)
    named = {word.rstrip("/") for line in lines for word in line.split()}
    assert named >= {p.relative_to(ROOT / "i2vlib").with_suffix("").parts[0] for p in MODULES}


def test_no_text_names_a_path_of_a_machine():
    pattern = re.compile(r"/(?:root|work|home/\w+|Users/\w+)/")
    for path in committed():
        if path.suffix in TEXTS:
            found = pattern.search(path.read_text(encoding="utf-8", errors="ignore"))
            assert not found, f"{path.relative_to(ROOT)}: {found.group()}"


def test_nothing_large_is_committed():
    for path in committed():
        assert path.stat().st_size < 4_000_000, f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB"


def requirements(lines: list[str]) -> dict:
    """Name -> the requirement, of lines as in requirements.txt."""
    from packaging.requirements import Requirement

    lines = [line.split(" #")[0].strip() for line in lines]
    return {r.name: r for r in map(Requirement, (line for line in lines if line and line[0] != "#"))}


def test_conda_and_the_course_take_their_list_from_requirements_txt():
    import yaml

    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["dependencies"][-1] == {"pip": ["-r requirements.txt"]}
    assert 'optional-dependencies = { course = { file = ["requirements.txt"] } }' in (ROOT / "pyproject.toml").read_text()


def test_what_a_server_needs_stands_in_both_lists_alike():
    listed = re.search(r"^dependencies = \[\n(.*?)\n\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S).group(1)
    core = requirements(re.findall(r'"(.+)"', listed))
    all_of_it = requirements((ROOT / "requirements.txt").read_text().splitlines())
    assert {"torch", "open_clip_torch", "safetensors", "av", "decord"} <= set(core)
    for name, requirement in core.items():
        assert (requirement.specifier, requirement.marker) == (all_of_it[name].specifier, all_of_it[name].marker), name


def test_a_server_needs_none_of_the_courses_tools():
    """Loads, merges and predicts where every package that only the course asks for cannot be imported."""
    code = f"""
import importlib.metadata, sys
extra = {{d for d in {sorted(set(requirements((ROOT / "requirements.txt").read_text().splitlines())))!r}}}
core = {{"torch", "torchvision", "numpy", "open_clip_torch", "timm", "safetensors", "accelerate", "filelock", "tqdm", "av",
        "decord"}}
for module, homes in importlib.metadata.packages_distributions().items():
    if set(homes) <= extra - core:
        sys.modules[module] = None
import i2vlib as i2v
from i2vlib.own_video import predict
from i2vlib.training.train import train
model = i2v.merge(i2v.load_checkpoint("i2vlib/assets/motion.safetensors"))
info = i2v.checkpoint_info("i2vlib/assets/motion.safetensors")
print(predict(model, "i2vlib/assets/cockatoo.mp4", i2v.ClipConfig.from_dict(info["clip"]), info["class_names"]).best)
assert sys.modules["matplotlib"] is None and sys.modules["ipywidgets"] is None
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip().isdigit(), done.stderr


def test_requirements_leave_the_runtime_of_colab_where_it_is():
    """Colab runs torch 2.11, torchvision 0.26, numpy 2.1, ipywidgets 7.7: our ranges must hold them."""
    ranges = {name: r.specifier for name, r in requirements((ROOT / "requirements.txt").read_text().splitlines()).items()}
    there = {"torch": "2.11.0", "torchvision": "0.26.0", "numpy": "2.1.3", "ipywidgets": "7.7.1"}
    for name, version in there.items():
        assert version in ranges[name], f"{name} {ranges[name]} would move Colab's {version}"


def test_make_without_a_target_explains_itself():
    text = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True).stdout
    for target in ("reproduce", "test", "lab", "bench", "experiments", "experiments-real", "badges", "clean"):
        assert f"make {target}" in text


def test_every_module_of_the_library_is_packaged():
    """setuptools takes only folders with an __init__.py; assets and style sheets ride as package data."""
    for folder in {p.parent for p in MODULES}:
        assert (folder / "__init__.py").exists(), folder
    assert 'i2vlib = ["assets/*", "course/*.css"]' in (ROOT / "pyproject.toml").read_text()


def test_the_page_on_data_tells_of_the_embedded_tasks_as_they_are():
    from i2vlib.data.mini import TASKS

    page = (ROOT / "data/README.md").read_text()
    for name, task in TASKS.items():
        assert f"| `{name}` | {task.frames} | {len(task.class_names)} |" in page


def test_the_readme_has_no_blank_left_to_fill():
    assert not re.search(r"@[A-Z]+@", (ROOT / "README.md").read_text())
