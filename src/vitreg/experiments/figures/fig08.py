"""Fig. 8: the number of registers. One removes the artifacts; more of them help classification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.options import Scale
from vitreg.experiments.outliers import of_verdict
from vitreg.experiments.trained.model import COUNTS, Trained
from vitreg.experiments.trained.probes import gain_of, judged, probed
from vitreg.experiments.trained.seeds import Compared, outliers_gone, over_seeds, paired, with_registers
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

ONE = Says(
    id="one-is-enough",
    says="One register is enough to remove the artifacts.",
    criterion="the model without registers has outliers, and with one register less than a tenth of their share is left; interval over the "
    "seeds that have some, three or more",
    paper="no visible artifacts from one register on",
)
DENSE = Says(
    id="dense-gains",
    says="Segmentation gains from the first register.",
    criterion="the mIoU with one register is above that with none; interval over three seeds or more above 0; one of the two "
    "beats its controls",
)
DEPTH = Says(
    id="depth-gains",
    says="Depth estimation gains from the first register.",
    criterion="the RMSE with one register is below that with none; interval of the gain over three seeds or more above 0; one of "
    "the two beats its controls",
)
MORE = Says(
    id="more-classify-better",
    says="On ImageNet performance improves with more registers.",
    criterion="linear classification is better with 16 registers than with none; interval over three seeds or more above 0; "
    "one of the two beats its controls",
)
SUBJECT = "DINOv2, {} against {}"
RECIPE = "dinov2"
PANELS = {
    "linear": "linear top-1, %", "knn": "kNN top-1, %", "segmentation": "segmentation mIoU, %", "depth": "depth RMSE, m",
    "max_over_median": "largest norm / median", "outlier_percent": "outliers, % of the patches",
}  # fmt: skip


def trains(scale: Scale) -> tuple[Trained, ...]:
    """DINOv2 with 0 to 16 registers."""
    return tuple(Trained(recipe=RECIPE, registers=count) for count in COUNTS)


def measure(setting: Setting, model: str) -> Measured:
    """Scan, and fit the probes of classification and of the dense tasks."""
    scanned, job = setting.scan(model)
    last = scanned.layers[-1]
    found = probed(setting, model, ("linear", "knn", "segmentation", "depth"))
    numbers = {**found.numbers, **of_verdict(scanned), "registers": float(scanned.model.tokens.get("registers", 0))}
    numbers |= {"outlier_percent": 100 * scanned.verdict.outlier_fraction, "max_over_median": last.max_ratio}
    return Measured(
        subject=model, numbers=numbers, series={"register_norms": last.register_norms}, jobs={"scan": job, **found.jobs},
        refused=found.refused,
    )  # fmt: skip


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge differences over the seeds."""
    return [
        _enough(measured),
        _gain(DENSE, measured, 1, gain_of("segmentation", "%")),
        _gain(DEPTH, measured, 1, gain_of("depth", "m", lower=True)),
        _gain(MORE, measured, 16, gain_of("linear", "%")),
    ]


def _gain(says: Says, measured: Sequence[Measured], registers: int, compared: Compared) -> Claim:
    sides = paired(measured, with_registers(RECIPE, registers), with_registers(RECIPE, 0))
    return judged(over_seeds(says, SUBJECT.format(_words(registers), "none"), *sides, compared), sides, compared.name)


def _enough(measured: Sequence[Measured]) -> Claim:
    own, other = paired(measured, with_registers(RECIPE, 1), with_registers(RECIPE, 0))
    return outliers_gone(ONE, SUBJECT.format(_words(1), "none"), own, other)


def _words(registers: int) -> str:
    return "1 register" if registers == 1 else f"{registers} registers"


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """Every number over the number of registers, a point for each seed."""
    found = [each for each in record.measured if not each.failed]
    return {"fig8": ("a point for each seed; the lines join means", lambda: _panels(found))} if found else {}


def _panels(found: Sequence[Measured]) -> Any:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from vitreg.report.paper import PATCH

    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    places = {count: place for place, count in enumerate(COUNTS)}
    for axes, (name, words) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        points = [
            (places[int(each.numbers["registers"] or 0)], value)
            for each in found
            if (value := each.numbers.get(name)) is not None
        ]
        if points:
            at, values = map(np.asarray, zip(*points, strict=True))
            axes.plot(at, values, "o", color=PATCH, markersize=4)
            axes.plot(np.unique(at), [values[at == place].mean() for place in np.unique(at)], color=PATCH)
        axes.set_xticks(range(len(COUNTS)), [str(count) for count in COUNTS])
        axes.set_title(words, fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("registers", fontsize=9)
    return figure


EXPERIMENT = Experiment(
    id="fig8", label="Fig. 8", title="Number of registers", needs=("images",), uses=("classes", "masks", "depths"), looks="none",
    trains=trains, measure=measure, claims=claims, draw=draw,
    published={"registers": COUNTS, "enough to remove artifacts": 1, "kept in all experiments": 4},
    protocol="DINOv2 ViT-L/14 trained with 0, 1, 2, 4, 8 and 16 registers; attention maps, and ImageNet, ADE20k and NYUd by linear probes.",
    ours="DINOv2 of the scale with as many registers; `scan`, and `eval linear`, `knn`, `segmentation` and `depth` with the scale's steps.",
)  # fmt: skip
