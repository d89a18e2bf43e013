"""Names in other people's files: where among them an image tower lies, whether it fits a model, what to do where it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from i2vlib.tower.archives import WeightsError
from i2vlib.tower.families import Shaped, folded, form_of, missing_part, refusal, renamed

ANCHORS = ("class_embedding", "conv1.weight", "positional_embedding")  # of these a text tower has one at most, and so a ResNet
BESIDE = ("text", "logit_")  # what lies beside a tower that has no prefix: the text tower, CLIP's temperature


def tower_part(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of the one image tower in `state` in VideoViT's form, whatever prefix they lie under and whoever named them.

    See i2vlib.tower.families for the names that are known and for what is folded. Raises WeightsError where there is no tower,
    or two, or one that a plain ViT's form cannot hold.
    """
    form = form_of(state)
    reason = refusal(state) if form.plain else ""
    if not reason:
        named = renamed(state, form)
        prefix = tower_prefix(named, source)
        part = {k[len(prefix):]: v for k, v in named.items() if k.startswith(prefix)}
        part = {k: v for k, v in part.items() if not k.startswith(BESIDE)}
        reason = missing_part(part)
    if reason:
        raise WeightsError(f"{source}: a tower that VideoViT cannot be: it has {reason}")
    return folded(part, form)


def tower_prefix(state: Mapping[str, Tensor], source: str, kind: str = "weights of an image tower") -> str:
    """What stands in front of an image tower's names in `state`: "visual.", "state_dict.backbone.", "". Raises WeightsError."""
    ends = Counter(name[:len(name) - len(anchor)] for anchor in ANCHORS for name in state if f".{name}".endswith(f".{anchor}"))
    found = [prefix for prefix, count in ends.items() if count >= 2]
    if not found:
        missing = ", ".join(anchor for anchor in ANCHORS if anchor not in state)
        other = f". It has {reason}" if (reason := refusal(state)) else remedy(state)
        raise WeightsError(f"{source}: not {kind}, no tensor {missing}, under whatever prefix; {some(state)}{other}")
    if len(found) > 1:
        raise WeightsError(
            f"{source}: holds {len(found)} image towers, under {' and '.join(map(repr, found))}, and does not say which one "
            "is meant: keep one, such as torch.save({k: v for k, v in read_tensors(path).items() if k.startswith("
            f"{found[-1]!r})}}, 'one.pt') with read_tensors from i2vlib.tower.archives")
    return found[0]


def some(names: Mapping[str, object]) -> str:
    """Some of the names of a file, for a message."""
    if not names:
        return "it holds no tensor"
    listed = list(names)
    return f"it holds {len(listed)} tensors: {', '.join(listed[:5])}{', ...' if len(listed) > 5 else ''}"


def remedy(names: Mapping[str, object]) -> str:
    """Which function loads a file with these names, where another one does."""
    parts = {part for name in names for part in name.split(".")}
    if "cls_head" in parts or any(part.startswith(("T_Adapter", "S_Adapter", "MLP_Adapter")) for part in parts):
        return ". It is a ZeroI2V checkpoint of the authors: i2v.load_zeroi2v(path, heads=..., offsets=..., scale=...) loads it"
    if parts & {"adapters", "compression", "temporal", "temporal_embedding"} or {"head.weight", "backbone.proj"} & set(names):
        return ". It is a video model: i2v.load_checkpoint loads what save_checkpoint wrote, i2v.load_zeroi2v the authors' files"
    if parts & {"visual", "resblocks"}:
        return ". It holds image weights: i2v.build_model(config, weights=path) loads them"
    return ""


def check_fit(state: Mapping[str, Shaped], want: Mapping[str, Shaped], source: str, hint: str = "") -> None:
    """Raise WeightsError unless `state` has the names and shapes of `want`, listing what differs, then `hint`."""
    missing, extra = [k for k in want if k not in state], [k for k in state if k not in want]
    shapes = [f"{k} is {tuple(state[k].shape)}, the model's is {tuple(want[k].shape)}"
              for k in want if k in state and tuple(state[k].shape) != tuple(want[k].shape)]
    if not missing and not extra and not shapes:
        return
    lines = [line for kind in ([f"missing {k}" for k in missing], [f"unexpected {k}" for k in extra], shapes)
             for line in kind[:8] + [f"... and {len(kind) - 8} more like it"] * (len(kind) > 8)]
    if shapes and shapes[0].startswith("positional_embedding is") and len(shapes) == 1 and not missing and not extra:
        lines[-1] += " (another image size: resize_positions=True interpolates)"
    if missing == ["proj"] or extra == ["proj"]:
        lines.append("TowerConfig.output_dim says how many columns proj has, 0 for a tower without it: no class score needs it")
    raise WeightsError(f"{source}: {len(missing) + len(extra) + len(shapes)} tensors do not fit the model:\n  "
                       + "\n  ".join(lines) + hint)


def check_sound(state: Mapping[str, Tensor], want: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError where tensors that fit are no weights: numbers of another kind than the model's, or not finite."""
    for name, value in state.items():
        if value.dtype.is_floating_point != want[name].dtype.is_floating_point or value.dtype.is_complex:
            raise WeightsError(f"{source}: {name} is {value.dtype}: allowed are floating-point weights")
    check_finite(state, source)


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError naming the tensors that hold nan or an infinity."""
    bad = [name for name, value in state.items() if value.dtype.is_floating_point and not _finite(value)]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise WeightsError(f"{source}: weights that are not finite, in {', '.join(bad[:5])}{more}")


def _finite(value: Tensor) -> bool:
    value = value.detach()
    return bool((value.float() if value.dtype.itemsize == 1 else value).isfinite().all())  # float8 does not know isfinite
