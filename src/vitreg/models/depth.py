"""Stochastic depth drawn in advance: which samples skip which residual branch in a step.

The network itself draws nothing, so a step is the same with or without activation checkpointing, and on one process or
two. Two modes: DropPath per sample (Huang et al. 2016; DeiT-III), and DINOv2's, which computes a branch for a fixed
share of the samples and saves the time of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitreg.errors import UserError, unknown

MODES: tuple[str, ...] = ("sample", "subset")


class Draws(Protocol):
    """The generators that drawing needs; `vitreg.recipes.recipe.Progress` has them."""

    def generator(self, purpose: str, group: int = 0) -> torch.Generator:
        """Return the CPU generator of one purpose and one group of samples."""
        ...

    def groups(self, samples: int, size: int) -> range:
        """Return the numbers of the groups that a batch is made of."""
        ...


@dataclass(frozen=True, slots=True)
class SampleDraw:
    """One factor per sample for a branch: 0 skips it, 1 / (1 - rate) keeps the mean."""

    factor: Float[Tensor, "B"]

    def choose(self, x: Tensor) -> Tensor:
        """Return the samples for which the branch is computed: all."""
        return x

    def add(self, x: Float[Tensor, "B N D"], residual: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Add the branch's output."""
        return x + (residual * self.factor[:, None, None]).to(x.dtype)


@dataclass(frozen=True, slots=True)
class SubsetDraw:
    """A branch computed for the kept samples only, scaled by (all samples) / (kept samples)."""

    kept: Int[Tensor, "K"]
    weight: float

    def choose(self, x: Tensor) -> Tensor:
        """Return the samples for which the branch is computed: [B, ...] -> [K, ...]."""
        return x.index_select(0, self.kept)

    def add(self, x: Float[Tensor, "B N D"], residual: Float[Tensor, "K N D"]) -> Float[Tensor, "B N D"]:
        """Add the branch's output to the kept samples; the others stay."""
        return x.index_add(0, self.kept, residual.to(x.dtype), alpha=self.weight)


Draw = SampleDraw | SubsetDraw


@dataclass(frozen=True, slots=True)
class DepthPlan:
    """Which samples of a batch go through which branch of which block; axis 1 is (attention, MLP).

    Args:
        draws: factors [L, 2, B] of every sample, or indices [L, 2, K] of the samples that are kept.
        weight: (all samples) / (kept samples); None if `draws` are factors.
    """

    draws: Float[Tensor, "L 2 B"] | Int[Tensor, "L 2 K"]
    weight: float | None = None

    def to(self, device: torch.device) -> DepthPlan:
        """Return the plan on a device, in one copy."""
        return DepthPlan(self.draws.to(device, non_blocking=True), self.weight)

    def of(self, block: int) -> tuple[Draw, Draw]:
        """Return the draws for the attention and the MLP of a block."""
        attention, mlp = self.draws[block]
        if self.weight is None:
            return SampleDraw(attention), SampleDraw(mlp)
        return SubsetDraw(attention, self.weight), SubsetDraw(mlp, self.weight)


def draw_depth(
    rate: float,
    blocks: int,
    samples: int,
    mode: Literal["sample", "subset"],
    group: int,
    progress: Draws,
    *,
    views: int = 1,
    purpose: str = "depth",
) -> DepthPlan | None:
    """Draw stochastic depth for a batch, group by group; the rate is the same for all blocks (DINOv2, DeiT-III).

    Args:
        rate: chance that a sample skips a branch.
        samples: B, of the batch.
        mode: "sample" draws for each sample and keeps the mean share only on average; "subset" keeps exactly
            max(int(group * (1 - rate)), 1) samples of every group and computes nothing for the others (DINOv2).
        group: consecutive samples drawn together, so that the draw does not depend on how the batch is shared out.
        views: V crops of each sample, stacked crop by crop [V * B]; each crop draws its own.
        purpose: a name for each stack of a step; equal names draw alike.
    Returns:
        A plan on the CPU for a stack of V * B images, or None where the rate is 0.
    Raises:
        UserError: if the rate is not a chance below 1, or there is no such mode.
        ValueError: if the batch is not made of whole groups.
    """
    if not 0 <= rate < 1:
        raise UserError(f"the drop-path rate is a chance from 0 to below 1, not {rate:g}.")
    if mode not in MODES:
        raise unknown("drop-path mode", mode, MODES)
    if not rate:
        return None
    kept = max(int(group * (1 - rate)), 1)
    drawn: list[Tensor] = []
    for place, number in enumerate(progress.groups(samples, group)):
        chance = torch.rand(views, blocks, 2, group, generator=progress.generator(purpose, number))
        if mode == "sample":
            drawn.append((chance >= rate).float() / (1 - rate))  # [V, L, 2, g]
        else:
            first = (
                place * group + samples * torch.arange(views)[:, None, None, None]
            )  # of the group in each crop's part
            drawn.append(chance.argsort(dim=-1)[..., :kept].sort(dim=-1).values + first)  # [V, L, 2, kept]
    draws = torch.cat(drawn, dim=-1).permute(1, 2, 0, 3).flatten(2)  # [L, 2, V * B] or [L, 2, V * K]
    return DepthPlan(draws, group / kept if mode == "subset" else None)
