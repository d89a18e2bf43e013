from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import onnxruntime
import pytest
import torch

import i2vlib as i2v
from i2vlib import command, own_video
from i2vlib.data.video import write_clip
from i2vlib.protocol import ClipConfig

CHECKPOINT = "i2vlib/assets/motion.safetensors"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Twelve clips of two classes with a list, the same clips in folders, and a file that is no video."""
    folder = tmp_path_factory.mktemp("clips")
    g = torch.Generator().manual_seed(0)
    lines = []
    for number in range(12):
        path = folder / f"class {number % 2}" / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_clip(path, torch.randint(256, (4 + number, 48, 64, 3), generator=g, dtype=torch.uint8))
        lines.append(f"{path.relative_to(folder)} {number % 2}")
    (folder / "list.txt").write_text("\n".join(lines))
    (folder / "broken.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    """The folder of a run of three steps with fields that are not the preset's."""
    out = tmp_path_factory.mktemp("run")
    assert command.main(training(clips, out)) == 0
    return out


def training(clips, out) -> list[str]:
    files = ["--train-list", f"{clips}/list.txt", "--val-list", f"{clips}/list.txt", "--data-root", str(clips)]
    fields = "--train.steps 3 --train.batch-size 4 --train.workers 0 --train.recompute --clip.test-crops 3"
    offsets = "--model.temporal.offsets -2 2 0 0 0 0 0 1"
    return ["train", "zeroi2v-mini-motion", "--out", str(out), *files, *fields.split(), *offsets.split()]


def test_every_field_of_the_configurations_is_an_option_with_the_presets_value(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["train", "inti-mini-corrupted", "--help"])
    words = capsys.readouterr().out
    assert end.value.code == 0
    recipe = i2v.PROTOCOLS["mini-corrupted"]
    for name, _ in command._flat(asdict(command.Run(i2v.PRESETS["inti-mini-corrupted"], recipe.clip, recipe.train))):
        assert f"--{name.replace('_', '-')}" in words, name
    assert "--data-root" in words and "(default: inti)" in words


def test_a_preset_is_told_field_by_field(capsys):
    assert command.main(["presets", "zeroi2v-b16-8f-k400"]) == 0
    told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines()[2:])
    assert told["model.temporal.offsets"] == str(i2v.PRESETS["zeroi2v-b16-8f-k400"].temporal.offsets)
    assert (told["clip.stride"], told["train.lr"], told["train.epochs"]) == ("16", "0.0003", "40")
    assert command.main(["presets", "mini-blink"]) == 0
    assert all("mini-blink" in line for line in capsys.readouterr().out.splitlines())


def test_a_run_has_the_fields_that_were_given_and_goes_on_to_the_same_end(trained, clips, capsys):
    settings = json.loads((trained / "settings.json").read_text())
    assert settings["model"]["temporal"]["offsets"] == [-2, 2, 0, 0, 0, 0, 0, 1] and settings["model"]["classes"] == 2
    assert settings["train"]["steps"] == 3 and settings["train"]["recompute"] and settings["clip"]["test_crops"] == 3
    merged = i2v.load_checkpoint(trained / "merged.safetensors")
    assert not any("adapters" in name for name in merged.state_dict()) and merged.config.temporal.offsets[0] == -2
    before = (trained / "metrics.json").read_text()
    assert command.main(training(clips, trained)) == 0
    assert json.loads((trained / "metrics.json").read_text())["test"] == json.loads(before)["test"]


def test_a_checkpoint_scores_a_list_as_the_run_did_and_other_views_are_an_option(trained, clips, tmp_path):
    call = ["evaluate", str(trained / "merged.safetensors"), str(clips / "list.txt"), "--data-root", str(clips), "--workers", "0"]
    assert command.main([*call, "--out", str(tmp_path / "a.json")]) == 0
    assert command.main([*call, "--out", str(tmp_path / "b.json"), "--clip.test-clips", "2", "--clip.test-crops", "1"]) == 0
    a, b = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert a["top1"] == json.loads((trained / "metrics.json").read_text())["test"]["top1"]
    assert (a["clip"]["test_crops"], b["clip"]["test_clips"]) == (3, 2) and a["clips"] == b["clips"] == 12
    assert a["top1"] == pytest.approx(sum(a["per_class"].values()) / 2)


