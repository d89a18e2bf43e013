"""Wrappers around a model or a part of it (torch.compile, DistributedDataParallel), and names that do not show them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import nn

# what torch.compile, (Distributed)DataParallel, FSDP and activation checkpointing call the module inside
INNER = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers around it, if any. Its parts may still be wrapped; its state_dict() does not show it."""
    inner = next((model._modules[name] for name in INNER if name in model._modules), None)
    return model if inner is None else unwrapped(inner)


def bare_copy(model: nn.Module) -> nn.Module:
    """A copy of the model without wrappers around it or around any part of it."""
    bare = copy.deepcopy(unwrapped(model))
    for parent in list(bare.modules()):
        for name, child in parent.named_children():
            setattr(parent, name, unwrapped(child))
    return bare


def plain_name(name: str) -> str:
    """A tensor's name without the parts that wrappers put into it: module.backbone._orig_mod.proj -> backbone.proj."""
    return ".".join(part for part in name.split(".") if part not in INNER)


def keep_names_plain(module: nn.Module) -> None:
    """Make module.state_dict() give plain names, whichever of its parts are wrapped, and load_state_dict take any names."""
    module._register_state_dict_hook(_give_plain)
    module._register_load_state_dict_pre_hook(_take_any, with_module=True)


def _give_plain(module: nn.Module, state: dict[str, Any], prefix: str, _) -> None:
    _rename(state, prefix, {})


def _take_any(module: nn.Module, state: dict[str, Any], prefix: str, *_) -> None:
    own = chain(module.named_parameters(), module.named_buffers())
    _rename(state, prefix, {plain_name(name): name for name, _ in own})


def _rename(state: dict[str, Any], prefix: str, own: Mapping[str, str]) -> None:
    """Rename in place what lies under `prefix`, keeping the order."""
    items = [(k, v) for k, v in state.items()]
    state.clear()
    for name, value in items:
        if name.startswith(prefix):
            plain = plain_name(name[len(prefix):])
            name = prefix + own.get(plain, plain)
        state[name] = value
