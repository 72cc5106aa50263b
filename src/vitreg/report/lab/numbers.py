"""The numbers of a design for other programs: a CSV of the effects and one of the runs."""

from __future__ import annotations

import csv
import io
from typing import Any

from vitreg.records.lab import BornRun, LabReport

OF_AN_EFFECT = ("block", "factor", "level", "against", "where", "average", "interaction", "after")
OF_AN_ESTIMATE = ("value", "low", "high", "p", "adjusted", "exact", "decided", "left_out", "censored")
OF_A_RUN = (
    "name", "registers", "seed", "outcome", "steps", "solved", "error", "onset", "peak_ratio", "peak_step", "last_ratio", "seconds",
    "failed", "diverged", "began",
)  # fmt: skip


def effects_csv(result: LabReport) -> str:
    """Return CSV: a header, then a line for each measure of each row of the table."""
    rows = [
        [
            *(getattr(each, name) for name in OF_AN_EFFECT),
            measure,
            *(getattr(found, name) for name in OF_AN_ESTIMATE),
            *found.runs,
        ]
        for each in result.effects
        for measure, found in each.measures.items()
    ]
    return _csv([*OF_AN_EFFECT, "measure", *OF_AN_ESTIMATE, "runs", "runs_against"], rows)


def runs_csv(result: LabReport) -> str:
    """Return CSV: a header, then a line for each run that ended; what a run lacks is empty."""
    rows = []
    for run in result.runs:
        rows.append(
            [result.cells[run.cell].name, *(getattr(run, name) for name in OF_A_RUN), *at_the_end(run).values()]
        )
    return _csv(["cell", *OF_A_RUN, *at_the_end(result.runs[0])] if result.runs else ["cell", *OF_A_RUN], rows)


def at_the_end(run: BornRun) -> dict[str, float | str | None]:
    """Return what the last look of a run says, by the names of columns; None for what it lacks."""
    found: dict[str, float | str | None] = {}
    for kind, sink in (("background", run.background), ("registers", run.registers_hold)):
        found |= {f"{name}_{kind}": sink and getattr(sink, name) for name in ("attention", "values", "norm")}
    share = run.registers_share
    found["attention_each_register"] = share and " ".join("" if each is None else f"{each:g}" for each in share.each)
    found |= {"largest_register": share and share.largest, "effective_registers": share and share.effective}
    found["effective_registers_in_a_head"] = share and share.in_a_head
    for kind, looked in (("most", run.most), ("foreground", run.foreground)):
        found |= {f"{name}_{kind}": looked and getattr(looked, name) for name in ("attention", "values", "norm")}
        found[f"kinds_{kind}"] = looked and " ".join(f"{name} {each:g}" for name, each in looked.kinds.items())
    return {**found, "heads_with_a_sink": run.sinks}


def _csv(head: list[str], rows: list[list[Any]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(head)
    table.writerows(rows)
    return text.getvalue()
