"""Fig. 16: the norms of the patches. The artifacts of attention maps are the norm outliers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitreg.analysis.intervals import wilson
from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.maps.roughness import lone_peaks
from vitreg.experiments.maps.seen import CLS, Seen, seen
from vitreg.experiments.outliers import too_few, without_outliers
from vitreg.experiments.pictures.drawing import fixed_scale, rows_of_models
from vitreg.experiments.pictures.judging import measured, not_attended
from vitreg.quantities import count, percent
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting
    from vitreg.report.sheets.sheet import Scale

HALF = 0.5
SAME = Says(
    id="same-patches",
    says="Artifacts of the attention maps are norm outliers.",
    criterion=(
        "of the lone peaks of the class token's attention in the last block (see Fig. 1) more than half are norm outliers of the scan; "
        "interval, for as many trials as there are images with peaks, above 1/2"
    ),
)
CAPTION = (
    "Norm of the patch tokens after the last block, before the final norm, over the median of a model's photographs: +1 is twice as long, "
    "-1 half as long. One colour scale for all."
)
DOUBLINGS = 3.0  # eight times the median: beyond it an outlier is one, however far


def measure(setting: Setting, model: str) -> Measured:
    """Count peaks of attention, and those among them that are norm outliers."""
    maps, scanned, jobs = seen(setting, model)
    found = measured(model, scanned, maps, jobs, {})
    if CLS not in maps.attention:
        return found
    peaks, outliers = lone_peaks(maps.attention[CLS].astype(np.float64)), maps.outliers(scanned)
    numbers = {
        "peaks": float(peaks.sum()), "peaks_outliers": float((peaks & outliers).sum()), "outlier_patches": float(outliers.sum()),
        "patches": float(outliers.size), "with_peaks": float(peaks.any(axis=(1, 2)).sum()),
    }  # fmt: skip
    return found.model_copy(update={"numbers": found.numbers | numbers})


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model by the peaks of its attention."""
    return SAME.of_each(measured, _same)


def _same(found: Measured) -> Claim:
    absent = without_outliers(SAME, found) or not_attended(SAME, found)
    if absent is not None:
        return absent
    peaks, images = found.numbers["peaks"] or 0.0, found.numbers["with_peaks"] or 0.0
    if (few := too_few(SAME, found, images, "have peaks of attention")) is not None:
        return few
    share = (found.numbers["peaks_outliers"] or 0.0) / peaks
    low, high = wilson(share * images, images)
    chance = (found.numbers["outlier_patches"] or 0.0) / (found.numbers["patches"] or 1.0)
    words = (
        f"{percent(share)} ({percent(low)} to {percent(high)}) of {count(int(peaks), 'peak')} in {count(int(images), 'image')} "
        f"are outliers; of all patches {percent(chance)} are"
    )
    return SAME.decided(found.subject, share, (low, high), words, above=HALF, write=percent)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The norms of all models, each in multiples of its own median."""
    return rows_of_models(record, jobs, _relative, _scale, CAPTION, "magma", most=8)


def _relative(maps: Seen) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log2(maps.last / np.nanmedian(maps.last))


def _scale(maps: list[np.ndarray]) -> Scale:
    return fixed_scale(maps, DOUBLINGS, "norm, doublings of the median", "magma")


EXPERIMENT = Experiment(
    id="fig16", label="Fig. 16", title="Norms of the patch tokens", needs=("images",), measure=measure, claims=claims, draw=draw,
    published={"models": "DeiT-III, OpenCLIP, DINOv2, without and with registers", "without registers": "outliers very visible"},
    protocol="Norms of the output tokens, drawn for several photographs; artifact patches are seen to be norm outliers.",
    ours="The same norms; outliers are those of the scan, at the block where they stand out most.",
)  # fmt: skip
