"""The anatomy of open_clip's and torchvision's VisionTransformer. A CLIP model is followed to its image tower."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitreg.backbones.anatomy.parts import (
    Anatomy,
    Size,
    all_attention_parts,
    all_mlp_projections,
    is_a,
    pair,
    prefixed_layout,
    resampled_table,
    substituted,
)


def read_open_clip(module: nn.Module) -> Anatomy | None:
    """Describe an open_clip image tower; None for anything else."""
    if not is_a(module, "open_clip", "VisionTransformer"):
        return None
    vit: Any = module
    native, patch, grid = pair(vit.image_size), pair(vit.patch_size), pair(vit.grid_size)
    blocks = tuple(vit.transformer.resblocks)
    # CoCa pools before its norm; "final norm after pooling" still means that this norm is the one of the tokens.
    pools_first = vit.attn_pool is not None and vit.attn_pool_contrastive is None
    norm: nn.Module = nn.Identity() if pools_first else vit.ln_post

    def encode(images: Tensor) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        changes = []
        if size != native:
            target = (size[0] // patch[0], size[1] // patch[1])
            table = resampled_table(vit.positional_embedding[None], 1, grid, target)[0]
            changes = [(module, "positional_embedding", table)]
        with substituted(*changes):
            return norm(vit.transformer(vit._embeds(images)))

    return Anatomy(
        library="open_clip",
        tower=module,
        blocks=blocks,
        final_norm=norm,
        patch=patch,
        native_size=native,
        heads=_heads(blocks[0].attn),
        width=vit.conv1.out_channels,
        layout=prefixed_layout(patch, cls_tokens=1),
        encode=encode,
        patch_projection=vit.conv1,
        position_table=lambda: (vit.positional_embedding[1:], grid),
        register_parameter=lambda: None,
        mlp=all_mlp_projections(blocks),
        attention=all_attention_parts([block.attn for block in blocks]),
        sequence_first=not vit.transformer.batch_first,
    )


def read_torchvision(module: nn.Module) -> Anatomy | None:
    """Describe a torchvision VisionTransformer; None for anything else."""
    if not is_a(module, "torchvision.models.vision_transformer", "VisionTransformer"):
        return None
    vit: Any = module
    native, patch = pair(vit.image_size), pair(vit.patch_size)
    grid: Size = (native[0] // patch[0], native[1] // patch[1])
    blocks = tuple(vit.encoder.layers)

    def encode(images: Tensor) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        if size == native:
            return vit.encoder(_with_cls(vit._process_input(images)))
        table = resampled_table(vit.encoder.pos_embedding, 1, grid, (size[0] // patch[0], size[1] // patch[1]))
        # What _process_input does, without its assertions of one square size.
        patches = vit.conv_proj(images).flatten(2).transpose(1, 2)  # [B, P, D]
        with substituted((vit.encoder, "pos_embedding", table)):
            return vit.encoder(_with_cls(patches))

    def _with_cls(patches: Tensor) -> Tensor:
        return torch.cat([vit.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)

    return Anatomy(
        library="torchvision",
        tower=module,
        blocks=blocks,
        final_norm=vit.encoder.ln,
        patch=patch,
        native_size=native,
        heads=blocks[0].num_heads,
        width=vit.hidden_dim,
        layout=prefixed_layout(patch, cls_tokens=1),
        encode=encode,
        patch_projection=vit.conv_proj,
        position_table=lambda: (vit.encoder.pos_embedding[0, 1:], grid),
        register_parameter=lambda: None,
        mlp=all_mlp_projections(blocks),
        attention=all_attention_parts([block.self_attention for block in blocks]),
    )


def _heads(attention: Any) -> int:
    return int(attention.num_heads)
