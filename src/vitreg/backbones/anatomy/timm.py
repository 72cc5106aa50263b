"""The anatomy of timm's VisionTransformer (deit, deit3, dinov2, siglip, clip, sbb and the rest), Eva and Beit.

Other image sizes use timm's own dynamic path, which resamples antialiased and by size; it is switched on for one
forward if the model was built without it.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from vitreg.backbones.anatomy.parts import (
    Anatomy,
    Size,
    all_attention_parts,
    all_mlp_projections,
    is_a,
    pair,
    prefixed_layout,
    substituted,
)
from vitreg.errors import UserError


def read_timm(module: nn.Module) -> Anatomy | None:
    """Describe a timm ViT; None for anything else, also for subclasses with their own `forward_features`."""
    plain = is_a(module, "timm.models.vision_transformer", "VisionTransformer")
    beit = is_a(module, "timm.models.beit", "Beit")
    if not (plain or beit or is_a(module, "timm.models.eva", "Eva")):
        return None
    if not type(module).forward_features.__module__.startswith("timm."):  # type: ignore[attr-defined]
        return None
    vit: Any = module
    embed = vit.patch_embed
    registers = _count(getattr(vit, "reg_token", None))
    cls_tokens, other = _count(vit.cls_token), _count(getattr(vit, "dist_token", None))
    if cls_tokens + registers + other != vit.num_prefix_tokens:
        raise UserError(
            f"this timm {type(module).__name__} has {vit.num_prefix_tokens} prefix tokens, of which {cls_tokens} "
            f"class, {other} distillation, {registers} register tokens are known; pass an Anatomy naming the others."
        )
    native, grid = pair(embed.img_size), pair(embed.grid_size)
    patch = (
        pair(embed.patch_size) if is_a(embed, "timm", "PatchEmbed") else (native[0] // grid[0], native[1] // grid[1])
    )
    padded = bool(getattr(embed, "dynamic_img_pad", False))
    table_prefix = 0 if getattr(vit, "no_embed_class", False) else vit.num_prefix_tokens

    def encode(images: Tensor) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        if size == native and not padded and vit.__dict__.get("dynamic_img_size", False):
            # With dynamic sizes timm refuses incomplete patches; with a fixed size it drops them.
            images = images[..., : size[0] // patch[0] * patch[0], : size[1] // patch[1] * patch[1]]
        if size == native or vit.__dict__.get("dynamic_img_size", False):
            return vit.forward_features(images)
        with substituted(*_dynamic(vit, (size[0] // patch[0], size[1] // patch[1]))):
            return vit.forward_features(images)

    def position_table() -> tuple[Tensor, Size] | None:
        return None if vit.pos_embed is None else (vit.pos_embed[0, table_prefix:], grid)

    blocks = tuple(vit.blocks)
    return Anatomy(
        library="timm",
        tower=module,
        blocks=blocks,
        final_norm=vit.norm,
        patch=patch,
        native_size=native,
        heads=_heads(blocks[0]),
        width=vit.embed_dim,
        layout=prefixed_layout(patch, cls_tokens=cls_tokens, registers=registers, other=other, padded=padded),
        encode=encode,
        # A convolutional stem that already has the width of the tokens has no projection.
        patch_projection=embed.backbone if isinstance(embed.proj, nn.Identity) else embed.proj,
        position_table=position_table,
        register_parameter=lambda: vit.reg_token[0] if registers else None,
        mlp=all_mlp_projections(blocks),
        attention=all_attention_parts([getattr(block, "attn", None) for block in blocks]),
        prefix_counts=_prefix_counts(blocks),
        resizable=not beit,  # its relative position bias is tied to one window; timm resizes it by rebuilding the model
    )


def _prefix_counts(blocks: tuple[nn.Module, ...]) -> tuple[tuple[nn.Module, str], ...]:
    attentions: Any = [getattr(block, "attn", None) for block in blocks]
    return tuple((each, "num_prefix_tokens") for each in attentions if hasattr(each, "num_prefix_tokens"))


def _count(token: Tensor | None) -> int:
    return 0 if token is None else token.shape[1]


def _heads(block: nn.Module) -> int:
    return next(int(part.num_heads) for part in block.modules() if hasattr(part, "num_heads"))  # type: ignore[arg-type]


def _dynamic(vit: Any, grid: Size) -> list[tuple[nn.Module, str, Any]]:
    """List what timm's `dynamic_img_size=True` would have set; a rotary table cached for one grid is computed anew."""
    from timm.layers import Format

    changes: list[tuple[nn.Module, str, Any]] = [
        (vit, "dynamic_img_size", True),
        (vit.patch_embed, "strict_img_size", False),
        (vit.patch_embed, "flatten", False),
        (vit.patch_embed, "output_fmt", Format.NHWC),
    ]
    rope = getattr(vit, "rope", None)
    if rope is not None and getattr(rope, "feat_shape", None) is not None:
        rope = copy.deepcopy(rope)
        rope.update_feat_shape(list(grid))
        changes.append((vit, "rope", rope))
    return changes
