"""The numbers of an experiment as CSV and as a LaTeX table, the paper's beside them as far as it gives any."""

from __future__ import annotations

import csv
import io
import re

from vitreg.quantities import number
from vitreg.records.reproduction import ExperimentRecord
from vitreg.report.reproduction.about import CITATION, about

_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "—": "---"}


def columns(each: ExperimentRecord) -> list[str]:
    """Name the numbers of an experiment, in the order in which its subjects bring them."""
    return list(dict.fromkeys(name for found in each.measured for name in found.numbers))


def as_csv(each: ExperimentRecord, seed: int = 0) -> str:
    """Return a header, and a line for each subject; a number that it lacks is empty.

    Args:
        seed: of the draws of the run.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["subject", "kind", "images", "images_seen", "seeds", *columns(each), "failed"])
    for found in each.measured:
        held = about(each, found.subject, seed)
        told = (held["kind"], held["images"], held["images_seen"], " ".join(map(str, held["seeds"])))
        table.writerow([found.subject, *told, *(found.numbers.get(name) for name in columns(each)), found.failed])
    return text.getvalue()


def as_latex(each: ExperimentRecord, seed: int = 0) -> str:
    """Return a tabular for booktabs: claims, what became of each, the numbers behind it, and what they were measured on.

    Args:
        seed: of the draws of the run.
    """
    rows = []
    for claim in each.claims:
        held = about(each, claim.subject, seed)
        subject = f"{claim.subject} ({held['kind']})" if held["kind"] else claim.subject
        seen = f"{held['images_seen']} images" if held["images_seen"] else ""
        images = ": ".join(filter(None, (seen, held["images"])))
        on = "; ".join(filter(None, (images, f"seed {', '.join(map(str, held['seeds']))}")))
        cells = (subject, claim.says, claim.paper or "–", claim.reason, claim.outcome, on)
        rows.append(" & ".join(map(escaped, cells)))
    head = " & ".join(("subject", "claim", "paper", "here", "outcome", "measured on"))
    return "\n".join([
        f"% {each.label}: {each.title}. Claims of {CITATION}",
        r"\begin{tabular}{lp{0.3\linewidth}lp{0.25\linewidth}lp{0.15\linewidth}}", r"\toprule", rf"{head} \\", r"\midrule",
        *(rf"{row} \\" for row in rows), r"\bottomrule", r"\end{tabular}", "",
    ])  # fmt: skip


def escaped(text: str) -> str:
    """Escape what LaTeX reads as a command.

    >>> escaped("2.4 % of a_b")
    '2.4 \\\\% of a\\\\_b'
    """
    return re.sub(r"[\\~^–—]|[&%$#_{}]", lambda found: _SPECIAL.get(found[0], f"\\{found[0]}"), text)


def published(value: object) -> str:
    """Write a published number or group of numbers."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {published(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return " to ".join(published(each) for each in value)
    return number(value) if isinstance(value, float) else str(value)
