"""The ledger of claims for other programs: as JSON with a head that says where it comes from, and as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from vitreg.records.reproduction import Reproduction
from vitreg.report.reproduction.about import CITATION, about

SCHEMA = "vitreg.claims/1"


def ledger(result: Reproduction) -> dict[str, Any]:
    """Return the ledger: a head, and a row for each claim on each subject."""
    made = result.provenance
    return {
        "schema": SCHEMA, "vitreg": made.vitreg, "command": made.command, "earlier": [each.command for each in result.earlier],
        "started": made.started, "scale": result.scale, "images": result.images, "precision": made.precision, "seed": made.seed,
        "citation": CITATION, "claims": rows(result),
    }  # fmt: skip


def rows(result: Reproduction) -> list[dict[str, Any]]:
    """Return each claim with what it is about: the kind of its subject, images, how many, seeds."""
    return [
        {"experiment": each.id, **claim.model_dump(), **about(each, claim.subject, result.provenance.seed)}
        for each in result.experiments
        for claim in each.claims
    ]


def as_csv(result: Reproduction) -> str:
    """Return the rows of the ledger as CSV, a line for each claim on each subject."""
    text, found = io.StringIO(), rows(result)
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in found for name in row)), lineterminator="\n")
    table.writeheader()
    table.writerows({**row, "seeds": " ".join(map(str, row["seeds"]))} for row in found)
    return text.getvalue()
