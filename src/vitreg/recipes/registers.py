"""Register options of every recipe: hide some of them at random, and decorrelate them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.models.settings import ModelConfig
from vitreg.recipes.losses import register_decorrelation
from vitreg.recipes.recipe import Progress


def keep_registers(
    model: ModelConfig, samples: int, group: int, progress: Progress, *, views: int = 1
) -> Bool[Tensor, "V*B R"] | None:
    """Draw which registers each sample has in this step; None where all have all.

    Args:
        samples: B, of the batch.
        group: consecutive samples drawn together, so that the draw does not depend on how the batch is shared out.
        views: V crops of each sample, crop by crop, drawn independently.
    """
    if not model.registers or not model.register_dropout:
        return None
    draws = [
        torch.rand(views, group, model.registers, generator=progress.generator("registers", number))
        for number in progress.groups(samples, group)
    ]
    return (torch.cat(draws, dim=1) >= model.register_dropout).flatten(0, 1)  # [V * B, R]


def register_penalty(model: ModelConfig, registers: Iterable[Float[Tensor, "B R D"]]) -> Float[Tensor, ""] | None:
    """Return the weighted decorrelation penalty, the mean over stacks of crops; None where it is off."""
    if not model.register_decorrelation or model.registers < 2:
        return None
    return model.register_decorrelation * torch.stack([register_decorrelation(r) for r in registers]).mean()
