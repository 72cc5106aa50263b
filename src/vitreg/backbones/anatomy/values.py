"""The value projection of a block and the norm before it, found by the names that libraries give them."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones.anatomy.parts import AttentionParts

NORMS = ("norm1", "ln_1", "layer_norm1", "layernorm_before")


def norm_before_attention(block: nn.Module) -> nn.Module | None:
    """Return the norm whose output attention projects, None if the block is built otherwise."""
    found = (getattr(block, name, None) for name in NORMS)
    return next((norm for norm in found if isinstance(norm, nn.Module)), None)


def value_weight(parts: AttentionParts) -> Float[Tensor, "V D"]:
    """Return the weight that projects values, all heads below one another."""
    weights = parts.weights()
    return weights[-1] if len(weights) == 3 else weights[0].chunk(3)[-1]
