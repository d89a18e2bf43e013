"""What ZeroI2V's Table 3 compares: what is trained, where it stands, how wide it is."""

from __future__ import annotations

from i2vlib.config import FOUR_ADAPTERS, SIX_ADAPTERS, THREE_ADAPTERS, AdaptationConfig


def strategies() -> dict[str, AdaptationConfig]:
    """What ZeroI2V's Table 3 trains, by name: kind, where, and the ratio where it is not a quarter. s = 1, as on SSv2."""
    q_v, mlp, pair = ("q", "v"), ("mlp_in", "mlp_out"), ("qkv", "mlp_in")
    rows = {"probe-stdha": ("frozen", ()), "full-stdha": ("full", ()), "heads": ("heads", ()),
            "st-adapter-4": ("st_adapter", FOUR_ADAPTERS), "st-adapter-2-half": ("st_adapter", pair, 1 / 2),
            "lora-qv": ("lora", q_v), "lora-qkvo": ("lora", ("q", "k", "v", "attn_out")), "lora-qv-mlp": ("lora", q_v + mlp),
            "lora-qv-mlp-6th": ("lora", q_v + mlp, 1 / 6), "lora-6": ("lora", SIX_ADAPTERS),
            "lora-6-6th": ("lora", SIX_ADAPTERS, 1 / 6)}
    for kind in ("gelu", "linear"):
        rows |= {f"{kind}-4-8th": (kind, FOUR_ADAPTERS, 1 / 8), f"{kind}-2": (kind, pair), f"{kind}-3": (kind, THREE_ADAPTERS)}
    rows |= {"gelu-4": ("gelu", FOUR_ADAPTERS), "linear-6": ("linear", SIX_ADAPTERS),  # linear-4 is ZeroI2V's own, stdha
             "linear-6-6th": ("linear", SIX_ADAPTERS, 1 / 6)}
    return {name: AdaptationConfig(kind, places, *ratio, scale=1.0) for name, (kind, places, *ratio) in rows.items()}
