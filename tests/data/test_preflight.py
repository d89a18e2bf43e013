"""Every file of a list is looked at once, whatever it does to the process that looks, and the list is cleaned whole."""

from __future__ import annotations

import json
import os

import _look_victim
import pytest
from PIL import Image
from test_video import encode

from i2vlib.data import preflight as module
from i2vlib.data.classes import ListError
from i2vlib.data.lists import read_list
from i2vlib.data.preflight import cleaned, main, preflight


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    encode(folder / "good.mp4", frames=None)
    (folder / "no video.mp4").write_bytes(b"no video")
    path = encode(folder / "bit.mkv")
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"lavf", 1))  # its pictures are right, a checksum is not
    (folder / "images").mkdir()
    for i in range(3):
        Image.new("RGB", (32, 32)).save(folder / "images" / f"img_{i + 1:05d}.jpg")
    return folder


TEXT = "good.mp4 0\n\nno video.mp4, 1\nbit.mkv\t1\ngone.mp4 0\nimages 3 1\nimages 3 1\n"


@pytest.mark.filterwarnings("ignore:.*stand twice")
def test_the_command_names_cleans_and_goes_on(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "Isolated", Direct)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "list.txt").write_text(TEXT)
    (tmp_path / "a" / "classes.txt").write_text("runs\nwalks\n")
    call = [str(tmp_path / "a" / "list.txt"), "--root", str(root), "--out", str(tmp_path / "clean.txt"), "--jobs", "1"]
    assert main(call) == 1
    said = capsys.readouterr().out
    assert "unreadable: no video.mp4: is not a video" in said and "damaged: bit.mkv: is damaged: a checksum is wrong" in said
    assert "missing: gone.mp4" in said and "5 files: 2 sound, 1 missing, 1 unreadable, 1 damaged, 0 hung, 0 crashed" in said
    assert (tmp_path / "clean.txt").read_text() == "good.mp4 0\n\nimages 3 1\nimages 3 1\n", "the lines as they stand"
    assert (tmp_path / "classes.txt").read_text() == "runs\nwalks\n"
    report = tmp_path / "clean.txt.report.jsonl"
    looked_at = [json.loads(line)["path"] for line in report.read_text().splitlines()]
    assert looked_at == ["good.mp4", "no video.mp4", "bit.mkv", "images"]
    before = report.read_bytes()
    assert main([*call, "--keep-damaged"]) == 1 and report.read_bytes() == before, "nothing is looked at again"
    assert "bit.mkv\t1\n" in (tmp_path / "clean.txt").read_text() and "damaged: bit.mkv" in capsys.readouterr().out


def test_a_file_that_hangs_aborts_or_raises_costs_itself_alone(root, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "look", _look_victim.look)
    names = ["hangs.mp4", "aborts.mp4", "raises.mp4", "b.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "l.txt").write_text("".join(f"{name} 0\n" for name in names))
    found = preflight(read_list(tmp_path / "l.txt"), tmp_path, tmp_path / "r", jobs=1, seconds=1, progress=False)
    assert {path: kind for path, (kind, _) in found.items()} == {
        "hangs.mp4": "hung", "aborts.mp4": "crashed", "raises.mp4": "unreadable", "b.mp4": "sound"}
    assert list(found) == names and "deep inside" in found["raises.mp4"][1]


class Direct:
    """In the place of Isolated, without a process."""

    def __init__(self, seconds):
        pass

    def __enter__(self):
        return self.call

    def __exit__(self, *_):
        pass

    def call(self, function, *args):
        return function(*args)


class Here(Direct):
    calls: list[str] = []
    stop_at = ""

    def call(self, function, path, *_):
        name = os.path.basename(path)
        if name == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(name)
        return "sound", ""


def test_what_stopped_goes_on_and_what_changed_is_looked_at_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Isolated", Here)
    monkeypatch.setattr(Here, "calls", [])
    names = [f"{i}.mp4" for i in range(4)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "l.txt").write_text("".join(f"{name} 0\n" for name in names))
    call = [str(tmp_path / "l.txt"), "--root", str(tmp_path), "--out", str(tmp_path / "c.txt"), "--jobs", "1"]
    monkeypatch.setattr(Here, "stop_at", "2.mp4")
    assert main(call) == 130 and Here.calls == names[:2] and not (tmp_path / "c.txt").exists()
    with open(tmp_path / "c.txt.report.jsonl", "a") as report:
        report.write('{"path": "2.mp4", "sta')  # the process was killed while it wrote
    monkeypatch.setattr(Here, "stop_at", "")
    assert main(call) == 0 and Here.calls == names and (tmp_path / "c.txt").read_text() == (tmp_path / "l.txt").read_text()
    (tmp_path / "1.mp4").write_bytes(b"longer")
    assert main(call) == 0 and Here.calls == [*names, "1.mp4"]
    assert main([*call, "--frames", "8"]) == 0 and len(Here.calls) == 9, "another question"


def test_a_list_that_cannot_be_used_says_why(root, tmp_path, capsys):
    (tmp_path / "l.txt").write_text("gone.mp4 0\n")
    call = [str(tmp_path / "l.txt"), "--out", str(tmp_path / "c.txt"), "--root"]
    assert main([*call, str(root)]) == 2 and "none of its files can be used" in capsys.readouterr().err
    assert main([*call, str(root / "no")]) == 2 and "there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "c.txt").exists()


@pytest.mark.parametrize("name, text, left", [
    ("l.csv", "path,label\r\n\"a, b.mp4\",0\r\nc.mp4,1\r\n", "path,label\n\"a, b.mp4\",0\n"),
    ("l.json", '[{"vid_name": "c", "label": 1}, {"vid_name": "d", "label": 0}]', '[{"vid_name": "d", "label": 0}]'),
    ("l.jsonl", '{"path": "c.mp4", "label": 1}\n{"path": "d.mp4", "label": 0}\n', '[{"path": "d.mp4", "label": 0}]'),
])
def test_a_list_keeps_its_form(tmp_path, name, text, left):
    (tmp_path / name).write_bytes(text.encode())
    assert cleaned(tmp_path / name, {"c.mp4"}, tmp_path / f"clean {name}") == 1
    assert (tmp_path / f"clean {name}").read_text() == left
    assert not list(tmp_path.glob("cleaning*"))
    with pytest.raises(ListError, match="none of its files"):
        cleaned(tmp_path / name, {e.path for e in read_list(tmp_path / name)}, tmp_path / "none")


def test_other_names_beside_the_cleaned_list_stay(tmp_path):
    for folder, names in (("a", "x\ny\n"), ("b", "y\nx\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "classes.txt").write_text(names)
    (tmp_path / "a" / "l.txt").write_text("a.mp4 0\nb.mp4 1\n")
    with pytest.raises(ListError, match="holds other names"):
        cleaned(tmp_path / "a" / "l.txt", {"a.mp4"}, tmp_path / "b" / "l.txt")
