from __future__ import annotations

import os
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

from i2vlib.course import environment
from i2vlib.course.environment import (
    DEVELOPMENT,
    ROOT,
    SetupError,
    install_missing,
    make_venv,
    missing_requirements,
    set_repository,
)


@pytest.fixture
def pip(monkeypatch):
    """Pretend to be in Colab; record what pip is asked for, with the text of its constraints file."""
    calls = []

    def run(command, **_):
        constraints = Path(command[command.index("-c") + 1]).read_text().split()
        calls.append((command[command.index("-c") + 2:], constraints))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(environment.subprocess, "run", run)
    return calls


def test_outside_of_colab_nothing_is_installed(monkeypatch):
    monkeypatch.setattr(environment.subprocess, "run", lambda *a, **k: pytest.fail("pip was called"))
    assert install_missing(ROOT) == []


def test_in_colab_only_what_is_missing_is_installed_and_the_runtime_is_frozen(pip, tmp_path):
    (tmp_path / "requirements.txt").write_text("torch>=2\nno-such-package-a>=1,<2  # why\n# a comment\nruff\n")
    assert install_missing(tmp_path) == ["no-such-package-a<2,>=1"]
    ((asked, constraints),) = pip
    assert asked == ["no-such-package-a<2,>=1"]
    import numpy
    import torch
    assert f"torch=={torch.__version__.split('+')[0]}" in {c.split("+")[0] for c in constraints}
    assert f"numpy=={numpy.__version__}" in constraints


def test_in_colab_with_everything_there_pip_is_not_called(pip, tmp_path):
    (tmp_path / "requirements.txt").write_text("torch>=2\nnumpy\n")
    assert install_missing(tmp_path) == [] and pip == []


def test_markers_and_development_tools_are_left_out():
    text = "no-such-a; python_version < '3'\nno-such-b; python_version >= '3'\njupyterlab\nnbval\n"
    assert missing_requirements(text) == ["no-such-b"]


def test_this_environment_has_every_requirement():
    assert missing_requirements((ROOT / "requirements.txt").read_text()) == []


def test_a_failing_pip_is_reported_with_its_words(monkeypatch, tmp_path):
    (tmp_path / "requirements.txt").write_text("no-such-package-a\n")
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(environment.subprocess, "run",
                        lambda c, **_: subprocess.CompletedProcess(c, 1, "", "ERROR: No matching distribution"))
    with pytest.raises(SetupError, match="no-such-package-a beside torch==(.|\n)*No matching distribution"):
        install_missing(tmp_path)


@pytest.fixture
def venv(tmp_path, monkeypatch):
    """A venv folder whose `python -m venv` is a stub, and the list of pip's calls; `fail` makes the n-th one raise."""
    folder, calls = tmp_path / "venv", types.SimpleNamespace(pip=[], made=0, fail=None, error=KeyboardInterrupt())

    def fake_run(command, **_):
        if "venv" in command:
            calls.made += 1
            (folder / "bin").mkdir(parents=True, exist_ok=True)
            (folder / "bin" / "python").write_text("")
        return subprocess.CompletedProcess(command, 0, "", "")

    def fake_pip(command, log, start):
        calls.pip.append(command)
        if len(calls.pip) == calls.fail:
            raise calls.error

    monkeypatch.setattr(environment.subprocess, "run", fake_run)
    monkeypatch.setattr(environment, "_run", fake_pip)
    return folder, calls


@pytest.fixture
def stamped(tmp_path, monkeypatch):
    """The files that an environment is made from, in a folder of the test's own."""
    for name in environment.STAMPED:
        (tmp_path / name).write_text("first\n")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    return tmp_path


def test_an_environment_is_left_alone_while_contents_are_the_same(venv, stamped):
    folder, calls = venv
    make_venv(folder)
    done = len(calls.pip)
    os.utime(stamped / "requirements.txt")  # a checkout, a copy: newer, and the same
    make_venv(folder)
    assert done == 3 and len(calls.pip) == done and calls.made == 1
    (stamped / "pyproject.toml").write_text("second\n")
    make_venv(folder)
    assert calls.pip[done:] == [[*calls.pip[done][:-3], "--no-deps", "-e", str(stamped)]]


def test_a_working_environment_goes_on_where_pip_fails(venv, stamped, capsys, monkeypatch):
    folder, calls = venv
    make_venv(folder)
    stamp = (folder / ".ready").read_text()
    (stamped / "requirements.txt").write_text("no-such-package>=9\n")

    def offline(*_):
        raise SetupError("Temporary failure in name resolution")

    with monkeypatch.context() as patch:
        patch.setattr(environment, "_run", offline)
        patch.setattr(environment, "_not_met", lambda python: ["no-such-package>=9"])
        make_venv(folder)
    said = capsys.readouterr().err
    assert "name resolution" in said and "requirements.txt changed" in said and "Not met: no-such-package>=9" in said
    assert (folder / ".ready").read_text() == stamp and calls.made == 1  # so the next call tries again
    make_venv(folder)
    assert (folder / ".ready").read_text() != stamp


