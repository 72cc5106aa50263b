"""The runs of the lab as jobs: what each trains, and several processes that share them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitreg.config import encode
from vitreg.experiments.begun import goes_on
from vitreg.experiments.born.options import LabOptions
from vitreg.passes.jobs import Job, Jobs, Row, Work
from vitreg.presets import preset
from vitreg.training.settings import TrainConfig, changed

SOLVED, AFTER = "val_asked < 0.01", "1000 steps"
IMAGES = 160_000
FAILED = "its process ended without a result; the same command tries again."


@dataclass(frozen=True)
class Born:
    """One run of the lab."""

    registers: int
    seed: int
    config: TrainConfig

    @property
    def name(self) -> str:
        """Such as "4 registers, seed 0"."""
        return f"{self.registers} register{'s' * (self.registers != 1)}, seed {self.seed}"

    @property
    def job(self) -> Job:
        """The job, named by the hash of everything that decides the run."""
        return Job(f"training with {self.name}", {"verb": "lab born", "config": encode(self.config)})


def runs_of(options: LabOptions) -> list[Born]:
    """Return the runs, seed by seed, so that the runs that are compared are done side by side."""
    counts = tuple(dict.fromkeys(options.registers))
    return [Born(count, seed, _config(count, seed, options)) for seed in range(options.seeds) for count in counts]


def _config(registers: int, seed: int, options: LabOptions) -> TrainConfig:
    tables: dict[str, Any] = {
        "data": {"root": f"synthetic:retrieval@{seed}:{IMAGES}"},
        "optim": {"warmup": f"{min(200, options.steps // 2)} steps"},
        "run": {
            "seed": seed, "duration": f"{options.steps} steps", "until": SOLVED, "until_more": AFTER, "device": "cpu", "keep": 1,
        },
    }  # fmt: skip
    return changed(preset(f"lab-retrieval-reg{registers}"), tables)


def train_all(
    runs: Sequence[Born], folder: Path, processes: int, watch: Callable[[], object], every: float = 5.0
) -> list[Row]:
    """Train the runs in several processes, each on one core, and return their rows in order.

    Args:
        watch: called every few seconds meanwhile.
    Raises:
        KeyboardInterrupt: after the runs have written a checkpoint each.
    """
    start = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    workers = [start.Process(target=_work, args=(list(runs), folder)) for _ in range(min(processes, len(runs)))]
    for each in workers:
        each.start()
    try:
        while any(each.is_alive() for each in workers):
            for each in workers:
                each.join(every / len(workers))
            watch()
    except KeyboardInterrupt:
        for each in workers:
            each.terminate()  # SIGTERM: the step is finished, and a checkpoint written
        raise
    finally:
        for each in workers:
            each.join()
    with Jobs(folder) as jobs:
        return [jobs.row(run.job) or _lost(run) for run in runs]


def _lost(run: Born) -> Row:
    return Row(name=run.job.name, settings=dict(run.job.settings), failed=FAILED, seconds=0.0, at=0.0)


def _work(runs: Sequence[Born], folder: Path) -> None:
    """Do what no other process does, on one core."""
    import torch

    torch.set_num_threads(1)
    try:
        with Jobs(folder) as jobs:
            for _ in jobs.each([(run.job, _training(run.config)) for run in runs]):
                pass
    except KeyboardInterrupt:  # the parent says so
        return


def _training(config: TrainConfig) -> Work:
    def work(folder: Path) -> Mapping[str, Any]:
        from vitreg.verbs.train.verb import train

        outcome = train(config, folder, resume=goes_on(config, folder))
        if outcome.reason == "stopped":
            raise KeyboardInterrupt
        return {"steps": outcome.step}

    return work
