"""How dense heads are trained: AdamW with the learning rate of mmsegmentation's ADE20k and NYUd configurations.

The caller supplies the loss of each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.errors import UserError
from vitreg.machine.runtime import keep_freed_memory


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadTraining:
    """AdamW with betas 0.9 and 0.999.

    Args:
        steps: of the optimiser.
        rate: learning rate at the peak of the curve without its warm-up.
        warmup: steps at the beginning, over which the rate is multiplied by a factor that rises to 1.
        warmup_ratio: that factor at step 0.
        curve: how the rate falls from step 0 on, to 0: in a straight line (mmcv's poly of power 1) or a half cosine.
        clip: largest L2 norm of the gradient, None for any.
    """

    steps: int
    rate: float
    warmup: int
    warmup_ratio: float
    curve: Literal["poly", "cosine"]
    weight_decay: float
    clip: float | None = None

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, 0 the first; warm-up and curve run at the same time, as in mmcv."""
        done = step / self.steps
        rate = self.rate * (1 - done if self.curve == "poly" else (1 + math.cos(math.pi * done)) / 2)
        if step < self.warmup:
            rate *= 1 - (1 - step / self.warmup) * (1 - self.warmup_ratio)
        return rate


ADE20K = HeadTraining(
    steps=40_000, rate=1e-3, warmup=1500, warmup_ratio=1e-6, curve="poly", weight_decay=1e-4
)  # fmt: skip
"""Linear segmentation on ADE20k: batches of 16 crops."""
NYUD = HeadTraining(
    steps=38_400, rate=1e-4, warmup=12_800, warmup_ratio=1e-3, curve="cosine", weight_decay=0.01, clip=35.0
)
"""Linear depth on NYUd: batches of 16 crops. The cosine ends at 1e-8 of the peak there, at 0 here."""


def fit_head(
    head: nn.Module,
    loss_at: Callable[[int], Float[Tensor, ""]],
    training: HeadTraining,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """Train a head, leave it in evaluation mode, and return the loss of every step.

    Args:
        loss_at: step -> loss of the batch of that step, through the head.
        advance: called with 1 after each step.
    Raises:
        UserError: if the loss is not finite.
    """
    optimiser = torch.optim.AdamW(head.parameters(), lr=training.rate, weight_decay=training.weight_decay)
    keep_freed_memory()
    head.train()
    losses = []
    for step in range(training.steps):
        for group in optimiser.param_groups:
            group["lr"] = training.rate_at(step)
        loss = loss_at(step)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise UserError(
                f"the loss of the head is {losses[-1]} at step {step}: features are not finite, or the learning rate "
                f"{training.rate:g} is too large."
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if training.clip is not None:
            nn.utils.clip_grad_norm_(head.parameters(), training.clip)
        optimiser.step()
        advance(1)
    head.eval()
    return losses
