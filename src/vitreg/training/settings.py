"""A complete run as one frozen value: model, data, recipe, optimiser and loop."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Annotated, Any, Literal

from vitreg.config import OneOf, decode, encode, flatten, merge
from vitreg.data.sets.settings import DataConfig
from vitreg.errors import UserError, unknown
from vitreg.models.settings import ModelConfig
from vitreg.recipes.known import kinds
from vitreg.recipes.registry import RecipeConfig
from vitreg.recipes.settings import OptimConfig, SupervisedConfig

__all__ = ["RecipeConfig", "RunConfig", "TrainConfig", "changed"]


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
    until: str | None = None
    """End before the duration once a number of the evaluations has fallen below a bound, as in "val_loss < 0.01"."""
    until_more: str = "0 steps"
    """How long the run goes on after that."""
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
    watch_maps: int = 0
    """Of the probe images, how many keep the norms of all their patches in the records, to be drawn as maps."""
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


def changed(config: TrainConfig, tables: Mapping[str, Any]) -> TrainConfig:
    """Return a run with other settings.

    Args:
        tables: settings by their table, {"optim": {"lr": 1e-3}}; what a table leaves out stays as it is.
    Raises:
        UserError: for a setting that does not exist, or a value that does not fit it.
    """
    if not isinstance(config, TrainConfig):
        raise UserError(f"config takes a TrainConfig or the name of a preset, not {config!r}.")
    known = encode(config)
    for name, table in tables.items():
        homes = [key.rsplit(".", 1)[0] for key in flatten(known) if key.rsplit(".", 1)[-1] == name]
        if name not in known and homes:
            raise UserError(
                f"no keyword '{name}' in vitreg.train: it is a setting of {homes[0]}; give {homes[0]}={{'{name}': ...}}."
            )
        if name not in known:
            raise unknown("keyword", name, [*known, "resume", "quiet", "judged", "evaluated"], "vitreg.train")
        if not isinstance(table, Mapping) and not is_dataclass(table):
            raise UserError(
                f"{name} takes a table of settings such as {{'{next(iter(known[name]))}': ...}}, not {table!r}."
            )
    given = json.loads(json.dumps(dict(tables), default=_plain))
    return decode(TrainConfig, merge(known, given), where="vitreg.train") if given else config


def _plain(value: Any) -> Any:
    """Return what JSON does not know as plain data."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    plain = getattr(value, "tolist", None)  # of arrays and numbers of NumPy and torch
    if plain is not None:
        return plain()
    raise UserError(f"a {type(value).__name__} is no value of a setting.")
