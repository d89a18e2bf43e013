"""A model's weights for timm's unmodified image towers, plain ViTs and Swins, where such a tower computes the same frame by
frame."""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import GELU, QuickGELU
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from i2vlib.config import SwinConfig, TowerConfig
from i2vlib.tower.classifier import VideoClassifier, beyond_images
from i2vlib.tower.families import FORMS, renamed
from i2vlib.tower.origins import described, timm_model
from i2vlib.tower.wrappers import unwrapped


def timm_state(model: VideoClassifier, name: str | None = None, **changes) -> dict[str, Tensor]:
    """The weights for timm's unmodified model `name`, if that model then computes what this one does, frame by frame.

    They load strict into timm.create_model(name, num_classes=config.tower.output_dim, img_size=config.tower.image_size,
    **changes), or without a name into timm_tower(config.tower), and forward_features(images)[:, 0] is frame_features; of a Swin,
    which has timm's own form, forward_head(forward_features(images)). What was
    folded is undone where the family has a place for it: LayerScale comes back as 1, the bias of the patches as 0, and where
    class tokens have no position theirs is added to cls_token. Raises ValueError where something would be lost (adapters that are
    not merged, offsets, the temporal embedding, compression, modules over time, patches of several frames), where timm's model is
    another than the config's tower, and where it has no place for a number; WeightsError for a name that timm does not know or no
    tower of ours has.
    """
    model = unwrapped(model)
    tower, lost = model.config.tower, beyond_images(model.config)
    if lost:
        raise ValueError(f"timm's model would leave out {', '.join(lost)}, and compute something else")
    if name is None:
        with torch.device("meta"):
            target = timm_tower(tower)
    else:
        target = timm_model(name, **{"num_classes": tower.output_dim, "img_size": tower.image_size} | changes)
        _check_same(described(target, name), tower, name)
    if isinstance(tower, SwinConfig):
        return {k: v.clone() for k, v in model.backbone.image_state().items()}
    wanted, given = target.state_dict(), _with_places(model.backbone.image_state(), target.pos_embed.shape[1] - tower.grid**2)
    own = {theirs: next(iter(renamed({theirs: value}, FORMS[-1]))) for theirs, value in wanted.items()}
    for ours in given.keys() - own.values():
        if given[ours].any():  # q, k, v of a family without their biases
            raise ValueError(f"timm's {name} has no place for {ours}, which is not 0: training or a merged adapter made it so")
    return {theirs: _filled(own[theirs], value, given) for theirs, value in wanted.items()}


def timm_tower(tower: TowerConfig) -> VisionTransformer | SwinTransformer:
    """timm's plain VisionTransformer or SwinTransformer of that shape, random weights, eval mode; with a head where the tower has
    proj."""
    if isinstance(tower, SwinConfig):
        heads = [tower.heads * 2**stage for stage in range(len(tower.depths))]
        return SwinTransformer(tower.image_size, tower.patch_size, num_classes=0, embed_dim=tower.width, depths=tower.depths,
                               num_heads=heads, window_size=tower.window, mlp_ratio=tower.mlp_ratio,
                               norm_layer=partial(nn.LayerNorm, eps=tower.norm_eps)).eval()
    return VisionTransformer(tower.image_size, tower.patch_size, num_classes=tower.output_dim, embed_dim=tower.width,
                             depth=tower.layers, num_heads=tower.heads, mlp_ratio=tower.mlp_ratio, pre_norm=tower.ln_pre,
                             reg_tokens=tower.registers, norm_layer=partial(nn.LayerNorm, eps=tower.norm_eps),
                             act_layer=QuickGELU if tower.quick_gelu else GELU).eval()


def _check_same(theirs: TowerConfig, own: TowerConfig, name: str) -> None:
    for field, value in theirs.to_dict().items():
        mine = getattr(own, field, None)  # a plain ViT has no windows
        if field not in ("mean", "std", "output_dim") and mine != value and not (mine is None and value is False):
            raise ValueError(f"timm's {name} computes something else than this model: its {field} is {value}, "
                             f"TowerConfig.{field} is {mine}")


def _with_places(state: dict[str, Tensor], leading: int) -> dict[str, Tensor]:
    """An image tower's weights with so many positions in front of the patches': none, the class token's, the registers' too."""
    place, token = state["positional_embedding"], state["class_embedding"]
    if leading == 0:
        token, place = (token.double() + place[0].double()).to(token.dtype), place[1:]
    else:  # registers hold their positions themselves
        place = torch.cat([place[:1], place.new_zeros(leading - 1, place.shape[1]), place[1:]])
    state = {**state, "positional_embedding": place, "class_embedding": token}
    if "proj" in state:
        state["head.weight"] = state.pop("proj").T
    return state


def _filled(ours: str, like: Tensor, given: dict[str, Tensor]) -> Tensor:
    """One tensor of timm's, by the name that it has here; what was folded away comes back as if it had never been."""
    if ours in given:
        return given[ours].reshape(like.shape).clone()
    return given["conv1.weight"].new_full(like.shape, float(ours.endswith(".gamma")))  # LayerScale 1, biases 0
