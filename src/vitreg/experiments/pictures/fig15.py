"""Fig. 15: the first principal component of the patches. Outliers dominate it; with registers it is smooth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.maps.roughness import roughness, standing_out
from vitreg.experiments.maps.seen import seen
from vitreg.experiments.outliers import without_outliers
from vitreg.experiments.pictures.drawing import fixed_scale, rows_of_models
from vitreg.experiments.pictures.judging import MARGIN, TWIN, against_twin, by_images, known, measured, of_others
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting
    from vitreg.report.sheets.sheet import Scale

MARKED = Says(
    id="component-marks",
    says="Artifacts are visible in the feature maps of models without registers.",
    criterion=(
        "of an outlier and another patch of its image, the outlier's first component is further from the median of the image: "
        "probability above 3/4, mean over images with outliers, interval included"
    ),
)
SMOOTHER = Says(
    id="smoother-features",
    says="With registers feature maps are visibly improved: smoother.",
    criterion=(
        "the first component differs less between neighbours, relative to its variance (Geary's C), than in "
        f"{TWIN}; difference on the same images, interval below -{100 * MARGIN:g} % of the twin's"
    ),
)
PROBABILITY = 0.75
SIGMAS = 3.0  # the paper's colours end here
CAPTION = (
    "First principal component of the output of the last block, before the final norm, fitted to all photographs of a model together, "
    "outliers included. The sign is arbitrary."
)


def measure(setting: Setting, model: str) -> Measured:
    """Ask of the first component how rough it is, and whether outliers lie far out."""
    maps, scanned, jobs = seen(setting, model)
    pca = maps.pca.astype(np.float64)
    away = np.abs(pca - np.nanmedian(pca, axis=(1, 2), keepdims=True))
    series = {"roughness": roughness(pca), "marked": standing_out(away, maps.outliers(scanned))}
    return measured(model, scanned, maps, jobs, series)


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model by its outliers, and models with registers against their twins."""
    return [
        *MARKED.of_each(measured, _marked),
        *SMOOTHER.of_each(
            measured, lambda found: against_twin(SMOOTHER, found, measured, "roughness", "Roughness (Geary's C)")
        ),
    ]


def _marked(found: Measured) -> Claim:
    absent = of_others(MARKED, found) or without_outliers(MARKED, found)
    words = "Probability {value} ({interval})"
    return absent or by_images(MARKED, found, known(found.series["marked"]), PROBABILITY, words)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The first component of all models."""
    return rows_of_models(record, jobs, lambda maps: maps.pca, _scale, CAPTION, most=8)


def _scale(maps: list[np.ndarray]) -> Scale:
    return fixed_scale(maps, SIGMAS, "first component, standard deviations")


EXPERIMENT = Experiment(
    id="fig15", label="Fig. 15", title="First principal component", needs=("images",), measure=measure, claims=claims, draw=draw,
    published={"models": "DeiT-III, OpenCLIP, DINOv2, without and with registers", "colours": "-3 to 3 standard deviations, whitened"},
    protocol="First principal component of the feature maps, whitened, drawn for several photographs. Nothing was counted.",
    ours="The same, of the output of the last block before the final norm, in the same colours.",
)  # fmt: skip
