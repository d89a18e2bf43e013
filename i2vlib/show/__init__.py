"""Pictures: frames in a row with time on the axis, InTI's weights, training curves, confusion. One style for the whole course."""

from i2vlib.show.attention import attention, head_table, rollout_map, save_animation
from i2vlib.show.clips import film, use_style
from i2vlib.show.evidence import frame_importance, gradcam, patch_importance
from i2vlib.show.interpolation import interpolation
from i2vlib.show.training import confusion, curves

__all__ = ["attention", "confusion", "curves", "film", "frame_importance", "gradcam", "head_table", "interpolation",
           "patch_importance", "rollout_map", "save_animation", "use_style"]
