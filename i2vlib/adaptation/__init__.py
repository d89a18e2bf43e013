"""Axis 2: what is trained, and whether it is gone at inference."""

from i2vlib.adaptation.linear import GELUAdapter, LinearAdapter, merge_before, merge_behind, merged_state

__all__ = ["GELUAdapter", "LinearAdapter", "merge_before", "merge_behind", "merged_state"]