def test_a_folder_becomes_one_table_and_a_broken_file_is_a_row_of_it(clips, tmp_path, capsys):
    for name in ("all.csv", "all.json"):
        assert command.main(["predict", CHECKPOINT, str(clips), "--out", str(tmp_path / name)]) == 0
    assert "1 of 13 could not be read" in capsys.readouterr().err
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert len(rows) == 13 and rows["broken.mp4"]["class"] == "" and "broken.mp4: " in rows["broken.mp4"]["error"]
    about = i2v.checkpoint_info(CHECKPOINT)
    said = own_video.predict(i2v.load_checkpoint(CHECKPOINT), clips / "class 1" / "7.mp4", ClipConfig.from_dict(about["clip"]))
    assert rows["class 1/7.mp4"]["class"] == about["class_names"][said.best]
    assert float(rows["class 1/7.mp4"]["probability"]) == pytest.approx(said.probabilities.max().item(), abs=1e-6)
    everything = {row["path"]: row for row in json.loads((tmp_path / "all.json").read_text())}
    np.testing.assert_allclose(list(everything["class 1/7.mp4"]["probabilities"].values()), said.probabilities, atol=1e-6)
    assert command.main(["predict", CHECKPOINT, str(clips / "class 0" / "0.mp4")]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("0.mp4,")


def test_merging_and_exporting_say_by_how_much_outputs_differ(trained, tmp_path, capsys):
    assert command.main(["merge", str(trained / "best.safetensors"), str(tmp_path / "plain.safetensors")]) == 0
    assert command.main(["export", str(tmp_path / "plain.safetensors"), str(tmp_path / "plain.onnx")]) == 0
    assert all(float(line.split()[-4]) < 1e-5 for line in capsys.readouterr().out.splitlines() if "differ" in line)
    plain, video = i2v.load_checkpoint(tmp_path / "plain.safetensors"), torch.randn(2, 4, 3, 48, 48)
    scores, = onnxruntime.InferenceSession(tmp_path / "plain.onnx").run(None, {"video": video.numpy()})
    np.testing.assert_allclose(scores, plain(video).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("call", "said"), [
    ([], "i2v COMMAND"), (["presets", "nothing"], "no preset has 'nothing'"),
    (["train", "zeroi2v-mini-motoin", "--out", "x"], "zeroi2v-mini-motion"), (["train", "stdha-mini-motion"], "--out is missing"),
    (["train", "stdha-mini-motion", "--out", "x", "--clip.frames", "8"], "allowed is the same"),
    (["train", "stdha-b16-8f-ssv2", "--out", "x"], "needs clips"),
    (["predict", "README.md", "README.md"], "README.md: not a readable checkpoint"),
    (["predict", CHECKPOINT, "tests"], "no video there"),
    (["predict", CHECKPOINT, "nowhere.mp4", "--out", "a.txt"], ".csv or .json"),
])
def test_what_is_wrong_is_said_in_one_line(call, said, capsys):
    assert command.main(call) == 2
    told = capsys.readouterr()
    assert said in told.out + told.err and "Traceback" not in told.err


@pytest.mark.parametrize("option", [("--train.lr", "-1"), ("--train.nothing", "1"), ("--model.frames", "many")])
def test_a_field_that_is_wrong_is_named(option, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["train", "stdha-mini-motion", "--out", "x", *option])
    told = capsys.readouterr()
    assert end.value.code == 2 and option[0].split(".")[-1] in told.out + told.err


def test_the_command_is_a_module_and_says_what_there_is():
    told = subprocess.run([sys.executable, "-m", "i2vlib.command", "--help"], capture_output=True, text=True, check=True)
    assert all(f"    {name}" in told.stdout for name in command.COMMANDS)
    for name in set(command.COMMANDS) - {"train", "evaluate", "predict"}:
        with pytest.raises(SystemExit) as end:
            command.main([name, "--help"])
        assert end.value.code == 0
