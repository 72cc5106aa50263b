"""A complete run as one frozen value: model, data, recipe, optimiser and loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from vitreg.config import OneOf
from vitreg.data.sets.settings import DataConfig
from vitreg.models.settings import ModelConfig
from vitreg.recipes.known import kinds
from vitreg.recipes.registry import RecipeConfig
from vitreg.recipes.settings import OptimConfig, SupervisedConfig

__all__ = ["RecipeConfig", "RunConfig", "TrainConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """How the loop trains. Durations are "5000 steps", "300 epochs", "1.28M examples" or "10%" of the run."""

    duration: str = "100 epochs"
    """Length of the run."""
    batch: int = 1024
    """Images per optimiser step, over all processes."""
    micro_batch: int | None = None
    """Images per process at once; the step is accumulated from these. All at once if unset."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the matrix products; weights, statistics and losses are fp32. auto is bf16 where that is faster here."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: copies of the weights in every process, or shards of them (FSDP2)."""
    checkpoint_activations: bool = False
    """Recompute blocks in the backward pass instead of storing their activations."""
    compile: bool = False
    """torch.compile the blocks."""
    seed: int = 0
    """Of everything: weights, order, crops, masks."""
    device: str | None = None
    """cpu, cuda, mps; the best there is if unset."""
    start_from: str | None = None
    """A model to start from: whatever `vitreg scan` takes as SPEC; registers it lacks are added, untrained."""
    save_every: str = "5%"
    """How often a checkpoint is written; also after every evaluation, at the end and on SIGTERM."""
    keep: int = 2
    """Newest checkpoints kept, beside the best one."""
    evaluate_every: str = "10%"
    """How often the run is evaluated on the validation side, if there is one; also at the end."""
    watch_every: str = "5%"
    """How often the norms of the probe images are recorded, to see artifacts appear."""
    watch_images: int = 64
    """Probe images, the first of the validation side; 0 watches nothing."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard events (needs the tensorboard package)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything about a run, written beside its results."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: Annotated[RecipeConfig, OneOf(kinds)] = field(default_factory=SupervisedConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
