"""List files as people have them: read as they are meant, or refused with the remedy; never under another name or label."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from i2vlib.data.classes import class_names, write_names
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.list_formats import is_video
from i2vlib.data.lists import Entry, ListError, read_list, write_list
from i2vlib.protocol import ClipConfig

CLIP = ClipConfig(frames=2, size=16, short_side=16, test_short_side=16)
UCF = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"
SSV2 = [{"id": "74225", "label": "spinning cube that quickly stops", "template": "Spinning [something] that quickly stops",
         "placeholders": ["cube"]}]
K400 = "label,youtube_id,time_start,time_end,split,is_cc\nwalks the dog,-aB_9,7,17,train,0\n"


def listed(folder: Path, text: str | bytes, name: str = "train.txt", **beside: str | bytes) -> Path:
    """A list file, and files beside it: classes="a" is classes.txt, labels="{}" labels.json."""
    names = {"classes": "classes.txt", "classInd": "classInd.txt", "labels": "labels.json"}
    for file, content in {name: text, **{names[k]: v for k, v in beside.items()}}.items():
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def read(path: Path, **options) -> list[tuple]:
    return [(e.path, e.label, *([e.total_frames] if e.total_frames else [])) for e in read_list(path, **options)]


# ---- what is accepted ----

@pytest.mark.parametrize("line, entry", [
    ("abseiling/0347ZoDXyP0_000095_000105.mp4 0", Entry("abseiling/0347ZoDXyP0_000095_000105.mp4", 0)),  # K400
    ("riding a bike/abc_000001_000011.mp4 399", Entry("riding a bike/abc_000001_000011.mp4", 399)),
    ("78687.webm 173", Entry("78687.webm", 173)),  # SSv2
    (f"{UCF} 0", Entry(UCF, 0)),
    ("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi 0",
     Entry("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", 0)),
    ("a,b/c.mp4,7", Entry("a,b/c.mp4", 7)),
    ("a b/c.mp4, 7  ", Entry("a b/c.mp4", 7)),
    ("c.mp4\t7", Entry("c.mp4", 7)),
    ("c.mp4;7", Entry("c.mp4", 7)),
    ("c.mp4   \t 7", Entry("c.mp4", 7)),
    ("2 4.mp4 7", Entry("2 4.mp4", 7)),
    ("Übung/跳 🎬.mp4 7", Entry("Übung/跳 🎬.mp4", 7)),
    ("a.avi - b.mp4 7", Entry("a.avi - b.mp4", 7)),
    ("a.mp4 copy.MOV 7", Entry("a.mp4 copy.MOV", 7)),
    ("page\x0cbreak\u2028line\x85.mp4 7", Entry("page\x0cbreak\u2028line\x85.mp4", 7)),  # what str.splitlines splits at
    ("train\\dogs\\a b.mp4 7", Entry("train/dogs/a b.mp4", 7)),  # written on Windows
    ("frames/v_1 120 5", Entry("frames/v_1", 5, 120)),  # a folder of frames
    ("my frames,120,5", Entry("my frames", 5, 120)),
    ("holiday 2019;77;5", Entry("holiday 2019", 5, 77)),
    ('"my clip, first.mp4",7', Entry("my clip, first.mp4", 7)),
    ('"my clip.mp4" 7', Entry("my clip.mp4", 7)),
    ('"a 12""\n.mp4";"7"', Entry('a 12"\n.mp4', 7)),
    ('b.mp4,"7"', Entry("b.mp4", 7)),
    ('"ends in 12" 7', Entry("ends in 12", 7)),
    ('"my frames" 120 7', Entry("my frames", 7, 120)),
    ('"#1 .mp4"\t7', Entry("#1 .mp4", 7)),
])
@pytest.mark.parametrize("encoding, end", [("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\n"), ("utf-32", "\r")])
def test_a_line_of_a_list(tmp_path, line, entry, encoding, end):
    other = line.replace(".mp4", "2.mp4").replace("frames", "frames2") if "frames" in line or ".mp4" in line else None
    text = end.join([line, "", other or "", "  ", ""])
    found = read_list(listed(tmp_path, text.encode(encoding)))
    assert found[0] == entry and len(found) == (2 if other else 1)


@pytest.mark.parametrize("text, found", [
    ("path,label\na.mp4,0\nb.mp4,1\n", [("a.mp4", 0), ("b.mp4", 1)]),
    (",path,label\n0,a.mp4,5\n1,\"b, c.mp4\",1\n", [("a.mp4", 5), ("b, c.mp4", 1)]),  # pandas writes its index too
    ("Label;Filename\n3;a.mp4\n", [("a.mp4", 3)]),
    ("video\tclass\tlength\na b.mp4\t3\t10.5\n", [("a b.mp4", 3)]),
    ("path num_frames label\na.mp4 120 7\nb 120 6\n", [("a.mp4", 7), ("b", 6, 120)]),
])
def test_a_header_says_which_column_is_which(tmp_path, text, found):
    for end in ("\n", "\r\n"):
        assert read(listed(tmp_path, "\ufeff" + text.replace("\n", end))) == found


@pytest.mark.parametrize("name, text, found", [
    ("Diving48_V2_test.json", json.dumps([{"vid_name": "8mST_00", "label": 26, "end_frame": 158}]), "8mST_00.mp4"),
    ("x.json", '{"vid_name":"8mST_00","label":26}\n{"vid_name":"b","label":"1"}\n', "8mST_00.mp4"),  # a record a line
    ("x.jsonl", '{"path":"c d.mp4","label":26}', "c d.mp4"),
    ("x.txt", '[{"video": "c.mkv", "label": 26}]', "c.mkv"),
])
def test_records(tmp_path, name, text, found):
    assert read(listed(tmp_path, text, name))[0] == (found, 26)


def test_the_lists_that_something_something_comes_with(tmp_path):
    labels = {"Approaching something with your camera": "1", "Spinning something that quickly stops": "0"}
    path = listed(tmp_path, json.dumps(SSV2), "validation.json", labels=json.dumps(labels))
    assert read(path) == [("74225.webm", 0)] and read(path, ending=".mp4") == [("74225.mp4", 0)]
    assert class_names(path) == ["Spinning something that quickly stops", "Approaching something with your camera"]
    with pytest.raises(ListError, match="record 1: has no field for the path"):
        read_list(listed(tmp_path, '[{"id": "1420"}]', "test.json"))
    (tmp_path / "labels.json").write_text('{"a": "0", "b": "2"}')
    with pytest.raises(ListError, match="labels.json: the numbers of its 2 names are not 0 to 1"):
        read_list(path)
    (tmp_path / "labels.json").unlink()
    with pytest.raises(ListError, match="record 1: label 'Spinning something that quickly stops'.*labels.json beside the list"):
        read_list(path)


def test_the_lists_that_kinetics_comes_with(tmp_path):
    with pytest.raises(ListError, match="train.csv, line 2: label 'walks the dog': .* put classes.txt"):
        read_list(listed(tmp_path, K400, "train.csv"))
    assert read(listed(tmp_path, K400, "train.csv", classes="abseils\nwalks the dog\n")) == [("-aB_9_000007_000017.mp4", 1)]
    with pytest.raises(ListError, match="line 2: needs time_start and time_end"):
        read_list(listed(tmp_path, K400.replace(",7,", ",soon,"), "train.csv"))


def test_the_lists_that_ucf101_comes_with(tmp_path):
    index, lip = "1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n", UCF.replace("EyeMakeup", "Lipstick")
    path = listed(tmp_path, f"{UCF} 1\r\n{lip} 2\r\n", classInd=index)
    assert read(path) == [(UCF, 0), (lip, 1)] and class_names(path) == ["ApplyEyeMakeup", "ApplyLipstick"]
    assert read(listed(tmp_path, f"{lip}\n{UCF}\n", "testlist01.txt")) == [(lip, 1), (UCF, 0)], "the folder is the class"
    for text in (f"{UCF} 0\n{lip} 1\n", f"{lip} 1\n"):  # counted from 0 after all
        with pytest.raises(ListError, match="first_label=0"):
            read_list(listed(tmp_path, text))
        assert read(tmp_path / "train.txt", first_label=0)[-1] == (lip, 1)
    (tmp_path / "classInd.txt").unlink()
    with pytest.raises(ListError, match="line 1: .* has no label; .* classInd.txt beside the list"):
        read_list(tmp_path / "testlist01.txt")
    listed(tmp_path, "", "empty.txt", classes="ApplyEyeMakeup\nApplyLipstick\n")
    for text in (f"{UCF} 1\n{lip} 2\n", f"{UCF} 1\n"):  # the second is told by its folder alone
        with pytest.raises(ListError, match="give .*first_label=1"):
            read_list(listed(tmp_path, text))
        assert read(tmp_path / "train.txt", first_label=1)[0] == (UCF, 0)
    (tmp_path / "classes.txt").unlink()
    with pytest.warns(UserWarning, match="no entry has label 0: .* give first_label=1"):
        assert read(listed(tmp_path, f"{UCF} 1\n{lip} 2\n")) == [(UCF, 1), (lip, 2)]


def test_names_in_another_order_than_the_labels_are_refused(tmp_path):
    path = listed(tmp_path, "walk/a.mp4 0\nrun/b.mp4 1\nother/c.mp4 0\n", classes="walk\nrun\n")
    assert [label for _, label in read(path)] == [0, 1, 0]
    (tmp_path / "classes.txt").write_text("run\nwalk\n")
    with pytest.raises(ListError, match="'walk/a.mp4' has the label 0, and its folder is class 1 in classes.txt; so with 2 of 2"):
        read_list(path)


def test_names_instead_of_numbers(tmp_path):
    text = "a.mp4 running\nb c.mp4 riding a bike\nd.mp4 1\ne,riding a bike\n"
    path = listed(tmp_path, text, classes="riding a bike\nrunning\n")
    with pytest.raises(ListError, match="line 4: label 'bike': .* or a name in classes.txt"):
        read_list(path)
    path.write_text("".join(path.read_text().splitlines(True)[:3]))
    assert read(path) == [("a.mp4", 1), ("b c.mp4", 0), ("d.mp4", 1)]


# ---- what is refused, with the remedy ----

@pytest.mark.parametrize("text, message", [
    ("", "holds no entries"),
    ("a.mp4 0\nb.mp4\n", "line 2: 'b.mp4' has no label"),
    ("b.mp4\na.mp4 0\n", "line 1: 'b.mp4' has no label"),
    ("a.mp4 0\n\nb.mp4 cat\n", "line 3: label 'cat': allowed is a whole number from 0 to 999999; for names"),
    ("a.mp4 -1\n", "line 1: label '-1'"),
    ("a.mp4 1.5\n", "line 1: label '1.5'"),
    ("a.mp4 ３\n", "line 1: label '３'"),
    ("a.mp4 ²\n", "line 1: label '²'"),
    ("a.mp4 20190412\n", "line 1: label '20190412'"),
    ("a.mp4 1" + 5000 * "0" + "\n", "line 1: label '10"),
    ("a.mp4\u00a00\n", r"line 1: 'a.mp4\\xa00' has no label"),
    ("a.mp4 3 5\n", "line 1: label '3 5': .* one label and no number of frames"),
    ("a.mp4 10.5 2\n", "line 1: label '10.5 2'"),
    ("vid_0001.mp4 120 7\n", "line 1: label '120 7'"),
    ('"a.mp4",120,7\n', "line 1: label '120 7'"),
    ("3 a.mp4\n", "line 1: '3 a.mp4' has no label"),
    (" 0\n", "line 1: '0' has no label"),
    (",0\n", "line 1: ',0'"),
    ("a.mp4,,0\n", "line 1: 'a.mp4,,0' has an empty field"),
    ("frames １２ 0\n", "line 1: '１２' images"),
    ("# mine\na.mp4 0\n", "line 1: '# mine': .* comments are not understood"),
    ('"a.mp4 0\nb.mp4 1\n', "line 1: '\"a.mp4 0': a path that begins with"),
    ('"a.mp4" 0\n"b.mp4 1\n', "from line 2 on: is not quoted as CSV is"),
    ('"a.mp4",0\nb, c.mp4,1\n', r"line 2: has the fields \['b', 'c.mp4', '1'\]: .* in quotes"),
    ("path,label\nb, c.mp4,1\n", "line 2: has 3 fields, the header names 2: .* in quotes"),
    ("path,file,label\na,b,1\n", "line 2: has path and file for the path: allowed is exactly one"),
    ("path,label,class\na,1,1\n", "line 2: has label and class for the label"),
    ("a.mp4 0\nb.mp4 0\na.mp4 1\n", "line 3: 'a.mp4' has the label 1, and another in line 1"),
    ("x/a.mp4 0\nx/./a.mp4 1\n", "line 2: 'x/./a.mp4' has the label 1, and another in line 1"),
    ("brush_hair_0.avi 1 \nbrush_hair_1.avi 2 \nbrush_hair_2.avi 0 \n", "split file of HMDB51, whose 1, 2 and 0 mean"),
    ("/data/a.mp4 0\n", "line 1: '/data/a.mp4' leads out of the root: .* outside=True allows any"),
    ("../a.mp4 0\n", "line 1: '../a.mp4' leads out"),
    ("a/../../b.mp4 0\n", "line 1: 'a/../../b.mp4' leads out"),
    ("a\\..\\..\\b.mp4 0\n", "line 1: 'a/../../b.mp4' leads out"),
    ("C:\\clips\\a.mp4 0\n", "line 1: 'C:/clips/a.mp4' leads out"),
    ("\\\\server\\clips\\a.mp4 0\n", "line 1: '//server/clips/a.mp4' leads out"),
])
def test_bad_lists_name_the_line_and_the_remedy(tmp_path, text, message):
    with pytest.raises(ListError, match=r"train\.txt(, |: ).*" + message):
        read_list(listed(tmp_path, text))


@pytest.mark.parametrize("name, text, message", [
    ("brush_hair_test_split1.txt", "a/April.avi 1\n", "split file of HMDB51"),
    ("x.json", '[{"name": 1}]', "record 1: has no field for the path"),
    ("x.json", '[{"vid_name": "a"}]', "record 1: has no field for the label"),
    ("x.json", '[{"vid_name": "a", "label": true}]', "record 1: label 'true'"),
    ("x.json", '[{"vid_name": "a", "label": 1.0}]', "record 1: label '1.0'"),
    ("x.json", '[{"path": "a\\u0000.mp4", "label": 1}]', "record 1: .* can be the name of no file"),
    ("x.json", '[{"path": "a\\ud800.mp4", "label": 1}]', "record 1: .* can be the name of no file"),
    ("x.json", '{"database": {"a": {"label": "x"}}}', "is not a list of records"),
    ("x.json", '[{"vid_name": "a", "label": 1},\n', "is not JSON"),
    ("x.json", "[[1]]", "is not a list of records"),
    ("x.json", "[" * 100_000, "is not JSON"),
    ("binary.txt", b"\x00\x81\xff", "is not a text file in UTF-8 .*encoding="),
    ("short.txt", "a.mp4 0\n".encode("utf-16-le"), "is not a text file in UTF-8 .it holds zero bytes.*encoding="),
])
def test_bad_records_and_bytes(tmp_path, name, text, message):
    with pytest.raises(ListError, match=f"{name}.*{message}"):
        read_list(listed(tmp_path, text, name))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "cp1252"])
def test_another_encoding_is_read_where_it_is_named(tmp_path, encoding):
    path = listed(tmp_path, "Übung.mp4 drüben\n".encode(encoding), classes="drüben\nhier\n".encode(encoding))
    with pytest.raises(ListError, match="give its encoding"):
        read_list(path)
    assert read(path, encoding=encoding) == [("Übung.mp4", 0)] and class_names(path, encoding) == ["drüben", "hier"]
    (tmp_path / "classes.txt").write_bytes("drüben\nhier\n".encode())  # one of two files was saved anew
    assert read(path, encoding=encoding) == [("Übung.mp4", 0)] and class_names(path, encoding) == ["drüben", "hier"]
    for wrong in ("ascii", "nonsense"):
        with pytest.raises(ListError, match=f"no text in the encoding '{wrong}' either"):
            read_list(path, encoding=wrong)


def test_a_list_leads_out_of_its_root_by_a_parameter_only(tmp_path):
    inside, root = tmp_path / "root" / "a.mp4", tmp_path / "root"
    assert read(listed(tmp_path, f"{inside} 0\n"), root=root) == [(inside.as_posix(), 0)], "it does not lead out"
    for path in (tmp_path / "a.mp4", "../a.mp4", f"{inside.parent}/../a.mp4", f"{root}2/a.mp4"):
        with pytest.raises(ListError, match="leads out of .*root/: allowed is a path that starts there"):
            read_list(listed(tmp_path, f"{path} 0\n"), root=root)
        assert read(tmp_path / "train.txt", root=root, outside=True) == [(Path(path).as_posix(), 0)]
    root.mkdir()
    with pytest.raises(ListError, match="leads out"):
        VideoDataset(tmp_path / "train.txt", root, CLIP, train=False)
    assert len(VideoDataset(tmp_path / "train.txt", root, CLIP, train=False, outside=True)) == 1


def test_a_line_that_stands_twice_counts_twice_and_is_told(tmp_path):
    with pytest.warns(UserWarning, match="1 of its 3 entries stand twice, such as line 3, which repeats 1"):
        assert read(listed(tmp_path, "a.mp4 0\nb.mp4 0\na.mp4 0\n")) == [("a.mp4", 0), ("b.mp4", 0), ("a.mp4", 0)]


# ---- the names of the classes ----

@pytest.mark.parametrize("content, names", [
    (b"left\nright\n", ["left", "right"]),
    ("\ufeffleft\r\nright".encode(), ["left", "right"]),
    (b"left \n\t right \n\n \n", ["left", "right"]),
    ("left\nright\n".encode("utf-16"), ["left", "right"]),
    ("a\u2028b\nc\x0cd\ne\x85\x1cf\n".encode(), ["a\u2028b", "c\x0cd", "e\x85\x1cf"]),
    (b'1 finger\n3 fingers\n"2 fingers"\n', ["1 finger", "3 fingers", "2 fingers"]),
    (b'"1 finger"\n"2 fingers"\n', ["1 finger", "2 fingers"]),
    (b'" a ""b"" "\n"two\nlines"\n', [' a "b" ', "two\nlines"]),
    (b"1\n2\n", ["1", "2"]),
    (b"<b>\n$\\frac{$\na|b\n", ["<b>", "$\\frac{$", "a|b"]),
])
def test_names_as_people_save_them(tmp_path, content, names):
    path = listed(tmp_path, "a.mp4 0\n", classes=content)
    assert class_names(path) == names and read(path) == [("a.mp4", 0)]
    write_names(tmp_path / "classes.txt", names)
    assert class_names(path) == names


@pytest.mark.parametrize("content, message", [
    (b"", "holds no names"),
    (b"\n\n", "holds no names"),
    (b"left\n\nright\n", "line 2: is blank, and names count by their lines"),
    (b"\nleft\n", "line 1: is blank"),
    ("left\n\u00a0\nright\n".encode(), "line 2: is blank"),
    (b"left\nleft\n", "the name 'left' stands for 0 and for 1"),
    (b"1 left\n2 right\n", "its lines are numbered from 1: .* classInd.txt"),
    (b"0,left\n1,right\n", "its lines are numbered from 0"),
    (b"id,name\n0,abseiling\n1,air drumming\n2,archery\n", "its lines are numbered from 0"),
    (b"# mine\nleft\n", "line 1: '# mine': a name that begins with # is written in quotes"),
    (b'"left\nright\n', "line 1: .* in quotes"),
    ("drüben\n".encode("latin-1"), "is not a text file in UTF-8"),
])
def test_names_that_might_shift_are_refused(tmp_path, content, message):
    with pytest.raises(ListError, match=f"classes.txt.*{message}"):
        VideoDataset(listed(tmp_path, "a.mp4 0\n", classes=content), tmp_path, CLIP, train=False)


@pytest.mark.parametrize("content, message", [
    ("1 a\n3 b\n", "line 2: '3 b': expected is `2 name`"), ("a\n", "line 1: 'a': expected is `1 name`"),
    ("1 a\n2 a\n", "the name 'a' stands for 1 and for 2"),
])
def test_an_index_with_a_gap_is_refused(tmp_path, content, message):
    with pytest.raises(ListError, match=f"classInd.txt.*{message}"):
        read_list(listed(tmp_path, "a.mp4 1\n", classInd=content))


# ---- writing ----

def test_whatever_is_written_is_read_back(tmp_path):
    paths = ["a/b.mp4", "ends in 12", "v_1", " a ", 'q"', '"', "#1.mp4", "two\nlines\r.mp4", "a, b;c\t.mp4", "跳 \u2028.mp4",
             "path label", "a.mp4 120", "x.mp4 y", "[{", '{"a"']
    entries = [Entry(p, i) for i, p in enumerate(paths)] + [Entry("frames 1", 2, 30), Entry("frames_2", 2, 4)]
    for some in (entries, entries[:1], *([e] for e in entries)):
        write_list(tmp_path / "l.txt", some)
        assert read_list(tmp_path / "l.txt") == some
    write_list(tmp_path / "l.txt", [Entry("a/b_1-c.mp4", 3), Entry("v 1.mp4", 3)])
    assert (tmp_path / "l.txt").read_text() == 'a/b_1-c.mp4 3\n"v 1.mp4" 3\n', "quotes only where they are needed"


def test_endings_of_videos():
    assert all(map(is_video, ("a.mp4", "a.b.WEBM", "x/y z.MoV"))) and not any(map(is_video, ("a", "mp4", "a.mp4/b", "a.txt", "")))
