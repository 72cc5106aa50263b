"""The ledger of a search: how many runs there were, and how far any of them came, also if that is nothing."""

from __future__ import annotations

from collections.abc import Sequence

from vitreg.analysis.intervals import wilson
from vitreg.quantities import count, number
from vitreg.records.lab import Answer, DesignRun

LEAST = 2.0
"""Largest norm of an image over its median that is worth counting; an artifact is above 5."""
NAMED = 3


def searched(runs: Sequence[DesignRun], asked: int, hours: float | None) -> Answer:
    """Say what a search found: the runs above `LEAST`, or that there is none, in how many runs and hours.

    Args:
        runs: those that ended; the failed and the diverged are counted apart.
        asked: runs of the design.
        hours: of a core that the design allows.
    """
    looked = [run for run in runs if not run.failed and run.outcome != "diverged"]
    above = sorted((run for run in looked if run.peak_ratio > LEAST), key=lambda run: -run.peak_ratio)
    spent = sum(run.seconds for run in runs) / 3600
    numbers: dict[str, float | None] = {"runs": len(looked), "above": len(above), "hours": spent}
    parts = []
    if not looked:
        parts.append("No run has ended yet.")
    else:
        top = max(looked, key=lambda run: run.peak_ratio)
        high = 100 * wilson(len(above), len(looked))[1]
        numbers |= {"largest": top.peak_ratio, "high": high / 100}
        of = f"in {count(len(looked), 'run')} of {number(spent)} hours of a core"
        if above:
            named = "; ".join(f"{run.name}: {number(run.peak_ratio)}" for run in above[:NAMED])
            parts.append(f"{len(above)} above {LEAST:g} times the median {of} ({named}).")
        else:
            parts.append(
                f"No artifact above {LEAST:g} times the median {of}; the largest is {number(top.peak_ratio)} ({top.name})."
            )
        parts.append(f"By chance alone up to {high:.0f} % of such runs could be (95 %).")
    if len(runs) > len(looked):
        parts.append(f"{count(len(runs) - len(looked), 'run')} failed or diverged.")
    if asked > len(runs):
        why = "the hours of the design are spent" if hours is not None and spent >= hours else "they have not ended"
        parts.append(f"{count(asked - len(runs), 'run')} of the design are not among them: {why}.")
    return Answer(
        question="Did the search find artifacts?", sentence=" ".join(parts), decided=bool(above), numbers=numbers
    )
