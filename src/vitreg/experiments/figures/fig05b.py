"""Fig. 5b: outliers know less of where they lie and of what they show than other tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.outliers import ends_of, note_of, of_verdict, too_few, without_outliers
from vitreg.quantities import number
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

PLACE = Says(
    id="position",
    says="The position of a patch is harder to read from an outlier than from another token.",
    criterion="a linear classifier places fewer outliers than other tokens; interval of the difference over images below 0",
    paper="22.8 % against 41.7 %",
)
PIXELS = Says(
    id="pixels",
    says="The pixels of a patch are harder to read from an outlier than from another token.",
    criterion="the L2 error of a linear reconstruction is larger for outliers; interval of the difference over images above 0",
    paper="25.23 against 18.38",
)


def measure(setting: Setting, model: str) -> Measured:
    """Fit both probes on all tokens of some images, and judge outliers and other tokens of other images apart."""
    scanned, job = setting.scan(model)
    numbers: dict[str, float | None] = of_verdict(scanned)
    jobs = {"scan": job}
    if numbers["outliers"]:
        for task in ("position", "pixels"):
            result, jobs[task] = setting.evaluate(model, task, setting.folder_of_images)
            numbers |= {f"{task}_{name}": value for name, value in result.metrics.items()}
    return Measured(subject=model, note=note_of(model), numbers=numbers, jobs=jobs)


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model by both probes."""
    return [
        *PLACE.of_each(measured, lambda found: _less(PLACE, found, "position", "accuracy", -1)),
        *PIXELS.of_each(measured, lambda found: _less(PIXELS, found, "pixels", "error", 1)),
    ]


def _less(says: Says, found: Measured, task: str, measure: str, sign: int) -> Claim:
    """Judge a difference, outlier minus normal, whose sign is known from the paper."""
    absent = without_outliers(says, found)
    if absent is not None:
        return absent
    own, other = (found.numbers.get(f"{task}_{kind}_{measure}") for kind in ("outlier", "normal"))
    if own is None or other is None:
        return says.untestable(found.subject, "None of the judged images holds an outlier.")
    if (
        few := too_few(says, found, found.numbers.get(f"{task}_images_with_outliers"), "that were judged hold outliers")
    ) is not None:
        return few
    ends = ends_of(found, f"{task}_{measure}_difference")
    if ends is None and own == other:
        ends = (0.0, 0.0)  # the same in every image
    words = f"{number(own)} against {number(other)}"
    words += "" if ends is None else f"; difference {number(ends[0])} to {number(ends[1])}"
    above, below = (0.0, None) if sign > 0 else (None, 0.0)
    return says.decided(found.subject, own - other, ends, words, above=above, below=below)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """Outliers beside other tokens, for both probes."""
    found = [each for each in record.measured if "position_outlier_accuracy" in each.numbers]
    return {"fig5b": ("models with outliers", lambda: _bars(found))} if found else {}


def _bars(found: Sequence[Measured]):
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from vitreg.report.paper import OUTLIER, PATCH

    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    places = np.arange(len(found))
    for axes, name, words in zip(
        figure.subplots(1, 2),
        ("position_{}_accuracy", "pixels_{}_error"),
        ("position found, %", "L2 error of the pixels"),
        strict=True,
    ):
        for shift, kind, colour in ((-0.2, "normal", PATCH), (0.2, "outlier", OUTLIER)):
            values = [each.numbers.get(name.format(kind)) or 0.0 for each in found]
            axes.bar(places + shift, values, 0.4, color=colour, label=kind)
        axes.set_xticks(places, [each.subject for each in found], fontsize=7)
        axes.set_ylabel(words)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


EXPERIMENT = Experiment(
    id="fig5b", label="Fig. 5b", title="What outliers know of their patch", needs=("images",), measure=measure, claims=claims, draw=draw,
    published={
        "position_top1": {"normal": 41.7, "outlier": 22.8}, "position_distance": {"normal": 0.79, "outlier": 5.09},
        "pixel_l2": {"normal": 18.38, "outlier": 25.23},
    },
    protocol="Linear models on the patch tokens of DINOv2 ViT-g/14 for position and pixels; outliers and others judged apart.",
    ours="`eval position` and `eval pixels`: fitted on all tokens of four fifths of the images, judged on the others.",
)  # fmt: skip
