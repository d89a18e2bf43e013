"""Image-to-video adaptation: ZeroI2V and InTI, to learn, check and use.

Names are imported when they are first used: `i2vlib.course.environment` must import where open_clip and decord are still missing.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "config": ("AdaptationConfig", "CompressionConfig", "ConfigError", "FOUR_ADAPTERS", "ModelConfig", "SIX_ADAPTERS",
               "SwinConfig", "TemporalConfig", "THREE_ADAPTERS", "TowerConfig", "check_parameters"),
    "data.datasets": ("VideoDataset",),
    "data.few_shot": ("few_shot", "few_shot_lists"),
    "data.video": ("VideoError", "read_clip"),
    "detection.clips": ("BoxDataset",),
    "detection.model": ("Detector", "as_detector", "build_detector"),
    "detection.run": ("evaluate_boxes", "train_detector"),
    "measure": ("Count", "count"),
    "own_video": ("predict",),
    "presets": ("PRESETS", "PROTOCOLS", "TOWERS"),
    "protocol": ("ClipConfig", "TrainConfig", "clip_for"),
    "tower.checkpoints": ("checkpoint_info", "load_checkpoint", "save_checkpoint"),
    "tower.classifier": ("VideoClassifier", "build_model", "merge", "open_clip_state"),
    "tower.archives": ("WeightsError",),
    "tower.origins": ("tower_config",),
    "tower.unmodified": ("timm_state", "timm_tower"),
    "tower.export": ("export_onnx", "export_program"),
    "tower.zeroi2v": ("load_zeroi2v", "zeroi2v_state"),
    "training.evaluate": ("evaluate",),
    "training.train": ("train",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}
_ROOMS = ("adaptation", "compression", "course", "data", "detection", "insight", "show", "temporal", "tower", "training")
__all__ = sorted([*_MODULE_OF, *_ROOMS])


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f"i2vlib.{name}")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"i2vlib.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'i2vlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