def test_a_first_installation_that_fails_is_an_error(venv, stamped):
    folder, calls = venv
    calls.fail, calls.error = 2, SetupError("no network")
    with pytest.raises(SetupError, match="no network"):
        make_venv(folder)
    assert not (folder / ".ready").exists()


def test_lines_that_are_not_met_are_found_by_name_version_and_marker(stamped):
    (stamped / "requirements.txt").write_text(
        "# tools\npytest>=7  # why\npytest<1\nno-such-package\nno-such-other; python_version < '3'\n")
    assert environment._not_met(Path(sys.executable)) == ["pytest<1", "no-such-package"]


def test_an_interrupted_environment_is_made_again_and_a_finished_one_is_updated_in_place(venv, stamped):
    folder, calls = venv
    calls.fail = 2
    with pytest.raises(KeyboardInterrupt):
        make_venv(folder)
    assert not (folder / ".ready").exists() and calls.made == 1
    make_venv(folder)
    assert (folder / ".ready").exists() and calls.made == 2  # half-made: again from nothing
    (stamped / "requirements.txt").write_text("second\n")
    make_venv(folder)
    assert calls.made == 2  # finished: only pip runs


def test_an_update_that_is_interrupted_is_done_again_by_the_next_call(venv, stamped):
    folder, calls = venv
    make_venv(folder)
    (stamped / "requirements.txt").write_text("second\n")
    calls.fail = len(calls.pip) + 1
    with pytest.raises(KeyboardInterrupt):
        make_venv(folder)
    assert (folder / ".ready").exists() and calls.made == 1
    make_venv(folder)
    assert calls.made == 1 and len(calls.pip) == 5


def test_pips_words_reach_the_reader_when_it_fails(tmp_path):
    with open(tmp_path / "log", "w") as log, pytest.raises(SetupError, match="no wheel for you"):
        environment._run([sys.executable, "-c", "print('no wheel for you'); raise SystemExit(1)"], log, 0.0)


@pytest.mark.parametrize("line, shown", [
    ("Downloading torch-2.15.0-cp311-cp311-manylinux_2_28_x86_64.whl (812.3 MB)\n", "downloading torch, 812.3 MB"),
    ("  Using cached nvidia_cublas-13.4.1.3-py3-none-any.whl (1.2 GB)\n", "using cached nvidia_cublas, 1.2 GB"),
    ("Downloading tqdm-4.70.1-py3-none-any.whl (78 kB)\n", ""),
    ("Downloading pillow-13.0.0-cp311.whl (7.0 MB)\n", ""),
    ("Installing collected packages: a, b, c\n", "unpacking 3 packages"),
    ("Requirement already satisfied: numpy\n", ""),
])
def test_only_the_long_steps_are_shown(line, shown):
    assert environment._worth_showing(line) == shown


def test_one_command_points_badges_and_setup_cells_at_a_fork(tmp_path):
    (tmp_path / "notebooks").mkdir()
    setup, nb = tmp_path / "notebooks/setup_cell.py", tmp_path / "notebooks/00_x.ipynb"
    setup.write_text('clone("https://github.com/OWNER/REPO")\n')
    nb.write_text('"https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/00_x.ipynb", '
                  '"https://github.com/OWNER/REPO", "https://github.com/OWNER/REPO-other"')
    assert set_repository("you/fork", tmp_path) == [setup, nb]
    assert nb.read_text() == ('"https://colab.research.google.com/github/you/fork/blob/main/notebooks/00_x.ipynb", '
                              '"https://github.com/you/fork", "https://github.com/OWNER/REPO-other"')
    assert set_repository("me/again", tmp_path) == [setup, nb] and "me/again" in setup.read_text()
    with pytest.raises(ValueError, match="owner/name"):
        set_repository("https://github.com/you/fork", tmp_path)


