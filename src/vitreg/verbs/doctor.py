"""`vitreg doctor`: what can go wrong with a ViT, from its weights and its library alone, without an image."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from vitreg.backbones.backbone import Backbone
from vitreg.backbones.loading.load import opened
from vitreg.machine.runtime import versions
from vitreg.notebook import Brief, Row, Tabled
from vitreg.passes.findings import findings
from vitreg.passes.model_entry import model_entry
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.records import Finding
from vitreg.results import DoctorResult

LEVELS = ("problem", "warning", "note", "ok")


class Findings(Tabled, list[Finding]):
    """The findings on a model: a list, which a notebook shows as a table."""

    __slots__ = ()

    def _rows(self) -> list[Row]:
        return [finding.model_dump() for finding in self]

    def _brief(self) -> Brief:
        return Brief(title="Findings", sentence=counted(self), table=self._rows(), counted="findings")


@takes(ModelOptions)
def doctor(model: str | nn.Module | Backbone, *, weights: str | Path | None = None, **keywords: Any) -> Findings:
    """Examine a model without images.

    Args:
        model: a spec, a module or a loaded backbone.
        weights: a checkpoint for the spec.
        keywords: fields of `ModelOptions`, such as device and precision.
    Raises:
        UserError: for a model that cannot be loaded.
    Returns:
        findings, see `vitreg.passes.findings.findings`.
    """
    split(ModelOptions, None, keywords, "doctor")  # refuses a keyword that `load` does not know
    return Findings(findings(opened(model, weights, keywords)))


def record(backbone: Backbone, findings: Sequence[Finding]) -> DoctorResult:
    """Return the findings and their model as a record, for programs."""
    problem = any(finding.level == "problem" for finding in findings)
    return DoctorResult(
        vitreg=versions()["vitreg"], model=model_entry(backbone), problem=problem, findings=list(findings)
    )


def render(findings: Sequence[Finding], width: int = 100) -> str:
    """Format findings as plain text: one paragraph each, then a line that counts the levels."""
    lines: list[str] = []
    for finding in findings:
        head = f"{finding.level:<8} {finding.subject}: "
        body = textwrap.fill(finding.message, width, initial_indent=head, subsequent_indent=" " * 9)
        lines.append(body)
        if finding.remedy:
            lines.append(
                textwrap.fill(finding.remedy, width, initial_indent=" " * 9 + "-> ", subsequent_indent=" " * 12)
            )
    return "\n".join([*lines, counted(findings)])


def counted(findings: Sequence[Finding]) -> str:
    """Say how many findings of each level there are."""
    counts = Counter(f.level for f in findings)
    return ", ".join(
        f"{counts[level]} {level}{'s' * (level != 'ok' and counts[level] > 1)}" for level in LEVELS if counts[level]
    )
