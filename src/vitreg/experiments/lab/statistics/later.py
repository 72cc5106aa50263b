"""The answer of runs that go on from others: whether artifacts that are there go, with registers added and without."""

from __future__ import annotations

from vitreg.experiments.lab.design import is_registers
from vitreg.experiments.lab.statistics.found import Found, changed
from vitreg.quantities import number, percent
from vitreg.records.lab import Answer, LabCell


def later(found: Found) -> Answer | None:
    """Say whether artifacts go when registers are added later and training goes on, against the same without them."""
    rows = [
        each
        for each in found.effects
        if each.after is not None and is_registers(each.factor) and not each.interaction and "last" in each.measures
    ]
    if not rows:
        return None
    said, numbers = list[str](), dict[str, float | None]()
    for row in rows:
        last, (added, control) = row.measures["last"], (found.cells[each[0]] for each in row.cells)
        ends = "" if last.low is None or last.high is None else f" ({number(last.low)} to {number(last.high)})"
        state = "decided" if last.decided else "undecided"
        said.append(
            f"with {changed(row)} artifacts are left in {_left(added)}, without in {_left(control)}; the largest norms over "
            f"the median are {number(last.value)} times as large{ends}, {state}"
        )
        numbers |= {row.level: last.value, f"{row.level}, low": last.low, f"{row.level}, high": last.high}
    return Answer(
        question="Do artifacts go when registers are added later?", decided=any(row.measures["last"].decided for row in rows),
        sentence=f"At the end of runs that go on from such with artifacts: {'; '.join(said)}.", numbers=numbers,
        cells=[cell for row in rows for side in row.cells for cell in side],
    )  # fmt: skip


def _left(cell: LabCell) -> str:
    share = cell.artifacts
    if share is None:
        return "no run that can say it"
    return f"{share.hits} of {share.of} runs ({percent(share.low)} to {percent(share.high)})"
