"""The answer of when artifacts come, and whether they stay."""

from __future__ import annotations

from vitreg.experiments.lab.statistics.contrasts import mean_interval
from vitreg.experiments.lab.statistics.found import Found, interval
from vitreg.quantities import count
from vitreg.records.lab import Answer


def onsets(found: Found) -> Answer | None:
    """Say at which step artifacts come in the base, and in how many runs they were gone at the last look."""
    runs = [run for run in found.of(found.base) if run.onset is not None]
    steps = [run.onset for run in runs if run.onset is not None]
    if not steps:
        return None
    mean = mean_interval(steps, found.rounding)
    gone = sum(run.outcome == "dissolved" for run in runs)
    where = (
        f"step {steps[0]:,}"
        if len(steps) == 1
        else f"step {interval(mean)}, the earliest at {min(steps):,} and the latest at {max(steps):,}"
    )
    stayed = (
        "they were there at the end of each" if not gone else f"in {gone} of them they had dissolved again at the end"
    )
    return Answer(
        question="When do artifacts come, and do they stay?",
        sentence=f"Without a change they came at {where}, in {count(len(steps), 'run')}; {stayed}.",
        decided=mean.low is not None, cells=[found.base or 0],
        numbers={"onset": mean.value, "low": mean.low, "high": mean.high, "dissolved": float(gone)},
    )  # fmt: skip
