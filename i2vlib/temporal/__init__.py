"""Axis 1: which frame a head, a channel or a token reads."""

from i2vlib.temporal.heads import relocate_heads, shift_heads, stdha_offsets

__all__ = ["relocate_heads", "shift_heads", "stdha_offsets"]
