"""The figures, the tables and the page of a reproduction, from its record and what its jobs wrote."""

from __future__ import annotations

from pathlib import Path

from vitreg.experiments.experiment import Drawings
from vitreg.experiments.known import EXPERIMENTS
from vitreg.records.reproduction import Reproduction
from vitreg.report.attempts import Attempts
from vitreg.report.reproduction.page import draw_reproduction


def draw_again(result: Reproduction, jobs: Path, place: Path, attempts: Attempts) -> None:
    """Draw a reproduction into a folder. No model is run.

    Args:
        jobs: folder of the run, with the records of its jobs.
        attempts: collects drawings that fail, among them all of an experiment that this version does not know.
    Raises:
        UserError: if the folder cannot be written.
    """
    drawings: dict[str, Drawings] = {}
    for each in result.experiments:
        found = attempts(f"figures of {each.id}", lambda each=each: EXPERIMENTS[each.id].draw(each, jobs))
        drawings[each.id] = found or {}
    draw_reproduction(result, drawings, place, attempts)
