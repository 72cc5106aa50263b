"""Lives of a run of `reproduce`: forked processes that are killed at a given event, on one folder, and what is left at the end."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.apart import end_of

from vitreg.analysis.tally import Tally
from vitreg.experiments.experiment import Says
from vitreg.passes import jobs, saved_pass
from vitreg.report.reproduction import page
from vitreg.training.fit import _Loop

EVENTS: dict[str, tuple[Any, str]] = {
    "scanning": (Tally, "add"), "keeping": (jobs, "write_text"), "judging": (Says, "outcome"), "writing": (os, "replace"),
    "drawing": (page, "_save"), "training": (_Loop, "_update"),
}  # fmt: skip
"""What a life is killed at: a batch of a scan, the row of a job, an outcome, a file of the result put in its place, a figure,
a step of a training."""
OF_THE_RUN = {
    "provenance",
    "started",
    "seconds",
    "hours",
    "begun",
    "core_seconds",
    "at",
    "images_per_second",
    "wait_share",
}  # when, where and how fast, not what


def life(do: Callable[[], object], event: str, at: int) -> int:
    """Do something in a process of its own, which is killed before a given event, counted from 1.

    Args:
        event: one of `EVENTS`, or "opening": any file that is opened.
    Returns:
        how it ended, as `end_of` does.
    """

    def dying() -> None:
        saved_pass.EVERY = 0.0  # every batch is saved
        seen: list[int] = []

        def count() -> None:
            seen.append(1)
            if len(seen) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        if event == "opening":
            sys.addaudithook(lambda name, _: count() if name == "open" else None)
        else:
            _before(*EVENTS[event], lambda *given: count() if event != "writing" or _of_the_result(given[1]) else None)
        do()

    return end_of(dying)


def opened(do: Callable[[], object]) -> int:
    """Count the files that something opens."""
    seen: list[int] = []
    counting = [True]
    sys.addaudithook(lambda name, _: seen.append(1) if counting and name == "open" else None)
    try:
        do()
    finally:
        counting.clear()
    return len(seen)


def _of_the_result(path: Any) -> bool:
    return not {"runs", "jobs"} & set(Path(path).parts)


def _before(owner: Any, name: str, told: Callable[..., object]) -> None:
    held = getattr(owner, name)

    def counted(*given: Any, **named: Any) -> Any:
        told(*given)
        return held(*given, **named)

    setattr(owner, name, counted)


def kept(out: Path) -> Mapping[str, Any]:
    """Return what a run leaves, by file: records without times and provenance, everything else but pages as bytes."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".json" and path.name != ".vitreg.json":
            found[name] = _without(json.loads(path.read_text()), str(out))
        elif path.suffix == ".jsonl":
            found[name] = [_without(json.loads(line), str(out)) for line in path.read_text().splitlines()]
        elif path.is_file() and not path.name.startswith(".") and path.suffix != ".html":
            found[name] = path.read_bytes()
    return found


def _without(held: Any, out: str) -> Any:
    if isinstance(held, dict):
        return {name: _without(value, out) for name, value in held.items() if name not in OF_THE_RUN}
    if isinstance(held, list):
        return [_without(each, out) for each in held]
    return held.replace(out, "OUT") if isinstance(held, str) else held
