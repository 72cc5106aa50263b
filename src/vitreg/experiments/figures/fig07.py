"""Fig. 7: with registers the norms of the patch tokens form one group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.options import Scale
from vitreg.experiments.outliers import note_of, of_verdict
from vitreg.experiments.records import scans_drawn
from vitreg.experiments.trained.model import PAIRS, RECIPES, Trained
from vitreg.experiments.trained.seeds import fewer_outliers, paired, with_registers
from vitreg.quantities import number, percent
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

GONE = Says(
    id="no-outliers",
    says="A model with registers has no outliers among its patch tokens.",
    criterion="the scan finds none in any block, where it would have found a moderate second group",
)
TAKEN = Says(
    id="registers-long",
    says="Registers take the place of outliers: some have a far larger norm than the patches.",
    criterion="after the last block the longest register is at least five times as long as the median patch",
)
REMOVED = Says(
    id="outliers-removed",
    says="Registers remove the outliers that the same training gives a model without them.",
    criterion="the model without registers has outliers, and with 4 registers their share falls; interval over seeds above 0",
)
FACTOR = 5.0
LAST = -1  # block


def trains(scale: Scale) -> tuple[Trained, ...]:
    """Every recipe without and with registers."""
    return PAIRS


def measure(setting: Setting, model: str) -> Measured:
    """Scan, and read the norms of patches and registers after the last block."""
    result, job = setting.scan(model)
    last = result.layers[LAST]
    longest = max(last.register_norms, default=None)
    numbers = {
        **of_verdict(result), "registers": float(result.model.tokens.get("registers", 0)), "share": result.verdict.outlier_fraction,
        "outlier_percent": 100 * result.verdict.outlier_fraction,
        "longest": None if longest is None or not last.median else longest / last.median,
    }  # fmt: skip
    return Measured(
        subject=model,
        note=note_of(model),
        numbers=numbers,
        series={"register_norms": last.register_norms},
        jobs={"scan": job},
    )


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model that has registers, and pairs that were trained here over their seeds."""
    named = [each for each in measured if each.trained is None]
    taken = [each for each in measured if each.trained is None or each.trained.registers]
    pairs = [_removed(measured, recipe) for recipe in RECIPES] if len(named) < len(measured) else []
    return [*GONE.of_each(named, _gone), *pairs, *TAKEN.of_each(taken, _taken)]


def _removed(measured: Sequence[Measured], recipe: str) -> Claim:
    own, other = paired(measured, with_registers(recipe, 4), with_registers(recipe, 0))
    subject = f"{RECIPES[recipe]}, 4 registers against none"  # type: ignore[index]
    return fewer_outliers(REMOVED, subject, own, other)


def _gone(found: Measured) -> Claim:
    if not found.numbers["registers"]:
        return GONE.outcome(found.subject, None, "It has no registers.")
    if found.numbers["outliers"]:
        return GONE.outcome(
            found.subject, False, f"{percent(found.numbers['share'] or 0)} of its patch tokens are outliers."
        )
    if found.numbers["could_see"]:
        return GONE.outcome(found.subject, True, "None; a moderate second group would have been found.")
    return GONE.outcome(found.subject, None, "None, but these images could not have shown a moderate second group.")


def _taken(found: Measured) -> Claim:
    longest = found.numbers["longest"]
    if longest is None:
        return TAKEN.outcome(found.subject, None, "It has no registers.")
    return TAKEN.outcome(found.subject, longest >= FACTOR, f"{number(longest)} times the median patch.", longest)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The histogram of norms after the last block, of each model."""
    from vitreg.report.scan.charts import histogram

    return scans_drawn(record, jobs, lambda result: histogram.figure(result, LAST))


EXPERIMENT = Experiment(
    id="fig7", label="Fig. 7", title="Norms with registers", needs=("images",), trains=trains, measure=measure, claims=claims, draw=draw,
    published={"models": "DeiT-III ViT-B, OpenCLIP ViT-B, DINOv2 ViT-L, without and with 4 registers", "with registers": "no outliers"},
    protocol="Distribution of the output norms of models trained without and with registers on the same data.",
    ours="Norms after the last block of models that are named, and of pairs that are trained here; outliers are looked for in all blocks.",
)  # fmt: skip
