"""A training as a job: done once for all experiments, resumed after a kill from its last checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitreg.config import encode
from vitreg.experiments.begun import goes_on
from vitreg.experiments.options import Scale
from vitreg.experiments.trained.model import PREFIX, Trained
from vitreg.passes.jobs import Job, Work
from vitreg.training.settings import TrainConfig

CHANGE_NOTHING = (("data", "workers"), ("data", "cache"), ("data", "download"), ("run", "device"), ("run", "compile"))


def training_of(
    model: Trained, config: TrainConfig, listing: Sequence[str], device: str | None = None
) -> tuple[Job, Work]:
    """Return the job that trains a model, named by the hash of the training's configuration.

    Args:
        listing: what tells whether the files of the data are the same.
        device: where; it is no part of the key.
    """
    settings = encode(config)
    for table, name in CHANGE_NOTHING:
        settings[table].pop(name)

    def work(folder: Path) -> dict[str, Any]:
        return _train(replace(config, run=replace(config.run, device=device)), folder)

    return Job(
        f"training of {model.name.removeprefix(PREFIX)}", {"verb": "train", "config": settings, "data": list(listing)}
    ), work


def _train(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Train in the folder of the job, or go on there. Ctrl-C and SIGTERM leave a checkpoint and end the run of experiments."""
    from vitreg.verbs.train.verb import train

    outcome = train(config, folder, resume=goes_on(config, folder), evaluated=False)
    if outcome.reason == "stopped":
        raise KeyboardInterrupt
    return {"steps": outcome.step}


def in_words(model: Trained, scale: Scale, config: TrainConfig) -> str:
    """Say how a model was trained, for the page."""
    data = config.data.root
    made_up = ", which are synthetic" if data.startswith("synthetic:") else ""
    own = [f"decorrelation {model.decorrelation:g}"] * bool(model.decorrelation) + ["registers as slots"] * model.slots
    words = ", ".join([f"{config.run.duration} of {config.run.batch} images of {data}{made_up}", *own])
    return f"TRAINED HERE at {scale} scale: {words}"
