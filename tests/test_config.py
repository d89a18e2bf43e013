import dataclasses
import json
import math
import typing

import pytest

import i2vlib as i2v
from i2vlib.checked import Config  # i2vlib.checked: what every configuration shares
from i2vlib.config import (
    AdaptationConfig,
    ConfigError,
    ModelConfig,
    TemporalConfig,
    TowerConfig,
    check_parameters,
)
from i2vlib.data.mini import TASKS
from i2vlib.presets import CLASSES, PRESETS, PROTOCOLS, protocol_for
from i2vlib.protocol import ClipConfig, Protocol, TrainConfig


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_and_have_a_protocol(name):
    config = PRESETS[name]
    assert ModelConfig.from_json(config.to_json()) == config
    protocol = PROTOCOLS[protocol_for(name)]
    assert protocol.clip.frames == config.frames and protocol.clip.size == config.tower.image_size
    assert Protocol.from_json(protocol.to_json()) == protocol


def test_released_settings():
    assert PRESETS["zeroi2v-b16-8f-k400"].temporal.offsets == (-1, 1) + (0,) * 10
    assert PRESETS["zeroi2v-b16-16f-ssv2"].temporal.offsets == (-1, 1, -2, 2) + (0,) * 8
    assert PRESETS["zeroi2v-l14-32f-k400"].temporal.offsets == (-1, -1, 1, 1, -2, -2) + (0,) * 10
    assert sum(o != 0 for o in PRESETS["zeroi2v-l14-32f-ssv2"].temporal.offsets) == 7
    assert PRESETS["zeroi2v-b16-8f-ssv2"].adaptation.places == i2v.SIX_ADAPTERS
    assert (PRESETS["zeroi2v-b16-8f-k400"].adaptation.scale, PRESETS["zeroi2v-b16-8f-ssv2"].adaptation.scale) == (0.5, 1.0)


def test_vit_l_trains_at_a_tenth_in_the_backbone():
    assert protocol_for("zeroi2v-l14-32f-k400") == "k400-l14-32f"
    large, base = PROTOCOLS["k400-l14-32f"], PROTOCOLS["k400-32f"]
    assert (large.train.backbone_lr, base.train.backbone_lr) == (0.1, 1.0)
    assert (large.clip.erasing, base.clip.erasing, PROTOCOLS["k400-l14-8f"].clip.erasing) == (0.25, 0.0, 0.0)


def test_what_the_released_code_says_line_by_line():
    """configs/recognition/vit_zero_clip of ZeroI2V's repository, and UniFormerV2's for the modules that InTI+ takes from it."""
    for name in ("k400-8f", "k400-16f", "ssv2-16f", "ucf101-32f", "hmdb51-8f", "diving48-8f", "ssv2-l14-32f"):
        clip, train = PROTOCOLS[name].clip, PROTOCOLS[name].train
        assert (clip.rand_augment, clip.augmenter, clip.flip) == ((4, 7), "pytorchvideo", 0.5), name
        assert (train.cosine, train.decay_biases, train.weight_decay, train.lr) == ("times", True, 0.05, 3e-4), name
        assert train.warmup * train.epochs == pytest.approx(2.5) and train.warmup_start == 0.1, name
        assert clip.augment_last == name.startswith("ssv2"), "crop, flip, then RandAugment on SSv2 alone"
        assert (clip.erasing, clip.erasing_fill) == (0.25 if name.startswith("ssv2") else 0.0, "grey"), name
    assert (PROTOCOLS["k400-l14-32f"].clip.erasing, PROTOCOLS["k400-l14-32f"].clip.erasing_fill) == (0.25, "noise")
    assert {name: row.train.batch_size for name, row in PROTOCOLS.items() if row.train.batch_size == 128} == {
        "ucf101-8f": 128, "ucf101-l14-8f": 128}
    assert [(name, row.clip.test_crops) for name, row in PROTOCOLS.items() if row.clip.test_clips == 2] == [
        ("hmdb51-32f", 3), ("hmdb51-l14-32f", 3)]
    assert PROTOCOLS["ssv2-inti"].clip.augmenter == "timm" and not PROTOCOLS["ssv2-inti"].clip.augment_last
    assert PRESETS["zeroi2v-b16-16f-ssv2"].adaptation.dropout == 0.0
    assert {PRESETS[f"zeroi2v-{name}"].adaptation.dropout for name in ("b16-8f-ssv2", "b16-16f-k400", "l14-32f-ssv2")} == {0.1}
    assert {row.head_std for name, row in PRESETS.items() if "-mini-" not in name and (
        name.startswith("zeroi2v-") or PROTOCOLS[protocol_for(name)].train.cosine == "times")} == {0.01}
    assert {row.head_std for name, row in PRESETS.items() if "-mini-" in name} == {0.02}
    for name, drop in (("uniformerv2-b16-16f-ssv2", 0.2), ("inti+-l14-16f-ssv2", 0.4), ("inti+-b16-16f-k400", 0.0)):
        assert (PRESETS[name].drop_path, PRESETS[name].temporal.global_dropout) == (drop, 0.5)
    assert PRESETS["naive-b16-16f-ssv2"].drop_path == 0.2 and PRESETS["inti-l14-16f-ssv2"].drop_path == 0.4, "the tower's own"
    assert PRESETS["naive-b16-16f-k400"].drop_path == PRESETS["zeroi2v-b16-8f-ssv2"].drop_path == 0.0


