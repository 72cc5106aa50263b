"""The runs of the lab as jobs: what each trains, and several processes that share them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitreg.config import read
from vitreg.errors import UserError
from vitreg.experiments.begun import goes_on
from vitreg.experiments.lab.design import Run
from vitreg.passes.jobs import Jobs, Row, Work
from vitreg.training.settings import TrainConfig

FAILED = "its process ended without a result; the same command tries again."


def train_all(
    runs: Sequence[Run],
    folder: Path,
    processes: int,
    watch: Callable[[], object],
    every: float = 5.0,
    hours: float | None = None,
) -> list[Row]:
    """Train the runs in several processes, each on one core, and return their rows in order.

    Args:
        watch: called every few seconds meanwhile.
        hours: of a core; no run begins once the runs took so long.
    Raises:
        KeyboardInterrupt: after the runs have written a checkpoint each.
        UserError: if a row cannot be written, as on a full disk; the rows that are there stay.
    """
    start = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    said = start.SimpleQueue()
    workers = [
        start.Process(target=_work, args=(list(runs), folder, said, hours)) for _ in range(min(processes, len(runs)))
    ]
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
        rows = [jobs.row(run.job) for run in runs]
    if not all(rows) and not said.empty():
        raise UserError(said.get())
    return [row or _lost(run) for run, row in zip(runs, rows, strict=True)]


def work_on(runs: Sequence[Run], folder: Path, hours: float | None = None) -> None:
    """Do the runs that no other process does, one after the other.

    Args:
        hours: of a core, see `train_all`.

    Raises:
        KeyboardInterrupt: after a run was stopped and has written a checkpoint.
        UserError: if a row cannot be written.
    """
    with Jobs(folder) as jobs:
        if _spent(runs, jobs, hours):
            return
        for _ in jobs.each([(run.job, _work_of(run, jobs)) for run in runs]):
            if _spent(runs, jobs, hours):
                return


def _spent(runs: Sequence[Run], jobs: Jobs, hours: float | None) -> bool:
    """Whether the runs that ended took as many hours of a core as they may."""
    if hours is None:
        return False
    rows = [jobs.row(run.job) for run in runs]
    return sum(row.found.get("core_seconds", row.seconds) for row in rows if row is not None) >= hours * 3600


def _lost(run: Run) -> Row:
    return Row(name=run.job.name, settings=dict(run.job.settings), failed=FAILED, seconds=0.0, at=0.0)


def _work(runs: Sequence[Run], folder: Path, said: Any, hours: float | None = None) -> None:
    """Work on one core; what ends the work is told to the parent, which says it."""
    import torch

    torch.set_num_threads(1)
    try:
        work_on(runs, folder, hours)
    except KeyboardInterrupt:
        return
    except UserError as error:
        said.put(error.sentence)


def _work_of(run: Run, jobs: Jobs) -> Work:
    """Return what does a run. One that goes on first sees to it that the run before it has ended."""
    source = run.source
    if source is None:
        return _training(run.config)

    def work(folder: Path) -> Mapping[str, Any]:
        row = jobs.do(source.job, _work_of(source, jobs))
        if row.failed or "diverged" in row.found:
            raise UserError(f"the run that it goes on from {'failed: ' + row.failed if row.failed else 'diverged.'}")
        return _training(_found(run.config, folder, jobs.files(source.job)))(folder)

    return work


def _found(config: TrainConfig, folder: Path, source: Path) -> TrainConfig:
    """Return a run with the folder that it starts from; one that has begun keeps what it says, also where all was moved."""
    begun = folder / "config.json"
    held = read(begun).get("train", {}).get("run", {}).get("start_from") if begun.is_file() else None
    return replace(config, run=replace(config.run, start_from=held or f"run:{source}"))


def _training(config: TrainConfig) -> Work:
    """Return what trains a run. A run that diverges has ended: trained again, it would diverge again."""

    def work(folder: Path) -> Mapping[str, Any]:
        from vitreg.training.setup import DivergedError

        resumed = goes_on(config, folder)
        found: dict[str, Any] = {"begun": _last_step(folder) if resumed else 0}
        begun = time.process_time()
        try:
            found["steps"] = trained(config, folder, resumed)
        except DivergedError as error:
            found["steps"] = error.step
            found["diverged"] = f"the loss or the gradient of step {error.step:,} is not finite."
        return {**found, "core_seconds": time.process_time() - begun}

    return work


def trained(config: TrainConfig, folder: Path, resumed: bool) -> int:
    """Train a run to its end, and return its steps.

    Raises:
        KeyboardInterrupt: if it was stopped; a checkpoint is written.
    """
    from vitreg.verbs.train.verb import train

    outcome = train(
        config, folder, resume=resumed, evaluated=config.recipe.kind == "regression"
    )  # else nothing reads it
    if outcome.reason == "stopped":
        raise KeyboardInterrupt
    return outcome.step


def _last_step(folder: Path) -> int:
    from vitreg.training import checkpoint

    newest = checkpoint.latest(folder)
    return 0 if newest is None else int(newest.name.rpartition("-")[2])
