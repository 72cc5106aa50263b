"""Conformance checks of an `Anatomy` against its model, for common mistakes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones.backbone import Backbone
from vitreg.backbones.trace import Capture
from vitreg.backbones.watch import undisturbed
from vitreg.errors import UserError
from vitreg.tokens import TokenLayout


def check_patch(backbone: Backbone) -> None:
    """The patch is the stride of the projection, and divides the native size into the grid."""
    anatomy, layout = backbone.anatomy, backbone.anatomy.layout(backbone.anatomy.native_size)
    projection = anatomy.patch_projection
    if isinstance(projection, nn.Conv2d) and projection.in_channels == anatomy.channels:
        assert projection.stride == anatomy.patch, (
            f"the anatomy says patches of {_by(anatomy.patch)}, and the patch projection has a stride of "
            f"{_by(projection.stride)}: Anatomy.patch is wrong"
        )
    sides = list(zip(anatomy.native_size, anatomy.patch, strict=True))
    grids = [tuple(side // step for side, step in sides), tuple(-(-side // step) for side, step in sides)]
    assert layout.grid in grids, (
        f"the layout has a grid of {_by(layout.grid)} at {_by(anatomy.native_size)} pixels, where patches of "
        f"{_by(anatomy.patch)} make {_by(grids[0])}"
    )


def check_blocks(backbone: Backbone, images: Float[Tensor, "B C H W"]) -> None:
    """Every block runs once in a forward, in the order given."""
    order: list[int] = []

    def noting(layer: int) -> Any:
        return lambda *_: order.append(layer)

    handles = [block.register_forward_hook(noting(layer)) for layer, block in enumerate(backbone.anatomy.blocks)]
    try:
        with undisturbed(backbone.module):
            backbone.anatomy.encode(images.to(backbone.device, backbone.dtype))
    finally:
        for handle in handles:
            handle.remove()
    wanted = list(range(backbone.depth))
    assert order == wanted, f"blocks run in the order {order}, and Anatomy.blocks lists them as {wanted}"


def check_places(backbone: Backbone, images: Float[Tensor, "B C H W"]) -> str | None:
    """Changing the pixels of a patch changes most the token that the layout gives for it, at the input of block 0."""
    image = images[:1]
    try:
        before = backbone.trace(image, Capture(input=True)).input[0]
    except UserError as error:
        return str(error)
    layout = backbone.layouts((images.shape[-2], images.shape[-1]))[0]
    (rows, cols), (height, width) = layout.grid, backbone.anatomy.patch
    for row, col in dict.fromkeys([(0, 0), (0, cols - 1), (rows // 2, cols // 3), (rows - 1, 0), (rows - 1, cols - 1)]):
        index = layout.patch(row, col)
        if index < 0 or (row + 1) * height > image.shape[-2] or (col + 1) * width > image.shape[-1]:
            continue
        other = image.clone()
        other[..., row * height : (row + 1) * height, col * width : (col + 1) * width] *= -3
        moved = (backbone.trace(other, Capture(input=True)).input[0] - before).float().norm(dim=-1)
        found = int(moved.argmax())
        assert found == index, (
            f"the pixels of patch ({row}, {col}) change token {found} most, which the layout calls {_called(layout, found)}: "
            f"it has the patch at {index}"
        )
    return None


def check_last_norm(backbone: Backbone, last: Float[Tensor, "B N D"], final: Float[Tensor, "B N D"]) -> None:
    """`final_norm` of the last block's output equals what the model returns."""
    with undisturbed(backbone.module):
        normed = backbone.anatomy.final_norm(last)
    assert torch.equal(normed, final), (
        "final_norm(hidden(-1)) is not what the model returns: Anatomy.final_norm is another module, or the last of "
        "Anatomy.blocks is not the last that runs"
    )


def _called(layout: TokenLayout, index: int) -> str:
    role = layout.role(index)
    if role != "patch":
        return f"a {role}" if role != "other" else "another token"
    row, col = divmod(layout.patch_index.tolist().index(index), layout.grid[1])
    return f"patch ({row}, {col})"


def _by(size: Any) -> str:
    return "x".join(map(str, size))
