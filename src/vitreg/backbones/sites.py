"""The sites of a Vision Transformer: where a running model can be read (`Capture`) and written (`Edit`).

In the order in which a forward passes them:

    forward     the whole call: images -> Tokens
    image       the images [B, C, H, W]
    input       the tokens [B, N, D] that enter block 0, after any norm before it
    attention   the `QKV` of a block, as attention computes with it; keys E of no token may stand behind the others
    weights     attention after softmax [B, heads, N, N + E], float32
    mlp         the input of the last projection of a block's MLP [B, N, hidden]
    block       the output of a block [B, N, D], before the final norm
"""

from __future__ import annotations

from typing import Literal, get_args

from vitreg.errors import UserError

Site = Literal["forward", "image", "input", "attention", "weights", "mlp", "block"]
SITES: tuple[Site, ...] = get_args(Site)
IN_BLOCKS: frozenset[Site] = frozenset({"attention", "weights", "mlp", "block"})


def resolve_layer(layer: int, depth: int) -> int:
    """Return the block index 0..depth-1; negative ones count from the end.

    Raises:
        UserError: if there is no such block.
    """
    if not -depth <= layer < depth:
        raise UserError(f"no block {layer} in a model of {depth} blocks (0 to {depth - 1}, or -1 for the last).")
    return layer % depth


def name_of(site: Site, layer: int | None) -> str:
    """Return a place in words: "the output of block 3", "the mlp of block 3", "the input"."""
    if layer is None:
        return f"the {site}"
    return f"the output of block {layer}" if site == "block" else f"the {site} of block {layer}"
