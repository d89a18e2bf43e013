from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from i2vlib import environment
from i2vlib.environment import ROOT, SetupError, install_missing, make_venv, missing_requirements, set_repository


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
    folder, calls = tmp_path / "venv", types.SimpleNamespace(pip=[], made=0, fail=None)

    def fake_run(command, **_):
        if "venv" in command:
            calls.made += 1
            (folder / "bin").mkdir(parents=True, exist_ok=True)
            (folder / "bin" / "python").write_text("")
        return subprocess.CompletedProcess(command, 0, "", "")

    def fake_pip(command, log, start):
        calls.pip.append(command)
        if len(calls.pip) == calls.fail:
            raise KeyboardInterrupt

    monkeypatch.setattr(environment.subprocess, "run", fake_run)
    monkeypatch.setattr(environment, "_run", fake_pip)
    return folder, calls


def test_an_interrupted_environment_is_made_again_and_a_finished_one_is_updated_in_place(venv):
    folder, calls = venv
    calls.fail = 2
    with pytest.raises(KeyboardInterrupt):
        make_venv(folder)
    assert not (folder / ".ready").exists() and calls.made == 1
    make_venv(folder)
    assert (folder / ".ready").exists() and calls.made == 2  # half-made: again from nothing
    make_venv(folder)
    assert calls.made == 2  # finished: only pip runs


def test_an_update_that_is_interrupted_takes_the_stamp_away(venv):
    folder, calls = venv
    make_venv(folder)
    calls.fail = len(calls.pip) + 1
    with pytest.raises(KeyboardInterrupt):
        make_venv(folder)
    assert not (folder / ".ready").exists()


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
            "from i2vlib.environment import install_missing\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there():
    import i2vlib

    assert all(getattr(i2vlib, name) is not None for name in i2vlib.__all__)
    assert i2vlib.temporal.shift_heads and i2vlib.data.__name__ == "i2vlib.data"
