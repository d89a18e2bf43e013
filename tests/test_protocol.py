"""i2vlib.protocol: mean and std travel from the tower into the clips, and another mean is an error wherever the two meet."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

import i2vlib as i2v
from i2vlib.config import CLIP_MEAN, IMAGENET_MEAN, IMAGENET_STD, ConfigError, ModelConfig, TowerConfig
from i2vlib.course.settings import settle
from i2vlib.own_video import predict
from i2vlib.protocol import TrainConfig, check_scaling
from i2vlib.tower.checkpoints import checkpoint_info, content_hash
from i2vlib.training.evaluate import evaluate
from i2vlib.training.features import keep_features
from i2vlib.training.train import train

TOWER = TowerConfig(16, 8, 16, 2, 2, 2.0, 0, False, False, 1e-6, mean=IMAGENET_MEAN, std=IMAGENET_STD)
CONFIG = ModelConfig(TOWER, frames=2, classes=2, upper=1)
RIGHT = i2v.clip_for(TOWER, frames=2)
WRONG = {"mean": i2v.ClipConfig(2, size=16), "std": replace(RIGHT, std=(0.5, 0.5, 0.5))}
MEETINGS = {
    "training": lambda model, clip, path: train(model, clips(clip), TrainConfig(steps=1, workers=0), path, progress=False),
    "validation": lambda model, clip, path: train(model, clips(RIGHT), TrainConfig(steps=1, workers=0), path, progress=False,
                                                  val_set=clips(clip)),
    "testing": lambda model, clip, path: evaluate(model, clips(clip), progress=False),
    "kept features": lambda model, clip, path: keep_features(model, SimpleNamespace(clip=clip, train=False), path),
    "a checkpoint": lambda model, clip, path: i2v.save_checkpoint(model, path / "m.safetensors", clip=clip),
    "an ONNX file": lambda model, clip, path: i2v.export_onnx(model, path / "m.onnx", clip),
    "one's own video": lambda model, clip, path: predict(model, path / "none.mp4", clip),
}


def clips(clip):
    """As much of a set as is looked at before anything is read."""
    return SimpleNamespace(clip=clip, classes=2, entries=[SimpleNamespace(label=0)])


def test_a_clip_for_a_tower_has_its_size_and_scaling_and_what_is_asked_for():
    assert (RIGHT.size, RIGHT.short_side, RIGHT.test_short_side, RIGHT.frames) == (16, 18, 16, 2)
    assert (RIGHT.mean, RIGHT.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert i2v.clip_for(i2v.TOWERS["ViT-B-16"]) == i2v.ClipConfig()
    assert i2v.clip_for(TOWER, flip=0.0, test_short_side=20).test_short_side == 20
    with pytest.raises(ConfigError, match="ClipConfig.flip = 2"):
        i2v.clip_for(TOWER, flip=2)


@pytest.mark.parametrize("field", WRONG)
@pytest.mark.parametrize("meeting", MEETINGS)
def test_another_mean_or_std_is_an_error_wherever_model_and_clips_meet(tmp_path, meeting, field):
    with pytest.raises(ConfigError, match=rf"ClipConfig.{field} = .*tower needs \(0.*\(TowerConfig.{field}\).*clip_for"):
        MEETINGS[meeting](i2v.build_model(CONFIG), WRONG[field], tmp_path)
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_rounding_is_no_other_mean():
    check_scaling(TOWER, replace(RIGHT, mean=(0.4852, 0.4559, 0.4065)))
    with pytest.raises(ConfigError):
        check_scaling(TOWER, replace(RIGHT, mean=(0.487, 0.456, 0.406)))


@pytest.mark.parametrize("clip, needs", [(WRONG["std"], (0.5, 0.5, 0.5)), (None, i2v.ClipConfig().std)])
def test_a_checkpoint_of_before_loads_with_the_scaling_of_its_clips(tmp_path, clip, needs):
    path = tmp_path / "m.safetensors"
    model = i2v.build_model(ModelConfig(replace(TOWER, std=WRONG["std"].std), frames=2, classes=2))
    i2v.save_checkpoint(model, path, clip=clip)
    with safetensors.safe_open(path, "pt") as file:
        metadata, state = file.metadata(), load_file(path)
    config = json.loads(metadata["config"])
    for name in ("mean", "std"):
        del config["tower"][name]
    metadata["config"] = json.dumps(config)
    save_file(state, path, metadata | {"hash": content_hash(state, metadata)})
    loaded = i2v.load_checkpoint(path)
    assert loaded.config.tower.std == needs and loaded.config.tower.mean == (IMAGENET_MEAN if clip else CLIP_MEAN)
    if clip:
        check_scaling(loaded.config.tower, i2v.ClipConfig.from_dict(checkpoint_info(path)["clip"]))
        i2v.save_checkpoint(loaded, path, clip=clip)


def test_named_weights_of_another_scaling_bring_it_into_a_notebooks_run():
    run = settle("zeroi2v-l14-8f-k400", weights="laion2b_s32b_b82k", train_list="a", val_list="b", data_root="c")
    assert run.model.tower.mean == run.clip.mean == (0.5, 0.5, 0.5) == run.model.tower.std == run.clip.std
    check_scaling(run.model.tower, run.clip)
    plain = settle("zeroi2v-l14-8f-k400", weights="openai", train_list="a", val_list="b", data_root="c")
    assert plain.model.tower == i2v.TOWERS["ViT-L-14"] and plain.clip.mean == CLIP_MEAN
    assert settle("zeroi2v-mini-motion").model == i2v.PRESETS["zeroi2v-mini-motion"]
    torch.testing.assert_close(torch.tensor(plain.clip.mean), torch.tensor(plain.model.tower.mean))
