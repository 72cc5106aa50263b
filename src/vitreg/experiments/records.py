"""The records of verbs behind the numbers of an experiment."""

from __future__ import annotations

from pathlib import Path

from vitreg.passes.jobs import RUNS
from vitreg.records import ScanResult
from vitreg.records.reproduction import Measured


def scan_of(found: Measured, jobs: Path) -> ScanResult:
    """Return the scan of a subject.

    Args:
        jobs: folder of the run.
    Raises:
        OSError: if its folder is gone.
    """
    return ScanResult.model_validate_json((jobs / RUNS / found.jobs["scan"] / "result.json").read_bytes())
