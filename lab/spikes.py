"""Do artifacts dissolve in spikes of the loss? For each run of `vitreg lab run`: the looks at which they were gone, and how far
the loss had risen.

    python lab/spikes.py lab-dissolve

An artifact is a largest norm above 5 times the median, as in `vitreg lab`. It is gone at a look below 5 whose last was above.
The rise is the largest loss of the steps between these two looks over the median loss of the `BEFORE` steps before them; losses
are means of 50 steps, as the run logs them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import pairwise
from pathlib import Path

from vitreg.experiments.lab.looks import largest
from vitreg.experiments.lab.said import ARTIFACT
from vitreg.records import NormsMoment
from vitreg.records.lab import LabReport
from vitreg.training.history import read_run
from vitreg.training.journal import read_records

BEFORE = 350


def rises(folder: Path) -> dict[int, float]:
    """Return by how many times the loss rose in the looks' interval in which artifacts went, by the step of the later look."""
    losses = [(each["step"], each["loss"]) for each in read_records(folder) if each["kind"] == "train"]
    watched = read_run(folder).watched
    moments: list[NormsMoment] = list(watched.moments) if watched else []
    found = {}
    for one, other in pairwise(moments):
        if largest(one) > ARTIFACT >= largest(other):
            between = [loss for step, loss in losses if one.step < step <= other.step]
            before = [loss for step, loss in losses if one.step - BEFORE < step <= one.step]
            found[other.step] = max(between) / statistics.median(before)
    return found


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --out of a vitreg lab run that has ended, with its runs")
    folder = parser.parse_args().folder
    report = LabReport.model_validate(json.loads((folder / "result.json").read_text()))
    for run in report.runs:
        gone = ", ".join(f"{step:,} (loss x {rise:.1f})" for step, rise in rises(folder / run.folder).items())
        print(f"{run.name}: {run.outcome}, at most {run.peak_ratio:.3g}; gone at {gone or 'no look'}")


if __name__ == "__main__":
    main()
