"""Edits of a few lines: of values, and of which tokens there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vitreg.backbones import Place
from vitreg.backbones.trace import QKV
from vitreg.tokens import TokenLayout


@dataclass(frozen=True)
class Scale:
    factor: float

    def __call__(self, value: Any, _place: Place) -> Any:
        if isinstance(value, QKV):
            return replace(value, v=value.v * self.factor)
        return value * self.factor


@dataclass(frozen=True)
class Shift:
    by: Tensor

    def __call__(self, value: Tensor, _place: Place) -> Tensor:
        return value + self.by


@dataclass(frozen=True)
class Extra:
    """Registers of zeros before the patches."""

    count: int

    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        start = place.layout.patches.start
        more = tokens.new_zeros(len(tokens), self.count, tokens.shape[2])
        return torch.cat([tokens[:, :start], more, tokens[:, start:]], 1)

    def layout(self, before: TokenLayout) -> TokenLayout:
        return before.with_registers(self.count)
