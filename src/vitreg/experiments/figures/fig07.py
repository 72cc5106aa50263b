"""Fig. 7: with registers the norms of the patch tokens form one group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.options import Scale
from vitreg.experiments.outliers import TENTH, absence, ends_of, note_of, of_verdict, over_images
from vitreg.experiments.pictures.judging import NO_TWIN, TWIN, twin_of
from vitreg.experiments.records import scans_drawn
from vitreg.experiments.trained.model import PAIRS, RECIPES, Trained
from vitreg.experiments.trained.seeds import of_seeds, outliers_gone, paired, with_registers
from vitreg.quantities import number, percent
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

FACTOR = 5.0
LAST = -1  # block
GONE = Says(
    id="no-outliers",
    says="A model with registers has no outliers among its patch tokens.",
    criterion=(
        f"{TWIN} has outliers, and the scan finds none in any block, where it would have found a mild group of a tenth of their share"
    ),
)
TAKEN = Says(
    id="registers-long",
    says="Registers take the place of outliers: some have a far larger norm than the patches.",
    criterion=(
        f"after the last block the longest register is at least {FACTOR:.0f} times as long as the median patch; interval over images, of "
        "models trained here over three seeds or more"
    ),
)
REMOVED = Says(
    id="outliers-removed",
    says="Registers remove the outliers that the same training gives a model without them.",
    criterion=(
        "the model without registers has outliers, and with 4 registers less than a tenth of their share is left; interval over the seeds "
        "that have some, three or more"
    ),
)


def trains(scale: Scale) -> tuple[Trained, ...]:
    """Every recipe without and with registers."""
    return PAIRS


def measure(setting: Setting, model: str) -> Measured:
    """Scan, and read the norms of patches and registers after the last block."""
    result, job = setting.scan(model)
    last = result.layers[LAST]
    longest = max(last.register_norms, default=None)
    numbers = {
        **of_verdict(result), **over_images(result), "registers": float(result.model.tokens.get("registers", 0)),
        "width": float(result.model.width), "blocks": float(result.model.blocks), "share": result.verdict.outlier_fraction,
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
    gone = GONE.of_each(named, lambda found: _gone(found, named))
    taken = TAKEN.of_each(named, _taken)
    if len(named) == len(measured):
        return [*gone, *taken]
    pairs = [
        (words, *paired(measured, with_registers(recipe, 4), with_registers(recipe, 0)))
        for recipe, words in RECIPES.items()
    ]
    removed = [outliers_gone(REMOVED, f"{words}, 4 registers against none", own, other) for words, own, other in pairs]
    long = [_taken_over_seeds(f"{words}, 4 registers", own) for words, own, _ in pairs]
    return [*gone, *removed, *taken, *long]


def _gone(found: Measured, named: Sequence[Measured]) -> Claim:
    if not found.numbers["registers"]:
        return GONE.untestable(found.subject, "It has no registers.")
    if found.numbers["outliers"]:
        return GONE.outcome(
            found.subject, False, f"{percent(found.numbers['share'] or 0)} of its patch tokens are outliers."
        )
    twin = twin_of(found, named)
    if twin is None:
        words = absence(found)[1]
        return GONE.untestable(found.subject, f"{words}. {NO_TWIN} So nothing shows that registers took outliers away.")
    if not twin.numbers["outliers"]:
        return GONE.untestable(found.subject, f"None were found, and none in {twin.subject}, which has no registers.")
    sure, words = absence(found, TENTH * (twin.numbers["share"] or 0.0))
    words = f"{words}; of {twin.subject} {percent(twin.numbers['share'] or 0)} are outliers."
    return GONE.outcome(found.subject, True if sure else None, words)


def _taken(found: Measured) -> Claim:
    longest = found.numbers["longest"]
    if longest is None:
        return TAKEN.untestable(found.subject, "It has no registers.")
    ends = ends_of(found, "longest")
    words = f"{number(longest)}{'' if ends is None else f' ({number(ends[0])} to {number(ends[1])})'} times the median patch"
    return TAKEN.decided(found.subject, longest, ends, words, above=FACTOR)


def _taken_over_seeds(subject: str, own: Sequence[Measured]) -> Claim:
    lengths = [each.numbers["longest"] or 0.0 for each in own if not each.failed]
    if not lengths:
        return TAKEN.untestable(subject, next((each.failed for each in own), "It was not measured."))
    return of_seeds(TAKEN, subject, lengths, "{} times the median patch", above=FACTOR)


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
