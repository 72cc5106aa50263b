"""The anatomy of transformers' ViTs, recognised by class name: transformers is never imported here.

A wrapper (`...ForImageClassification`, `CLIPModel`) is followed to its vision tower. For other image sizes the method
that interpolates positions is replaced, since several of the library's own lack antialiasing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.backbones.anatomy.parts import (
    Anatomy,
    AttentionParts,
    Size,
    all_mlp_projections,
    attention_parts,
    is_a,
    pair,
    prefixed_layout,
    resampled_table,
    substituted,
)
from vitreg.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class _Family:
    """The names that one class of transformers gives its parts."""

    norm: str = "layernorm"
    projection: str = "embeddings.patch_embeddings.projection"
    positions: str | None = "embeddings.position_embeddings"
    cls_tokens: int = 1
    other: int = 0
    registers: str | None = None  # name of the parameter
    flag: bool = True  # forward takes interpolate_pos_encoding
    norm_outside: bool = False  # last_hidden_state comes before the final norm
    masked: bool = False


_CLIP = _Family(
    norm="post_layernorm",
    projection="embeddings.patch_embedding",
    positions="embeddings.position_embedding.weight",
    norm_outside=True,
)
_SIGLIP = _Family(
    norm="post_layernorm",
    projection="embeddings.patch_embedding",
    positions="embeddings.position_embedding.weight",
    cls_tokens=0,
)
_FAMILIES = {
    "ViTModel": _Family(),
    "DeiTModel": _Family(other=1),
    "ViTMAEModel": _Family(masked=True),
    "IJepaModel": _Family(cls_tokens=0),
    "Dinov2Model": _Family(flag=False),
    "Dinov2WithRegistersModel": _Family(flag=False, registers="embeddings.register_tokens"),
    "DINOv3ViTModel": _Family(
        norm="norm",
        projection="embeddings.patch_embeddings",
        positions=None,
        flag=False,
        registers="embeddings.register_tokens",
    ),
    "CLIPVisionModel": _CLIP,
    "CLIPVisionTransformer": _CLIP,
    "SiglipVisionModel": _SIGLIP,
    "SiglipVisionTransformer": _SIGLIP,
}
_BLOCKS = ("layers", "encoder.layer", "encoder.layers", "model.layer", "layer")


def read_transformers(module: nn.Module) -> Anatomy | None:
    """Describe a ViT of transformers or the vision tower inside a model of it; None for anything else."""
    for tower in module.modules():
        for name, family in _FAMILIES.items():
            if is_a(tower, "transformers", name) and hasattr(tower, "embeddings"):
                return _describe(tower, family)
    return None


def _describe(tower: nn.Module, family: _Family) -> Anatomy:
    config: Any = tower.config
    embeddings: Any = tower.embeddings
    blocks = next((tuple(found) for path in _BLOCKS if (found := _at(tower, path)) is not None), ())
    norm, projection = _at(tower, family.norm), _at(tower, family.projection)
    if not blocks or norm is None or projection is None:
        raise UserError(
            f"this version of transformers names the parts of {type(tower).__name__} in a way not known here."
        )
    native, patch = pair(config.image_size), pair(config.patch_size)
    grid = (native[0] // patch[0], native[1] // patch[1])
    registers = int(config.num_register_tokens) if family.registers else 0
    prefix = family.cls_tokens + family.other

    def table() -> Tensor | None:
        found = _at(tower, family.positions) if family.positions else None
        return None if found is None else found.reshape(1, -1, found.shape[-1])  # [1, prefix + P, D]

    def encode(images: Tensor) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        arguments: dict[str, Any] = {}
        changes: list[tuple[nn.Module, str, Any]] = []
        positions = table()
        # Dinov2's own path takes every table as square: a model built for rectangles needs ours even at its native
        # size.
        if positions is not None and (size != native or (not family.flag and grid[0] != grid[1])):
            wanted = resampled_table(positions, prefix, grid, (size[0] // patch[0], size[1] // patch[1]))
            changes.append((embeddings, "interpolate_pos_encoding", lambda *_: wanted))
            if family.flag:
                arguments["interpolate_pos_encoding"] = True
        if family.masked:
            changes.append((embeddings, "random_masking", _keep_all))
        with substituted(*changes):
            tokens = tower(images, **arguments)[0]
        return norm(tokens) if family.norm_outside else tokens

    def position_table() -> tuple[Tensor, Size] | None:
        positions = table()
        return None if positions is None else (positions[0, prefix:], grid)

    parts = tuple(part for block in blocks if (part := _parts(block, config.num_attention_heads)) is not None)
    return Anatomy(
        library="transformers",
        tower=tower,
        blocks=blocks,
        final_norm=norm,
        patch=patch,
        native_size=native,
        heads=config.num_attention_heads,
        width=config.hidden_size,
        layout=prefixed_layout(patch, cls_tokens=family.cls_tokens, registers=registers, other=family.other),
        encode=encode,
        patch_projection=projection,
        position_table=position_table,
        register_parameter=lambda: _at(tower, family.registers)[0] if registers and family.registers else None,
        mlp=all_mlp_projections(blocks),
        attention=parts if len(parts) == len(blocks) else (),
    )


def _keep_all(sequence: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Stand in for MAE's random masking: every patch, in order, without drawing a random number."""
    batch, length = sequence.shape[:2]
    order = torch.arange(length, device=sequence.device).expand(batch, -1)
    return sequence, torch.zeros(batch, length, device=sequence.device), order


def _parts(block: nn.Module, heads: int) -> AttentionParts | None:
    attention = _at(block, "attention") or _at(block, "self_attn")
    known = attention_parts(attention)
    if known is not None or attention is None:
        return known
    # transformers 4: attention.attention.{query, key, value} and attention.output.dense
    inner, dense = _at(attention, "attention"), _at(attention, "output.dense")
    if inner is None or dense is None or _at(inner, "query") is None:
        return None
    return AttentionParts(
        module=attention,
        weights=lambda: (inner.query.weight, inner.key.weight, inner.value.weight),
        heads=heads,
        scale=None,
        output_weight=lambda: dense.weight,
        finish=dense,
    )


def _at(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
        if module is None:
            return None
    return module
