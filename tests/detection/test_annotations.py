"""AVA's files as they are, and what is refused: file, line, field, what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from i2vlib.data.lists import ListError
from i2vlib.detection.annotations import Keyframe, read_actions, read_boxes, read_proposals

GOOD = """-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1
-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,9,1
-5KQ66BBWC4,0902,0.226,0.032,0.366,0.497,12,0
1j20qq1JyX4,0902,0,0,1,1,1,7
-5KQ66BBWC4,0903,0.077,0.151,0.283,0.811,12,1
"""
FIRST = (0.077, 0.151, 0.283, 0.811)


def written(folder: Path, text: str, name: str = "ava_val_v2.2.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_a_box_with_several_actions_stands_in_several_lines(tmp_path):
    assert read_boxes(written(tmp_path, GOOD)) == [
        Keyframe("-5KQ66BBWC4", 902.0, (FIRST, (0.226, 0.032, 0.366, 0.497)), ((9, 80), (12,))),
        Keyframe("1j20qq1JyX4", 902.0, ((0.0, 0.0, 1.0, 1.0),), ((1,),)),
        Keyframe("-5KQ66BBWC4", 903.0, (FIRST,), ((12,),))]
    without_person = "".join(f"{line.rpartition(',')[0]}\n" for line in GOOD.splitlines())
    assert read_boxes(written(tmp_path, without_person)) == read_boxes(written(tmp_path, GOOD))


def test_two_people_in_one_box_are_two(tmp_path):
    text = "v,0902,0.1,0.1,0.5,0.8,3,0\nv,0902,0.1,0.1,0.5,0.8,4,1\nv,0902,0.1,0.1,0.5,0.8,3,0\n"
    key, = read_boxes(written(tmp_path, text))
    assert (len(key.boxes), key.actions) == (2, ((3,), (4,))), "and a line that stands twice says nothing new"


def test_excluded_seconds_are_left_out(tmp_path):
    excluded = written(tmp_path, "-5KQ66BBWC4,0902\n", "excluded.csv")
    found = read_boxes(written(tmp_path, GOOD), excluded=excluded)
    assert [(key.video, key.second) for key in found] == [("1j20qq1JyX4", 902.0), ("-5KQ66BBWC4", 903.0)]
    with pytest.raises(ListError, match="no box is left"):
        read_boxes(written(tmp_path, GOOD.splitlines()[0]), excluded=excluded)


@pytest.mark.parametrize("line, said", [
    ("v,0902,1.2,0.1,0.9,0.8,3,0", r"line 2: x1 = 1.2: allowed is 0 to 1, a share of the frame's width"),
    ("v,0902,0.1,-0.01,0.9,0.8,3,0", "line 2: y1 = -0.01: allowed is 0 to 1"),
    ("v,0902,0.5,0.1,0.5,0.8,3,0", "line 2: x2 = 0.5: allowed is more than x1 = 0.5"),
    ("v,0902,0.1,0.8,0.5,0.2,3,0", "line 2: y2 = 0.2: allowed is more than y1 = 0.8"),
    ("v,0902,0.1,0.1,0.5,0.8,81,0", "line 2: action = '81': allowed is a whole number from 1 to 80"),
    ("v,0902,0.1,0.1,0.5,0.8,0,0", "line 2: action = '0'"),
    ("v,0902,0.1,0.1,0.5,0.8,,0", "line 2: action = ''"),
    ("v,0902,0.1,0.1,0.5,0.8,3.0,0", "line 2: action = '3.0'"),
    ("v,0902,left,0.1,0.5,0.8,3,0", "line 2: x1 = 'left': allowed is a number"),
    ("v,0902,nan,0.1,0.5,0.8,3,0", "line 2: x1 = 'nan'"),
    ("v,then,0.1,0.1,0.5,0.8,3,0", "line 2: second = 'then'"),
    ("v,0902,0.1,0.1,0.5", "line 2: .* has 5 fields: allowed is 7 or 8, video,second,x1,y1,x2,y2,action,person"),
    (",0902,0.1,0.1,0.5,0.8,3,0", "line 2: .* fields: allowed is"),
])
def test_a_bad_line_is_named(tmp_path, line, said):
    with pytest.raises(ListError, match=f"ava_val_v2.2.csv, {said}"):
        read_boxes(written(tmp_path, f"v,0902,0.1,0.1,0.5,0.8,3,0\n{line}\n"))


def test_missing_and_empty_files_are_named(tmp_path):
    for read in (read_boxes, read_proposals, read_actions):
        with pytest.raises(ListError, match="gone.csv: there is no such file"):
            read(tmp_path / "gone.csv")
        with pytest.raises(ListError, match="empty.csv: (no box is left|holds no actions)"):
            read(written(tmp_path, "", "empty.csv"))
    with pytest.raises(ListError, match="gone.csv: there is no such file"):
        read_boxes(written(tmp_path, GOOD), excluded=tmp_path / "gone.csv")
    with pytest.raises(ListError, match="excluded.csv, line 1: .* has 1 fields: allowed is 2"):
        read_boxes(written(tmp_path, GOOD), excluded=written(tmp_path, "v\n", "excluded.csv"))


def test_proposals_have_a_score_and_are_cut_at_the_edge(tmp_path):
    text = "v,902,-0.02,0.1,0.5,1.01,,0.95\nv,902,0.2,0.1,0.5,0.9,,0.79\nv,903,0.2,0.1,0.5,0.9,,0.80\n"
    assert read_proposals(written(tmp_path, text)) == [Keyframe("v", 902.0, ((0.0, 0.1, 0.5, 1.0),), ((),)),
                                                       Keyframe("v", 903.0, ((0.2, 0.1, 0.5, 0.9),), ((),))]
    assert len(read_proposals(written(tmp_path, text), least_score=0.5)[0].boxes) == 2
    with pytest.raises(ListError, match="line 1: score = 'high'"):
        read_proposals(written(tmp_path, "v,902,0.2,0.1,0.5,0.9,,high\n"))


def test_both_forms_of_the_list_of_actions(tmp_path):
    old = 'label {\n  name: "bend/bow (at the waist)"\n  label_id: 1\n  label_type: PERSON_MOVEMENT\n}\n'
    new = 'item {\n  name: "crouch/kneel"\n  id: 3\n}\nitem { name: "dance" id: 4 }\n'
    assert read_actions(written(tmp_path, old + new)) == {1: "bend/bow (at the waist)", 3: "crouch/kneel", 4: "dance"}
    with pytest.raises(ListError, match="expected is `item"):
        read_actions(written(tmp_path, 'item { name: "dance" }'))
    with pytest.raises(ListError, match="action 4 is 'dance' and 'sit': allowed is one name"):
        read_actions(written(tmp_path, 'item { name: "dance" id: 4 }\nitem { name: "sit" id: 4 }'))
