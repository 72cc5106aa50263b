"""How long a design takes, said before it is run: from seconds of its runs that ended, or from a short training where none has."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitreg.experiments.lab.design import Design, Run
from vitreg.experiments.lab.factors import AFTER, IMAGES
from vitreg.passes.jobs import Job, Row
from vitreg.quantities import count, number
from vitreg.schedule import parse_duration
from vitreg.training.settings import TrainConfig, changed

TYPICAL = 4800
"""Steps of a run that solves its task, with the usual 1000 after: the mean of eight seeds without and with 4 registers."""
SHORT, TIMED = 4, 24
"""Steps of a short training, and how many more a longer one has: the difference is timed."""
Size = tuple[object, ...]


@dataclass(frozen=True)
class Plan:
    """What a design needs.

    Args:
        runs: in all; left: those without a row.
        hours: of a core, for those that are left, if each takes as many steps as is usual.
        most: the same, if none solves its task.
        steps: the usual number, of runs that end by their error.
        minutes: of a run, by the name of its cell.
        recorded: whether all is from runs that ended.
    """

    runs: int
    left: int
    hours: float
    most: float
    steps: int
    minutes: Mapping[str, float]
    recorded: bool

    def sentence(self, processes: int) -> str:
        """Say how long it takes."""
        if not self.left:
            return f"All {count(self.runs, 'run')} ended before."
        of = f"{self.left} of {count(self.runs, 'run')}" if self.left < self.runs else count(self.runs, "run")
        source = "by the runs that ended" if self.recorded else f"by {TIMED} steps timed here"
        beside = min(processes, self.left)
        together = f"{number(self.hours / beside)} with {count(beside, 'process', 'processes')}"
        return (
            f"{of}: about {number(self.hours)} hours of a core, {together} on an idle machine, if each takes "
            f"{self.steps:,} steps ({source}); {number(self.most / beside)} if none solves its task."
        )


def plan_of(design: Design, row_of: Callable[[Job], Row | None], timed: Callable[[TrainConfig], float]) -> Plan:
    """Return what is left of a design, and how long it takes.

    Args:
        row_of: returns the row of a job that has ended.
        timed: returns the seconds of a step, with its share of evaluations and looks.
    """
    rows = [(run, row_of(run.job)) for run in design.runs]
    ended = [(run, row) for run, row in rows if row is not None and not row.failed]
    left = [run for run, row in rows if row is None or row.failed]
    recorded = _recorded(ended)
    pace = dict(recorded)
    for run in left:
        if size_of(run.config) not in pace:
            pace[size_of(run.config)] = timed(run.config)
    taken = [row.found["steps"] for run, row in ended if "diverged" not in row.found and run.source is None]
    steps = min(design.steps, round(statistics.median(taken)) if taken else TYPICAL + design.more - AFTER)
    seconds = {
        most: [pace[size_of(run.config)] * (run.cell.steps or many) for run in left]
        for most, many in ((False, steps), (True, design.steps))
    }
    return Plan(
        runs=len(rows), left=len(left), hours=sum(seconds[False]) / 3600, most=sum(seconds[True]) / 3600, steps=steps,
        minutes={run.cell.name: pace[size_of(run.config)] * (run.cell.steps or steps) / 60 for run in left},
        recorded=bool(recorded) and all(size_of(run.config) in recorded for run in left),
    )  # fmt: skip


def _recorded(ended: Sequence[tuple[Run, Row]]) -> dict[Size, float]:
    """Return the median seconds of a step, of runs of each size that ended."""
    found: dict[Size, list[float]] = defaultdict(list)
    for run, row in ended:
        steps = row.found["steps"] - row.found.get("begun", 0)
        if steps > 0:
            found[size_of(run.config)].append(row.found.get("core_seconds", row.seconds) / steps)
    return {size: statistics.median(each) for size, each in found.items()}


def size_of(config: TrainConfig) -> Size:
    """Return what the seconds of a step depend on most."""
    model, run = config.model, config.run
    return (
        model.width,
        model.depth,
        model.heads,
        model.mlp_ratio,
        model.image_size // model.patch,
        run.batch,
        run.precision,
        model.patch,
        config.recipe.kind,
        "photos=" in config.data.root,
    )


def steps_of(duration: str, config: TrainConfig) -> int:
    """Return a duration of a run, such as how often it is looked at, in steps."""
    batch = config.run.batch
    whole = parse_duration(config.run.duration).steps(epoch_steps=IMAGES // batch, batch=batch)
    return max(1, parse_duration(duration).steps(epoch_steps=IMAGES // batch, batch=batch, total=whole))


class Timing:
    """Trains for a moment, and gives the seconds that one core needs for a step, with its share of evaluations and looks.

    Seconds of the core, not of the clock, so that a machine with other work says the same. How many steps a look is worth is
    measured once, with the first run.
    """

    def __init__(self) -> None:
        self.look: float | None = None  # in steps

    def __call__(self, config: TrainConfig) -> float:
        """Return the seconds of a step of a run."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            if self.look is None or "photos=" in config.data.root:
                _core_seconds(config, SHORT)  # what is loaded, compiled or read once
            begin, end = _core_seconds(config, SHORT), _core_seconds(config, SHORT + TIMED)
            step = max(0.0, end - begin) / TIMED
            if self.look is None:  # one at the start, one at the end
                looked = _core_seconds(config, SHORT, judged=True)
                self.look = max(0.0, looked - begin) / 2 / step if step else 0.0
        finally:
            torch.set_num_threads(threads)
        return step * (1 + self.look / steps_of(config.run.watch_every, config))


def _core_seconds(config: TrainConfig, steps: int, *, judged: bool = False) -> float:
    from vitreg.verbs.train.verb import train

    run: dict[str, Any] = {
        "duration": f"{steps} steps",
        "log_every": steps,
        "until": None,
        "save_every": f"{steps} steps",
    }
    run["start_from"] = None  # which takes a moment, once
    short = changed(config, {"run": run, "optim": {"warmup": f"{SHORT // 2} steps"}})
    with tempfile.TemporaryDirectory(prefix="vitreg-lab-") as place:
        begun = time.process_time()
        train(short, Path(place) / "run", judged=judged, evaluated=config.recipe.kind == "regression")
        return time.process_time() - begun
