"""The anatomy of ViTs known by their shape: the torch.hub repositories (dinov2, dino, deit, dinov3) and our own ViT.

The repositories publish no importable package, so they are recognised by their common attributes: `cls_token`,
`patch_embed.proj`, `blocks`, `norm`. The number of registers is read from the module, never guessed from positions.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from vitreg.backbones.anatomy.parts import (
    Anatomy,
    Size,
    all_attention_parts,
    all_mlp_projections,
    pair,
    prefixed_layout,
    resampled_table,
    substituted,
)
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer

# register parameter -> attribute that counts it: dinov2, dinov3, subclasses of timm's ViT
_REGISTERS = {
    "register_tokens": "num_register_tokens",
    "storage_tokens": "n_storage_tokens",
    "reg_token": "num_reg_tokens",
}


def read_ours(module: nn.Module) -> Anatomy | None:
    """Describe vitreg's own VisionTransformer; None for anything else."""
    if not isinstance(module, VisionTransformer):
        return None
    blocks = tuple(module.blocks)
    return Anatomy(
        library="vitreg",
        tower=module,
        blocks=blocks,
        final_norm=module.norm,
        patch=module.patch,
        native_size=module.image_size,
        heads=module.heads,
        width=module.width,
        layout=module.layout,
        encode=module.forward_features,
        patch_projection=module.patch_embed.proj,
        position_table=lambda: None if module.pos_embed is None else (module.pos_embed[0], module.grid),
        register_parameter=lambda: None if module.reg_token is None else module.reg_token[0],
        mlp=all_mlp_projections(blocks),
        attention=all_attention_parts([block.attn for block in blocks]),  # type: ignore[misc]
        # Somebody's attention may count them too, by the name that timm gives them.
        prefix_counts=tuple(
            (block.attn, "num_prefix_tokens")
            for block in blocks
            if hasattr(block.attn, "num_prefix_tokens")  # type: ignore[misc]
        ),
        extra_keys=int(module.switches.attention == "off-by-one"),
    )


def _refuse_two_norms(vit: Any) -> None:
    if getattr(vit, "untie_cls_and_patch_norms", False):
        raise UserError(
            "this model norms CLS and patches apart, which is not known here; pass an Anatomy made by hand."
        )


def read_hub(module: nn.Module) -> Anatomy | None:
    """Describe a module shaped like the torch.hub repositories; None for anything else."""
    vit: Any = module
    projection = getattr(getattr(vit, "patch_embed", None), "proj", None)
    norm, blocks = getattr(vit, "norm", None), getattr(vit, "blocks", None)
    cls_token = getattr(vit, "cls_token", None)
    if not (isinstance(projection, nn.Conv2d) and isinstance(norm, nn.Module) and isinstance(blocks, nn.Module)):
        return None
    flat = _unchunk(blocks)
    heads = _heads(vit, flat)
    if not flat or heads is None or not isinstance(cls_token, Tensor) or type(module).__module__.startswith("timm."):
        return None
    _refuse_two_norms(vit)
    name = next((n for n in _REGISTERS if getattr(vit, n, None) is not None), None)
    registers = int(getattr(vit, _REGISTERS[name])) if name else 0
    other = 1 if getattr(vit, "dist_token", None) is not None else 0
    patch: Size = (projection.kernel_size[0], projection.kernel_size[1])
    positions = getattr(vit, "pos_embed", None)
    grid = _grid(vit, patch, positions)
    native = (grid[0] * patch[0], grid[1] * patch[1])
    prefix = 0 if positions is None else positions.shape[1] - grid[0] * grid[1]
    if positions is not None and prefix not in (0, 1, 1 + other):
        raise UserError(
            f"{type(module).__name__} has {positions.shape[1]} positions for a {grid[0]}x{grid[1]} grid of patches; "
            "pass an Anatomy that says where its registers and other tokens stand."
        )

    def encode(images: Tensor) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        changes: list[tuple[nn.Module, str, Any]] = []
        positions = getattr(vit, "pos_embed", None)  # looked up again: loading weights may have replaced it
        if size != native and positions is not None:
            table = resampled_table(positions, prefix, grid, (size[0] // patch[0], size[1] // patch[1]))
            changes = _positions(vit, table, size)
        with substituted(*changes):
            return _through_norm(vit, norm, images)

    def position_table() -> tuple[Tensor, Size] | None:
        return None if getattr(vit, "pos_embed", None) is None else (vit.pos_embed[0, prefix:], grid)

    return Anatomy(
        library="hub",
        tower=module,
        blocks=flat,
        final_norm=norm,
        patch=patch,
        native_size=native,
        heads=heads,
        width=cls_token.shape[-1],
        layout=prefixed_layout(patch, cls_tokens=1, registers=registers, other=other),
        encode=encode,
        patch_projection=projection,
        position_table=position_table,
        register_parameter=lambda: getattr(vit, name)[0] if name and registers else None,
        mlp=all_mlp_projections(flat),
        attention=all_attention_parts([getattr(block, "attn", None) for block in flat]),
    )


def _unchunk(blocks: nn.Module) -> tuple[nn.Module, ...]:
    """Flatten DINOv2's chunks of blocks, which are padded with Identity."""
    flat: list[nn.Module] = []
    for child in blocks.children():
        flat += list(child.children()) if isinstance(child, nn.ModuleList) else [child]
    return tuple(block for block in flat if not isinstance(block, nn.Identity))


def _heads(vit: Any, blocks: tuple[nn.Module, ...]) -> int | None:
    attention = getattr(blocks[0], "attn", None) if blocks else None
    heads = getattr(vit, "num_heads", None) or getattr(attention, "num_heads", None)
    return int(heads) if isinstance(heads, int) else None


def _grid(vit: Any, patch: Size, positions: Tensor | None) -> Size:
    """Return rows and cols of the position table, as stated by the module or else as a square."""
    embed = vit.patch_embed
    image_size = getattr(embed, "img_size", None)
    stated = getattr(embed, "patches_resolution", None) or getattr(embed, "grid_size", None)
    if stated is None and image_size is not None:
        height, width = pair(image_size)
        stated = (height // patch[0], width // patch[1])
    if positions is None:
        return pair(stated) if stated is not None else (224 // patch[0], 224 // patch[1])
    length = positions.shape[1]
    if stated is not None and 0 <= length - math.prod(pair(stated)) <= 2:
        return pair(stated)
    side = math.isqrt(length)
    return side, side


def _positions(vit: Any, table: Tensor, size: Size) -> list[tuple[nn.Module, str, Any]]:
    """List the replacements that make the model add this table: its own method (dino, dinov2) or the parameter
    (deit)."""
    if hasattr(vit, "interpolate_pos_encoding"):
        return [(vit, "interpolate_pos_encoding", lambda *_: table)]
    changes: list[tuple[nn.Module, str, Any]] = [(vit, "pos_embed", table)]
    if hasattr(vit.patch_embed, "img_size"):
        changes.append((vit.patch_embed, "img_size", size))  # timm's patch embedding asserts it
    return changes


def _through_norm(vit: Any, norm: nn.Module, images: Tensor) -> Tensor:
    """Run the model's own forward and capture the output of its final norm: these models return CLS or a dictionary."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen.append(output)

    handle = norm.register_forward_hook(keep)
    try:
        vit.forward_features(images) if hasattr(vit, "forward_features") else vit(images)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise UserError(f"the final norm of {type(vit).__name__} ran {len(seen)} times; pass an Anatomy made by hand.")
    return seen[0]
