"""Fig. 14: attention maps of models trained without and with registers. With them there are far fewer artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.pictures.drawing import ATTENTION, attention_scale, of_class_token, rows_of_models
from vitreg.experiments.pictures.fig01 import measure
from vitreg.experiments.pictures.judging import MARGIN, TWIN, against_twin, hundredths, not_attended
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

CLEANER = Says(
    id="fewer-peaks",
    says="With registers attention maps are much cleaner, with considerably fewer artifacts.",
    criterion=(
        "a smaller share of the class token's attention to patches lies on lone peaks (see Fig. 1) than in "
        f"{TWIN}; difference on the same images, interval below -{100 * MARGIN:g} % of the twin's"
    ),
)


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model with registers against its twin."""
    return CLEANER.of_each(measured, lambda found: _cleaner(found, measured))


def _cleaner(found: Measured, everyone: Sequence[Measured]) -> Claim:
    return not_attended(CLEANER, found) or against_twin(
        CLEANER, found, everyone, "on_peaks", "Share on lone peaks:", hundredths
    )


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The attention maps of all models."""
    return rows_of_models(record, jobs, of_class_token, attention_scale, ATTENTION, most=8)


EXPERIMENT = Experiment(
    id="fig14", label="Fig. 14", title="Attention maps of many photographs", needs=("images",), measure=measure, claims=claims, draw=draw,
    published={"models": "DeiT-III, OpenCLIP, DINOv2, without and with registers", "with registers": "considerably fewer artifacts"},
    protocol="Attention of the class token in the last block, drawn for several photographs. Nothing was counted.",
    ours="The same map, mean over heads; a model with registers is compared on the same images with its twin without.",
)  # fmt: skip
