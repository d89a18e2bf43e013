"""Pictures: frames in a row with time on the axis, InTI's weights, training curves, confusion. One style for the whole course."""

from i2vlib.show.clips import film, use_style
from i2vlib.show.interpolation import interpolation
from i2vlib.show.training import confusion, curves

__all__ = ["confusion", "curves", "film", "interpolation", "use_style"]
