"""Edits that add tokens to a model, and take them out again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.backbones.edits import Place
from vitreg.tokens import TokenLayout


@dataclass(frozen=True)
class AddTokens:
    """Tokens directly before the patches, without a position.

    Args:
        values: [R, D], what they are before block 0.
    """

    values: Float[Tensor, "R D"]

    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        """Put them before the first patch."""
        start = place.layout.first_patch
        added = self.values.to(tokens).expand(tokens.shape[0], -1, -1)
        return torch.cat([tokens[:, :start], added, tokens[:, start:]], 1)

    def layout(self, before: TokenLayout) -> TokenLayout:
        """They are registers."""
        return before.with_registers(len(self.values))


@dataclass(frozen=True)
class DropTokens:
    """The `count` tokens before the patches leave."""

    count: int

    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        """Take them out."""
        start = place.layout.first_patch
        return torch.cat([tokens[:, : start - self.count], tokens[:, start:]], 1)

    def layout(self, before: TokenLayout) -> TokenLayout:
        """They are gone."""
        return before.with_registers(-self.count)
