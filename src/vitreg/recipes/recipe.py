"""The protocol of training recipes: one final module whose forward gives a loss, and the methods that the loop calls.

A recipe holds everything that is trained or averaged (student, teacher, heads, centres), so that DDP, FSDP and a
checkpoint wrap one thing. The loop knows this protocol and nothing of labels, texts or crops.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from vitreg.data.batches.batch import TrainBatch
    from vitreg.recipes.foreign import Network
    from vitreg.recipes.parameters import ParamGroup
    from vitreg.recipes.settings.optim import OptimConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands. All randomness and all schedules of a step are pure functions of it.

    The process holds no random state: a resumed run, or one on another number of processes, draws the same numbers.

    Args:
        step: optimiser steps done before this one, 0 for the first.
        total: optimiser steps of the whole run.
        epoch_steps: optimiser steps of one epoch (DINOv2's "official epoch" is 1250 whatever the data).
        seed: of the run.
        first: place of the first sample of this (micro-)batch in the global batch of the step.
    """

    step: int
    total: int
    epoch_steps: int
    seed: int = 0
    first: int = 0

    @property
    def epoch(self) -> float:
        """Epochs done, with fraction."""
        return self.step / self.epoch_steps

    @property
    def fraction(self) -> float:
        """Share of the run that is done, 0 at the first step."""
        return self.step / max(1, self.total)

    def generator(self, purpose: str, group: int = 0) -> torch.Generator:
        """Return the CPU generator of one purpose ("depth", "mask", ...) and one group of this step.

        Args:
            purpose: independent draws have different names.
            group: number of the group in the global batch; see `groups`.
        """
        words = np.random.SeedSequence([self.seed, self.step, group, zlib.crc32(purpose.encode())]).generate_state(2)
        return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))

    def groups(self, samples: int, size: int) -> range:
        """Numbers of the groups that a batch of `samples` images from `first` on is made of.

        Official batch statistics (which samples skip a block, nearest neighbours of KoLeo, the lambda of Mixup, which
        images are masked) are those of one GPU's batch. Ours are those of a group of `size` consecutive samples, so
        they do not depend on how many processes share the global batch.

        Raises:
            ValueError: if the batch is not made of whole groups.
        """
        if samples % size or self.first % size:
            raise ValueError(f"{samples} images from place {self.first} are no whole groups of {size}")
        return range(self.first // size, (self.first + samples) // size)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The result of a recipe's forward pass.

    Args:
        loss: mean over this process's samples; averaged over processes it is that of the global batch.
        metrics: detached scalars worth a curve, such as the parts of the loss.
        examples: samples in the batch.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, Tensor] = field(default_factory=dict)
    examples: int = 0


class Recipe(Protocol):
    """A final `nn.Module` that the loop can train; `vitreg.testing.check_recipe` checks one."""

    group: int  # consecutive samples that share draws; a micro-batch holds whole groups

    def forward(self, batch: TrainBatch, progress: Progress) -> StepOutput:
        """Return the loss of a batch."""
        ...

    def after_step(self, progress: Progress) -> None:
        """Do what follows an optimiser step: EMA teacher, clamp of the logit scale."""
        ...

    def parameter_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """Sort every trainable parameter into exactly one group."""
        ...

    def begin_with(self, fill: Callable[[Any], list[str]]) -> list[str]:
        """Let `fill` load weights into the trained network, copy them to its averages, and return the result of
        `fill`."""
        ...

    def backbone(self) -> Network:
        """The network that evaluation and export read (the EMA teacher where the recipe has one)."""
        ...

    def why_whole_batch(self) -> str | None:
        """Say why a step cannot be split into micro-batches without changing the loss; None where it can."""
        ...

    def shards(self) -> list[nn.Module]:
        """Modules worth sharding, checkpointing and compiling on their own: the blocks of every tower."""
        ...
