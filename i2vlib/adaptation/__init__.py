"""Axis 2: what is trained, and whether it is gone at inference."""

from i2vlib.adaptation.beside import LoRA
from i2vlib.adaptation.block import merged_state
from i2vlib.adaptation.linear import GELUAdapter, LinearAdapter, merge_before, merge_behind
from i2vlib.adaptation.st_adapter import STAdapter

__all__ = ["GELUAdapter", "LinearAdapter", "LoRA", "STAdapter", "merge_before", "merge_behind", "merged_state"]