@pytest.mark.parametrize("preset, protocol", [
    ("inti-b16-16f-k400", "k400-inti"), ("inti+-3-5-b16-16f-k400", "k400-inti"), ("tome+-b16-16f-k400", "k400-inti"),
    ("naive-l14-16f-ssv2", "ssv2-inti"), ("inti+-7-9-b16-16f-ssv2", "ssv2-inti-stem"),
    ("aim-l14-8f-k400", "k400-l14-8f"), ("evl-b16-16f-ssv2", "ssv2-16f"),
    ("uniformerv2-b16-16f-ucf101", "ucf101-inti"), ("inti-l14-16f-hmdb51", "hmdb51-inti"),
    ("inti+-b16-16f-diving48", "diving48-inti"),
    ("zeroi2v-inti-b16-16f-k400", "k400-16f"), ("zeroi2v-l14-16f-ssv2", "ssv2-l14-16f"),  # adapters
    ("full-b16-8f-k400", "k400-8f"), ("probe-b16-8f-ssv2", "ssv2-8f"),  # 8 frames
    ("full-mini-motion", "mini-motion"), ("inti-mini-corrupted", "mini-corrupted")])
def test_full_fine_tuning_on_16_frames_is_intis(preset, protocol):
    assert protocol_for(preset) == protocol


def test_the_settings_of_inti():
    clip, train = PROTOCOLS["k400-inti"].clip, PROTOCOLS["k400-inti"].train
    assert (clip.sampling, clip.flip, clip.colour_jitter, clip.grey) == ("uniform", 0.5, 0.8, 0.2)
    assert (clip.test_clips, clip.test_crops) == (4, 3)
    assert (train.epochs, train.batch_size, train.lr, train.betas, train.weight_decay) == (30, 512, 2.2e-5, (0.9, 0.98), 0.001)
    assert (train.warmup * 30, train.label_smoothing, train.mixup, train.cutmix, train.repeats) == (5, 0.1, 0.8, 1.0, 1)
    assert (train.cosine, train.warmup_start, train.lr_end) == ("whole", 0.0, 0.01), "timm's schedule, in ViFi-CLIP's code"
    for data in ("ucf101", "hmdb51", "diving48"):
        small = PROTOCOLS[f"{data}-inti"]
        assert small.train == train and small.clip == dataclasses.replace(clip, test_clips=1)
    clip, train = PROTOCOLS["ssv2-inti"].clip, PROTOCOLS["ssv2-inti"].train
    assert (clip.flip, clip.flip_pairs, clip.rand_augment, clip.test_clips, clip.test_crops) == (0.0, (), (4, 7), 1, 3)
    assert (clip.colour_jitter, clip.grey, train.mixup, train.cutmix) == (0.0, 0.0, 0.0, 0.0)
    assert (train.epochs, train.batch_size, train.lr, train.weight_decay, train.clip_norm) == (22, 64, 4e-5, 0.05, 20.0)
    assert train.warmup * 22 == pytest.approx(5) and train.repeats == 2
    assert train.cosine == "behind" and train.lr * train.warmup_start == train.lr * train.lr_end == pytest.approx(1e-6)


