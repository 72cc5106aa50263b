"""Progress of long work on standard error: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from vitreg.console.terminal import say


class Advance(Protocol):
    """Counts finished units of work."""

    def __call__(self, n: int, how: str = "") -> None:
        """Count n more units; `how` adds a few words, such as the current loss."""
        ...


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Show the mean rate so far."""
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s", style="progress.data.speed")


@contextlib.contextmanager
def progress(
    what: str, total: int | None, *, unit: str, show: bool, done: int = 0, every: float = 60.0
) -> Generator[Advance, None, None]:
    """Give a function that advances the display by n units; `done` units were finished before.

    Args:
        every: seconds between two lines where standard error is not a terminal.
    """
    if not show:
        yield lambda n, how="": None
    elif not sys.stderr.isatty():
        yield _Lines(what, total, unit, done, every)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total, completed=done)
            yield lambda n, how="": bar.update(task, advance=n, description=f"{what}, {how}" if how else what)


class _Lines:
    """Prints progress as lines for a log."""

    def __init__(self, what: str, total: int | None, unit: str, done: int, every: float) -> None:
        self.what, self.total, self.unit, self.done, self.every = what, total, unit, done, every
        self.before, self.start = done, time.monotonic()
        self.said = self.start

    def __call__(self, n: int, how: str = "") -> None:
        """Count, and print a line if one is due."""
        self.done += n
        now = time.monotonic()
        if now - self.said < self.every:
            return
        self.said = now
        passed = now - self.start
        rate = (self.done - self.before) / passed if passed > 0 else 0.0  # a clock can stand still
        parts = [f"{self.what}: {self.done}" + (f" of {self.total}" if self.total else "") + f" {self.unit}"]
        parts += [how] if how else []
        if rate > 0:
            parts.append(f"{rate:.3g}/s")
        if self.total and rate > 0:
            parts.append(f"{timedelta(seconds=round((self.total - self.done) / rate))} left")
        say(", ".join(parts), error=True)