def test_the_setup_cell_needs_none_of_the_packages_that_it_installs():
    """Colab has no open_clip, decord, av or accelerate when the first cell runs."""
    import subprocess
    import sys

    code = ("import sys\n"
            "for name in ('torch', 'open_clip', 'decord', 'av', 'accelerate', 'safetensors', 'numpy'): sys.modules[name] = None\n"
            "from i2vlib.course.environment import install_missing\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there():
    import i2vlib

    assert all(getattr(i2vlib, name) is not None for name in i2vlib.__all__)
    assert i2vlib.temporal.shift_heads and i2vlib.data.__name__ == "i2vlib.data"


# ---- Colab, for real: its versions in an environment of its own, the setup cell run there, pip freeze before and after ----

# Reported for Colab in August 2026: torch, torchvision, numpy, matplotlib 3.10, ipywidgets, timm. The versions of the rest are
# assumed, read from no runtime. METADATA is what is large: pip sees its names and versions, but not what it requires itself.
METADATA = {"torch": "2.11.0+cu128", "torchvision": "0.26.0", "timm": "1.0.28", "opencv-python": "4.12.0.88",
            "opencv-python-headless": "4.12.0.88", "scikit-learn": "1.6.1", "scipy": "1.16.2", "matplotlib": "3.10.0",
            "tensorboard": "2.19.0", "accelerate": "1.10.1", "pillow": "11.3.0"}
INSTALLED = {"numpy": "2.1.3", "ipywidgets": "7.7.1", "ipykernel": "6.17.1", "ipython": "7.34.0", "tqdm": "4.67.1",
             "safetensors": "0.6.2", "packaging": "25.0", "nbconvert": "7.16.6"}
CELL = """
import sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
exec(open(sys.argv[1]).read())
from i2vlib.course.environment import missing_requirements
print("still missing:", missing_requirements((root / "requirements.txt").read_text()))
"""


class Colab:
    """A virtual environment and its pip. Nothing of this process's settings for Python reaches it."""

    def __init__(self, folder: Path):
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.python = folder / "bin" / "python"
        self.packages = next(folder.glob("lib/python*/site-packages"))

    def run(self, *arguments, cwd: Path | None = None, **variables) -> subprocess.CompletedProcess:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return subprocess.run([self.python, *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
                              env={**kept, "PYTHONDONTWRITEBYTECODE": "1", "PIP_NO_COMPILE": "1", **variables})

    def pip(self, *arguments) -> str:
        done = self.run("-m", "pip", *arguments)
        assert done.returncode == 0, f"pip {arguments}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def freeze(self) -> set[str]:
        return set(self.pip("freeze", "--all").split("\n")) - {""}

    def pretend(self, name: str, version: str) -> None:
        """Installed for pip, though nothing of it is there but its name and version."""
        info = self.packages / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "INSTALLER").write_text("pip\n")
        (info / "RECORD").write_text("".join(f"{info.name}/{file},,\n" for file in ("METADATA", "INSTALLER", "RECORD")))


@pytest.fixture
def colab(tmp_path):
    folder = tmp_path / "colab"
    yield Colab(folder)
    shutil.rmtree(folder)  # half a gigabyte


def wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """A package without a file, for pip to choose or to leave."""
    info = f"{name}-{version}.dist-info"
    need = f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{need}")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def test_the_setup_cell_takes_an_older_release_rather_than_move_colabs_runtime(colab, tmp_path):
    """Without a network: of each missing package the newest release wants more than Colab has of one frozen package."""
    import packaging

    index, repo, there = tmp_path / "index", tmp_path / "repo", METADATA | INSTALLED
    for folder in (index, repo / "i2vlib" / "course"):
        folder.mkdir(parents=True)
    shutil.copytree(Path(packaging.__file__).parent, colab.packages / "packaging")  # Colab has it; this one has no index
    shutil.copy(environment.__file__, repo / "i2vlib" / "course" / "environment.py")
    for name in environment.FROZEN:
        colab.pretend(name, there[name])
        wheel(index, name, "99.0")
        wheel(index, f"wants_{name}", "1.0", name)
        wheel(index, f"wants_{name}", "2.0", f"{name}>=99")
    (repo / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "setup_cell.py", repo / "notebooks")
    (repo / "requirements.txt").write_text("".join(f"{name}\nwants_{name}\n" for name in environment.FROZEN))
    before = colab.freeze()
    done = colab.run("-c", CELL, ROOT / "notebooks" / "setup_cell.py", cwd=repo, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(index))
    assert done.returncode == 0, done.stderr
    assert colab.freeze() - before == {f"wants_{name}==1.0" for name in environment.FROZEN} and before <= colab.freeze()


def test_the_setup_cell_completes_colabs_environment_and_moves_nothing_in_it(colab):
    """From a package index, with real installations; about a minute. No index, or no numpy of Colab's there: skipped."""
    found = colab.run("-m", "pip", "index", "versions", "numpy", "--only-binary", ":all:", "--retries", "1", "--timeout", "10")
    if found.returncode:
        assert "No matching distribution" in found.stderr, found.stderr
        pytest.skip("no package index answers: " + (found.stderr.strip().splitlines() or ["no word"])[-1])
    if INSTALLED["numpy"] not in found.stdout.replace(",", " ").split():
        pytest.skip(f"numpy {INSTALLED['numpy']}, Colab's, has no wheel for Python {sys.version.split()[0]} on this machine")
    for name, version in METADATA.items():
        colab.pretend(name, version)
    colab.pip("install", "-q", "--only-binary", ":all:", *(f"{name}=={version}" for name, version in INSTALLED.items()))
    before = colab.freeze()
    assert {f"{name}=={version}" for name, version in (METADATA | INSTALLED).items()} <= before
    done = colab.run("-c", CELL, ROOT / "notebooks" / "setup_cell.py", cwd=ROOT / "notebooks")
    assert done.returncode == 0, done.stderr
    assert "installed: open_clip_torch" in done.stdout and "still missing: []" in done.stdout
    after = colab.freeze()
    assert before <= after, f"moved in Colab: {sorted(before - after)}"
    names = {line.split("==")[0].lower().replace("-", "_") for line in after - before}
    assert {"open_clip_torch", "av", "grad_cam", "papermill"} <= names
    assert not {name.replace("-", "_") for name in DEVELOPMENT} & names, names
    used = colab.run("-c", "import av, papermill, numpy; assert numpy.arange(3).sum() == 3")
    assert used.returncode == 0, used.stderr
