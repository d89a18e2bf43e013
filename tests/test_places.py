"""i2vlib.places: the repository's folder, or the cache where that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from i2vlib import places
from i2vlib.data.mini import mini_data


@pytest.fixture
def course(tmp_path, monkeypatch):
    (tmp_path / "course" / "notebooks").mkdir(parents=True)
    monkeypatch.setattr(places, "REPOSITORY", tmp_path / "course")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    return tmp_path / "course"


def read_only(monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(places.tempfile, "TemporaryFile", refuse)


def test_a_course_that_can_be_written_keeps_its_own(course):
    assert places.kept_in("runs") == course / "runs" and not (course / "runs").exists()


def test_a_read_only_course_and_a_package_without_one_use_the_cache(course, monkeypatch):
    cache = course.parent / "home" / ".cache" / "i2vlib"
    read_only(monkeypatch)
    assert places.kept_in("data/mini/motion") == cache / "data/mini/motion"
    monkeypatch.undo()
    monkeypatch.setattr(places, "REPOSITORY", course.parent)  # no notebooks here
    monkeypatch.setattr(Path, "home", lambda: course.parent / "home")
    assert places.kept_in("runs") == cache / "runs"


def test_what_a_read_only_course_already_has_is_used(course, monkeypatch):
    (course / "data/mini/motion").mkdir(parents=True)
    read_only(monkeypatch)
    assert places.kept_in("data/mini/motion") == course / "data/mini/motion"


def test_clips_of_a_read_only_course_are_rendered_into_the_cache(course, monkeypatch):
    read_only(monkeypatch)
    asked = []
    monkeypatch.setattr("i2vlib.data.mini.render", lambda task, root, seed: asked.append(root) or root)
    mini_data("blink")
    assert asked == [course.parent / "home" / ".cache" / "i2vlib" / "data" / "mini"]
