"""The paper's future work (Sec. 3.4): registers that are regularised to differ, by a penalty or by competing as slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.options import Scale
from vitreg.experiments.outliers import of_verdict
from vitreg.experiments.trained.model import DECORRELATED, Trained
from vitreg.experiments.trained.seeds import Compared, over_seeds, paired, with_registers
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured, TrainedAs

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

PENALTY = Says(
    id="penalty-parts",
    says="A penalty on similar registers makes them attend to different places (future work, no number published).",
    criterion="their attention maps overlap less in the block that the scan reads; interval of the gain over seeds above 0",
)
SLOTS = Says(
    id="slots-part",
    says="Registers that compete for keys as slots attend to different places (future work, no number published).",
    criterion="their attention maps overlap less in the block that the scan reads; interval of the gain over seeds above 0",
)
PLAIN = Trained(recipe="dinov2", registers=4)


def trains(scale: Scale) -> tuple[Trained, ...]:
    """DINOv2 with four registers: as they are, decorrelated, and as slots."""
    return (PLAIN, replace(PLAIN, decorrelation=DECORRELATED), replace(PLAIN, slots=True))


def measure(setting: Setting, model: str) -> Measured:
    """Scan, and compare the attention maps of the registers in the images that the scan keeps."""
    import torch

    from vitreg.analysis.maps import overlap
    from vitreg.passes.jobs import RUNS
    from vitreg.report.scan.kept import read_examples

    result, job = setting.scan(model)
    maps = [each.register_attention for each in read_examples(setting.jobs.folder / RUNS / job)]
    found = [value for each in maps if each is not None and (value := overlap(torch.as_tensor(each))) is not None]
    numbers = {
        **of_verdict(result), "registers": float(result.model.tokens.get("registers", 0)), "images": float(len(found)),
        "overlap": float(np.mean(found)) if found else None, "outlier_percent": 100 * result.verdict.outlier_fraction,
        "max_over_median": result.layers[-1].max_ratio,
    }  # fmt: skip
    return Measured(subject=model, numbers=numbers, series={"overlap": found}, jobs={"scan": job})


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge what each regularisation changes over the seeds."""
    less, usual = Compared(name="overlap", lower=True), with_registers("dinov2", 4)
    changed = (
        (PENALTY, replace(PLAIN, decorrelation=DECORRELATED), "decorrelated"),
        (SLOTS, replace(PLAIN, slots=True), "as slots"),
    )
    return [
        over_seeds(says, f"DINOv2, 4 registers {words} against 4", *paired(measured, _is(way), usual), less)
        for says, way, words in changed
    ]


def _is(model: Trained):
    def held(found: TrainedAs) -> bool:
        return (found.recipe, found.registers, found.size) == (model.recipe, model.registers, model.size) and (
            found.decorrelation, found.slots,
        ) == (model.decorrelation, model.slots)  # fmt: skip

    return held


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """How much the maps overlap in each image, for each model."""
    found = [each for each in record.measured if each.series.get("overlap")]
    return {"future": ("a point for each image", lambda: _points(found))} if found else {}


def _points(found: Sequence[Measured]) -> Any:
    from vitreg.report.paper import REGISTER, axes_of

    figure, axes = axes_of(6.5, 0.9 + 0.4 * len(found))
    for place, each in enumerate(reversed(found)):
        values = each.series["overlap"]
        axes.plot(values, [place] * len(values), "o", color=REGISTER, markersize=4, alpha=0.6)
    axes.set_yticks(range(len(found)), [each.subject for each in reversed(found)], fontsize=8)
    axes.set_xlabel("overlap of the registers' attention maps, mean over pairs")
    return figure


EXPERIMENT = Experiment(
    id="future", label="Future work", title="Registers that are regularised to differ", needs=("images",), looks="none",
    trains=trains, measure=measure, claims=claims, draw=draw, published={"numbers": "none"},
    protocol="The paper observes some natural diversity of the registers' attention, and leaves its regularisation for future work.",
    ours="DINOv2 with 4 registers, plain, with a penalty on similar registers, and with a softmax over registers in their queries "
    "(slots); overlap of attention maps (the sum of the smaller of two shares) in the images that the scan keeps.",
)  # fmt: skip
