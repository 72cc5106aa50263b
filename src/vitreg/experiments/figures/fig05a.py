"""Fig. 5a: outliers appear on patches that resemble their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.outliers import note_of, of_verdict, too_few, without_outliers
from vitreg.experiments.records import scans_drawn
from vitreg.quantities import count, number
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

ALIKE = Says(
    id="redundant",
    says="Outliers appear on patches that are very similar to their neighbours.",
    criterion="an outlier is more often the more similar one of an outlier and another patch: probability above 1/2, with its interval",
)


def measure(setting: Setting, model: str) -> Measured:
    """Scan, and read how similar patches are to their four neighbours after the patch embedding."""
    result, job = setting.scan(model)
    numbers: dict[str, float | None] = {**of_verdict(result), "auc": None, "images": 0.0}
    found = result.redundancy
    if found is not None and found.auc is not None:
        images = sum(result.per_image.counts[1:]) if result.per_image else 0.0
        numbers |= {
            "auc": found.auc,
            "images": images,
            "outliers_mean": found.outlier_mean,
            "others_mean": found.other_mean,
        }
    return Measured(subject=model, note=note_of(model), numbers=numbers, jobs={"scan": job})


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model by the probability that an outlier is the more similar one."""
    return ALIKE.of_each(measured, _alike)


def _alike(found: Measured) -> Claim:
    absent, auc, images = without_outliers(ALIKE, found), found.numbers["auc"], found.numbers["images"] or 0.0
    if absent is not None or auc is None:
        return absent or ALIKE.outcome(found.subject, None, "The scan kept no similarities.")
    if (few := too_few(ALIKE, found, images)) is not None:
        return few
    low, high = auc_interval(auc, images)
    words = f"Probability {number(auc)} ({number(low)} to {number(high)}), {count(int(images), 'image')} with outliers"
    return ALIKE.decided(found.subject, auc, (low, high), words, above=0.5)


def auc_interval(auc: float, images: float) -> tuple[float, float]:
    """Return the 95 % interval of an AUC by Hanley and McNeil (1982), one outlier and one other patch per image.

    Tokens of an image are not independent, so images are counted, not tokens: the interval is too wide rather than too narrow.
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = (auc * (1 - auc) + (images - 1) * (q1 + q2 - 2 * auc**2)) / images**2
    half = 1.96 * float(np.sqrt(max(spread, 0.0)))
    return max(0.0, auc - half), min(1.0, auc + half)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The two distributions of similarity of each model that has outliers."""
    from vitreg.report.scan.charts import redundancy

    return scans_drawn(record, jobs, redundancy.figure, lambda found: found.numbers["auc"] is not None)


EXPERIMENT = Experiment(
    id="fig5a", label="Fig. 5a", title="Outliers and their neighbours", needs=("images",), measure=measure, claims=claims, draw=draw,
    published={"model": "DINOv2 ViT-g/14", "outliers": "cosine similarity close to 1", "others": "spread from 0 to 1"},
    protocol="Cosine similarity of a patch to its four neighbours after the patch embedding; outliers apart from the others.",
    ours="The same, of all patches; outliers are the scan's, at the block where they stand out most.",
)  # fmt: skip
