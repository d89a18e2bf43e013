"""Axis 3: how many tokens survive."""

from i2vlib.compression.inti import InTI, interpolate
from i2vlib.compression.pooling import ConvPooling, LinearPooling, MeanPooling
from i2vlib.compression.tokens import STA
from i2vlib.compression.weights import cascade, fuse_frames, interpolation_weights, to_pixels

__all__ = ["STA", "ConvPooling", "InTI", "LinearPooling", "MeanPooling", "cascade", "fuse_frames", "interpolate",
           "interpolation_weights", "to_pixels"]
