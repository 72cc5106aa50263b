"""Registers that start equal stay equal: they get equal gradients, as all else in a block treats tokens alike (timm, PR 2229)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.quantities import number
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured
from vitreg.writing.files import write_text

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

EQUAL, APART = "two registers, equal at the start", "two registers, drawn apart"
STEPS = 20
NUMBERS = "numbers.json"
STAY = Says(
    id="stay-identical",
    says="Registers that start from the same values stay identical through training.",
    criterion=f"after {STEPS} steps of AdamW, in which the registers move, both have the same values, bit for bit",
    paper="models with 4 registers that turned out to be the same one four times",
    by="timm, pull request 2229, 2024",
)


def measure(setting: Setting, subject: str) -> Measured:
    """Train a small ViT with two registers for some steps."""

    def work(folder: Path) -> dict[str, Any]:
        from vitreg.experiments.critics.equal_start import trained_for  # needs torch

        found = trained_for(STEPS, equal=subject == EQUAL, seed=setting.seed)
        write_text(folder / NUMBERS, Measured(subject=subject, numbers=found).model_dump_json())
        return {}

    folder, key = setting.done(f"training of {subject}", {"train": "registers", "steps": STEPS}, subject, work)
    found = Measured.model_validate_json((folder / NUMBERS).read_bytes())
    return found.model_copy(update={"jobs": {"training": key}})


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge both starts: the claim is about the equal one, and the other shows that the test can fail."""
    return STAY.of_each(measured, _stay)


def _stay(found: Measured) -> Claim:
    gap, moved = found.numbers["largest_difference"] or 0.0, found.numbers["largest_step"] or 0.0
    if not moved:
        return STAY.outcome(found.subject, None, "The registers did not move.")
    words = (
        f"Largest difference of the two {number(gap)} after, {number(found.numbers['at_first'] or 0.0)} before; the registers "
        f"moved by up to {number(moved)}."
    )
    claim = STAY.exactly(found.subject, gap == 0, words, gap)
    if found.subject != APART:
        return claim
    return claim.model_copy(update={"control": True, "reason": f"CONTROL, where it must not hold: {words}"})


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """It has no figure."""
    return {}


EXPERIMENT = Experiment(
    id="identical-registers", label="After the paper", title="Registers that start equal", subjects=(EQUAL, APART), measure=measure,
    claims=claims, draw=draw,
    published={"models": "sbb models of timm, 4 registers"},
    protocol="Registers started from zeros; the four of a released model were found to be equal.",
    ours="A ViT of two blocks, 64 channels wide, trained on noise with random classes; the model of `vitreg train`.",
)  # fmt: skip
