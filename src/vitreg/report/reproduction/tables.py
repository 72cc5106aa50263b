"""The numbers of an experiment as CSV and as a LaTeX table, the paper's beside them as far as it gives any."""

from __future__ import annotations

import csv
import io
import re

from vitreg.quantities import number
from vitreg.records.reproduction import ExperimentRecord

CITATION = "Darcet, Oquab, Mairal, Bojanowski: Vision Transformers Need Registers. ICLR 2024."
_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}


def columns(each: ExperimentRecord) -> list[str]:
    """Name the numbers of an experiment, in the order in which its subjects bring them."""
    return list(dict.fromkeys(name for found in each.measured for name in found.numbers))


def as_csv(each: ExperimentRecord) -> str:
    """Return a header, and a line for each subject; a number that it lacks is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["subject", *columns(each), "failed"])
    for found in each.measured:
        table.writerow([found.subject, *(found.numbers.get(name) for name in columns(each)), found.failed])
    return text.getvalue()


def as_latex(each: ExperimentRecord) -> str:
    """Return a tabular for booktabs: claims, what became of each, and the numbers behind it."""
    rows = [
        " & ".join(
            escaped(cell) for cell in (claim.subject, claim.says, claim.paper or "–", claim.reason, claim.outcome)
        )
        for claim in each.claims
    ]
    head = " & ".join(("subject", "claim", "paper", "here", "outcome"))
    return "\n".join([
        f"% {each.label}: {each.title}. Claims of {CITATION}",
        r"\begin{tabular}{lp{0.3\linewidth}lp{0.25\linewidth}l}", r"\toprule", rf"{head} \\", r"\midrule",
        *(rf"{row} \\" for row in rows), r"\bottomrule", r"\end{tabular}", "",
    ])  # fmt: skip


def escaped(text: str) -> str:
    """Escape what LaTeX reads as a command.

    >>> escaped("2.4 % of a_b")
    '2.4 \\\\% of a\\\\_b'
    """
    return re.sub(r"[\\~^–]|[&%$#_{}]", lambda found: _SPECIAL.get(found[0], f"\\{found[0]}"), text)


def published(value: object) -> str:
    """Write a published number or group of numbers."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {published(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return " to ".join(published(each) for each in value)
    return number(value) if isinstance(value, float) else str(value)
