"""Durations of a run converted to optimiser steps, once."""

from __future__ import annotations

from dataclasses import dataclass

from vitreg.errors import UserError
from vitreg.schedule import Until, parse_duration, until_of
from vitreg.training.settings import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All in optimiser steps."""

    total: int
    epoch_steps: int
    warmup: int
    save_every: int
    evaluate_every: int
    watch_every: int
    until: Until | None = None


def plan(config: TrainConfig, epoch_length: int, official_epoch: int | None = None) -> Plan:
    """Convert the durations of a run.

    Args:
        epoch_length: samples of one epoch of the data.
        official_epoch: steps that count as an epoch whatever the data (DINOv2: 1250).
    Raises:
        UserError: for an invalid duration, a run of less than a step, or one that is only warm-up.
    """
    batch = config.run.batch
    epoch_steps = official_epoch or max(1, epoch_length // batch)
    total = parse_duration(config.run.duration).steps(epoch_steps=epoch_steps, batch=batch)
    if total < 1:
        raise UserError(f"--run.duration {config.run.duration} is less than one step of {batch} images.")

    def steps(text: str) -> int:
        return parse_duration(text).steps(epoch_steps=epoch_steps, batch=batch, total=total)

    until = until_of(config.run.until, config.run.until_more, epoch_steps=epoch_steps, batch=batch, total=total)
    warmup = steps(config.optim.warmup)
    if warmup >= total:
        raise UserError(
            f"--optim.warmup {config.optim.warmup} is {warmup} steps and the whole run {total}; the rate would only rise."
        )
    return Plan(
        total=total,
        epoch_steps=epoch_steps,
        warmup=warmup,
        save_every=max(1, steps(config.run.save_every)),
        evaluate_every=max(1, steps(config.run.evaluate_every)),
        watch_every=max(1, steps(config.run.watch_every)),
        until=until,
    )