def test_miniature_presets_fit_their_data():
    for name, task in TASKS.items():
        assert CLASSES[f"mini-{name}"] == task.classes
        rows = [config for preset, config in PRESETS.items() if preset.endswith(f"mini-{name}")]
        assert len(rows) >= 6 and {(row.frames, row.classes) for row in rows} == {(task.frames, task.classes)}


@pytest.mark.parametrize("make, message", [
    (lambda: TowerConfig(image_size=225), "TowerConfig.image_size = 225: allowed is a multiple of patch_size 16"),
    (lambda: TowerConfig(width=770), "TowerConfig.width = 770: allowed is a multiple of heads 12"),
    (lambda: TowerConfig(width="768"), "TowerConfig.width = '768': allowed is int"),
    (lambda: TowerConfig(layers=True), "TowerConfig.layers = True: allowed is int"),
    (lambda: AdaptationConfig("bitfit"), "kind = 'bitfit': allowed is frozen, full, heads, linear, gelu, lora, st_adapter"),
    (lambda: AdaptationConfig("lora", ("qkv",)), "places = .*names out of q, k, v, attn_out, mlp_in, mlp_out with kind 'lora'"),
    (lambda: AdaptationConfig("st_adapter", ("q",)), "places = .*names out of qkv, attn_out, mlp_in, mlp_out with kind"),
    (lambda: AdaptationConfig("heads", ("q",)), "places = .*empty with kind 'heads'"),
    (lambda: ModelConfig(adaptation=AdaptationConfig("heads")), "'heads' trains relocated heads: temporal.offsets has none"),
    (lambda: AdaptationConfig("linear"), "places = .*: allowed is one or more of qkv, q"),
    (lambda: AdaptationConfig("full", ("qkv",)), "allowed is empty with kind 'full'"),
    (lambda: AdaptationConfig("linear", ("qkv", "q")), "either the shared 'qkv' or separate"),
    (lambda: AdaptationConfig("linear", ("qkv", "mlp")), "distinct names out of"),
    (lambda: ModelConfig(temporal=TemporalConfig((1, -1))), "offsets has 2 entries: allowed is one a head, 12"),
    (lambda: ModelConfig(temporal=TemporalConfig((-8,) + (0,) * 11)), r"offsets\[0\] = -8: with 8 frames allowed is -7 to 7"),
    (lambda: ClipConfig(sampling="random"), "ClipConfig.sampling = 'random': allowed is uniform or dense"),
    (lambda: ClipConfig(test_crops=2), "allowed is 1 or 3"),
    (lambda: TrainConfig(batch_size=10, accumulate=3), "allowed is a divisor of batch_size 10"),
    (lambda: TrainConfig(precision="fp8"), "allowed is auto, no, bf16 or fp16"),
    (lambda: TrainConfig(betas=(1.5, 0.9)), "betas = .*: allowed is two numbers from 0 to below 1"),
    (lambda: ClipConfig(rand_augment=(4, 15)), "magnitude 0 to 10"),
    (lambda: ClipConfig(augmenter="imgaug"), "ClipConfig.augmenter = 'imgaug': allowed is pytorchvideo or timm"),
    (lambda: ClipConfig(erasing_fill="black"), "ClipConfig.erasing_fill = 'black': allowed is grey or noise"),
    (lambda: TrainConfig(cosine="after"), "TrainConfig.cosine = 'after': allowed is behind, whole or times"),
    (lambda: TrainConfig(lr_end=1.5), "TrainConfig.lr_end = 1.5: allowed is a share of lr, from 0 to 1"),
    (lambda: TemporalConfig(global_dropout=0.5), "TemporalConfig.global_dropout = 0.5: allowed is 0 without global_blocks"),
    (lambda: ModelConfig(drop_path=1.0), "ModelConfig.drop_path = 1.0: allowed is from 0 to below 1"),
    (lambda: ClipConfig(grey=1.5), "ClipConfig.grey = 1.5: allowed is a probability, 0 to 1"),
    (lambda: ClipConfig(colour_jitter=-0.1), "ClipConfig.colour_jitter = -0.1: allowed is a probability, 0 to 1"),
    (lambda: TrainConfig(mixup=-0.1), r"TrainConfig.mixup = -0.1: allowed is 0 \(off\) or more"),
    (lambda: TrainConfig(repeats=0), "TrainConfig.repeats = 0: allowed is 1 or more"),
    (lambda: ClipConfig(flip_pairs=((1, 2), (2, 3))), "each label in one pair"),
    (lambda: ModelConfig.from_dict({"frame": 8}), "ModelConfig has no field 'frame': allowed are tower"),
])
def test_errors_name_field_value_and_what_is_allowed(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def numbers(cls) -> list[tuple[str, object]]:
    """Each field of a configuration that holds a float or a tuple of them, with its default."""
    hints = typing.get_type_hints(cls)
    return [(f.name, f.default) for f in dataclasses.fields(cls) if float in (hints[f.name], *typing.get_args(hints[f.name]))]


OURS = [cls for cls in Config.__subclasses__() if cls.__module__.startswith("i2vlib.")]


@pytest.mark.parametrize("cls, name, default", [(cls, name, default) for cls in OURS for name, default in numbers(cls)])
def test_a_number_that_is_not_finite_is_refused(cls, name, default):
    for bad in (math.nan, math.inf, -math.inf, 10**400):
        value = (bad, *default[1:]) if isinstance(default, tuple) else bad
        given = f"(?s){cls.__name__}\\.{name} = .*(nan|inf|00).*: allowed is finite: neither nan nor infinity"
        with pytest.raises(ConfigError, match=given):
            cls(**{name: value})
        if not isinstance(bad, int):  # json writes NaN and Infinity, and reads them
            with pytest.raises(ConfigError, match=given):
                cls.from_json(json.dumps({name: value}))


def test_the_numbers_of_a_run_are_among_them():
    assert {"lr", "backbone_lr", "betas", "weight_decay", "warmup", "mixup", "clip_norm"} <= {n for n, _ in numbers(TrainConfig)}
    assert {"scale", "ratio", "dropout"} <= {n for n, _ in numbers(AdaptationConfig)} and numbers(ClipConfig)


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().frames = 4


def test_notebook_parameters():
    types = {"lr": float, "preset": str, "steps": int}
    good = {"lr": 1e-3, "preset": "a", "steps": 3, "In": ["x", "# Parameters\nlr = 0.001\n"], "other": 1}
    check_parameters(good, **types)
    with pytest.raises(ConfigError, match="this notebook has no parameter 'learning_rate': allowed are lr, preset, steps"):
        check_parameters(good | {"In": ["# Parameters\nlr = 1\nlearning_rate = 2\n"]}, **types)
    for bad in ({"lr": "1e-3"}, {"steps": 3.0}, {"steps": True}, {"preset": 3}):
        with pytest.raises(ConfigError, match=f"parameter {next(iter(bad))} = "):
            check_parameters(good | bad, **types)
    for bad in (math.nan, math.inf):  # papermill -p lr nan
        with pytest.raises(ConfigError, match="parameter lr = (nan|inf): allowed is finite"):
            check_parameters(good | {"lr": bad}, **types)


def test_defaults_give_the_types_and_what_differs_is_noted():
    cell = {"lr": 0.1, "quick": None, "steps": 0, "out": "elsewhere"}
    for mine, noted in (({}, {}), ({"lr": 1}, {"lr": 1}), ({"quick": True, "steps": 5}, {"quick": True, "steps": 5})):
        assert check_parameters(cell | mine, lr=0.1, quick=None, steps=0, out="") == noted
    for bad in ({"lr": "1e-3"}, {"quick": 1}, {"quick": "yes"}, {"steps": 3.0}, {"out": None}):
        with pytest.raises(ConfigError, match=f"parameter {next(iter(bad))} = "):
            check_parameters(cell | bad, lr=0.1, quick=None, steps=0, out="")


def test_a_configuration_of_ones_own_is_checked_like_the_rest():
    @dataclasses.dataclass(frozen=True)
    class Pair(Config):
        sites: tuple[int, ...] = ()

    assert Pair.from_json('{"sites": [5, 7]}').sites == (5, 7)
    with pytest.raises(ConfigError, match="Pair has no field 'site': allowed are sites"):
        Pair.from_dict({"site": 5})


def test_a_checkpoint_of_before_compression_still_reads():
    data = PRESETS["zeroi2v-mini-motion"].to_dict()
    del data["compression"]
    for name in ("local", "global_blocks", "stem", "evl"):
        del data["temporal"][name]
    assert ModelConfig.from_dict(data) == PRESETS["zeroi2v-mini-motion"]
