"""Fig. 2: artifacts in the attention maps of models without registers. Patches of no interest take the most attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.maps.seen import CLS, seen
from vitreg.experiments.outliers import without_outliers
from vitreg.experiments.pictures.drawing import ATTENTION, attention_scale, of_class_token, rows_of_models
from vitreg.experiments.pictures.judging import by_images, known, measured, not_attended, of_others
from vitreg.quantities import number
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

FACTOR = 3.0
PEAKY = Says(
    id="outliers-attended",
    says="The attention maps of models without registers have peaks on outliers (DeiT-III, OpenCLIP, DINOv2; not DINO).",
    criterion=(
        f"in the last block the class token attends to an outlier at least {FACTOR:.0f} times as much as to another patch of the same "
        "image; mean over images with outliers, interval included"
    ),
    paper="peaky outlier values, in words",
)


def measure(setting: Setting, model: str) -> Measured:
    """Compare the attention that outliers get with that of as many other patches of the same image."""
    maps, scanned, jobs = seen(setting, model)
    series = {}
    if CLS in maps.attention:
        outliers, attention = maps.outliers(scanned), maps.attention[CLS].astype(np.float64)
        ours = np.array([a[o].mean() if o.any() else np.nan for a, o in zip(attention, outliers, strict=True)])
        others = np.array(
            [np.nanmean(a[~o]) if (~o).any() else np.nan for a, o in zip(attention, outliers, strict=True)]
        )
        share = np.array(
            [np.nansum(a[o]) / np.nansum(a) if o.any() else np.nan for a, o in zip(attention, outliers, strict=True)]
        )
        series = {"times": np.divide(ours, others, out=np.full(len(ours), np.nan), where=others > 0), "share": share}
    return measured(model, scanned, maps, jobs, series)


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model by the attention that its outliers get."""
    return PEAKY.of_each(measured, _peaky)


def _peaky(found: Measured) -> Claim:
    absent = of_others(PEAKY, found) or without_outliers(PEAKY, found) or not_attended(PEAKY, found)
    if absent is not None:
        return absent
    share = number(100 * (found.numbers["share"] or 0.0))
    words = (
        "An outlier gets {value} times ({interval}) the attention of another patch; together they get " + f"{share} %"
    )
    return by_images(PEAKY, found, known(found.series["times"]), FACTOR, words)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The attention maps of the models without registers."""
    alone = record.model_copy(update={"measured": [m for m in record.measured if not m.numbers.get("registers")]})
    return rows_of_models(alone, jobs, of_class_token, attention_scale, ATTENTION)


EXPERIMENT = Experiment(
    id="fig2", label="Fig. 2", title="Attention maps without registers", needs=("images",), measure=measure, claims=claims, draw=draw,
    published={"with peaks": "DeiT-III-B, DeiT-III-H, OpenCLIP-B, OpenCLIP-L, DINOv2-g", "without": "DINO-B"},
    protocol="Attention of the class token in the last block, drawn for a few photographs. Nothing was counted.",
    ours="The same map, mean over heads; outliers are those of the scan at the block where they stand out most.",
)  # fmt: skip
