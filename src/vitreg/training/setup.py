"""The inputs of the training loop besides its configuration, its progress reports, and its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from vitreg.data.batches.batch import TrainBatch
from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.notebook import Shown


class DivergedError(UserError):
    """A loss or a gradient that is not finite: the run ends, and would end there again.

    Args:
        sentence: for the person who started the run.
        step: the first that failed, counted from 1.
    """

    def __init__(self, sentence: str, step: int) -> None:
        super().__init__(sentence)
        self.step = step


@dataclass(frozen=True, slots=True)
class Callback:
    """A function called every so many steps and at the end; its values are written to the journal.

    Args:
        kind: of the record, "evaluation" or "norms".
        every: steps.
        call: recipe with whole weights -> values; a collective call.
        best: the value that chooses the best checkpoint; None if it has no influence.
        better: whether a larger or a smaller value is better.
        at_start: also before the first step.
    """

    kind: str
    every: int
    call: Callable[[Any], dict[str, Any]]
    best: str | None = None
    better: Literal["max", "min"] = "max"
    at_start: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """A progress report of the loop, over the steps since the last one."""

    steps: int
    step: int
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """The inputs of a run besides its configuration.

    Args:
        batches: first step -> this process's batches from there on.
        mean, std: of the pixels.
        folder: of the run.
        device: where the recipe is trained.
        precision: of the matrix products.
        group: the processes that share the run.
        published: config.json of the run, of the schema vitreg.run/1; "step", of the weights beside it, is added.
        skipped: name and reason of unreadable samples so far.
        callbacks: evaluations during the run.
        tell: receives progress reports.
        stepped: is called after every finished step.
    """

    batches: Callable[[int], Iterable[TrainBatch]]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    folder: Path
    device: torch.device
    precision: torch.dtype
    group: Processes
    published: Mapping[str, Any]
    skipped: Callable[[], Mapping[str, str]] = dict
    callbacks: Sequence[Callback] = ()
    tell: Callable[[Moment], None] = lambda moment: None
    stepped: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Outcome(Shown):
    """How a run ended: with its plan, or by a signal after a checkpoint."""

    reason: Literal["done", "stopped"]
    step: int
    signal: int = 0
    notes: tuple[str, ...] = field(default=())
