"""The records of verbs behind the numbers of an experiment, and what is drawn from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vitreg.experiments.experiment import Drawings
from vitreg.passes.jobs import RUNS
from vitreg.records import ScanResult
from vitreg.records.reproduction import ExperimentRecord, Measured


def scan_of(found: Measured, jobs: Path) -> ScanResult:
    """Return the scan of a subject.

    Args:
        jobs: folder of the run.
    Raises:
        OSError: if its folder is gone.
    """
    return ScanResult.model_validate_json((jobs / RUNS / found.jobs["scan"] / "result.json").read_bytes())


def images_of(found: Measured, jobs: Path) -> int | None:
    """Return from how many images the numbers of a subject come: those that its last probe was judged on, else those of its scan.

    Args:
        jobs: folder of the run.
    Returns:
        None where no images were looked at, or the record of the job is gone.
    """
    for verb in sorted(found.jobs, key=lambda verb: (verb == "scan", -list(found.jobs).index(verb))):
        try:
            held = json.loads((jobs / RUNS / found.jobs[verb] / "result.json").read_bytes())
            images = held["data"]["counts"]["test"] if held.get("task") else held["images"]
            return int(images["seen"] if isinstance(images, dict) else images)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
    return None


def scans_drawn(
    record: ExperimentRecord,
    jobs: Path,
    figure: Callable[[ScanResult], Any],
    shown: Callable[[Measured], object] = lambda found: True,
) -> Drawings:
    """Return a figure of the scan of each subject that has numbers.

    Args:
        figure: draws a scan. shown: whether a subject has one.
    """

    def draw(found: Measured) -> Any:
        return figure(scan_of(found, jobs))

    subjects = [(place, each) for place, each in enumerate(record.measured) if not each.failed and shown(each)]
    return {f"{record.id}-{place}": (each.subject, partial(draw, each)) for place, each in subjects}
