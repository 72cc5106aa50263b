"""Fig. 11: the gradient of a position table through bicubic resampling from 16x16 to 7x7, striped without antialiasing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.quantities import number
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

STRIPED = Says(
    id="stripes",
    says="Without antialiasing the gradient has stripes like those of Fig. 10.",
    criterion="the spread of the gradient is above its mean",
)
EVEN = Says(
    id="no-stripes",
    says="Antialiasing removes the stripes.",
    criterion="the spread of the gradient is below a fifth of its mean",
)
SOURCE, TARGET = 16, 7
WAYS = {
    "no antialiasing, offset 0.1 (DINOv2's training)": (False, 0.1),
    "no antialiasing": (False, 0.0),
    "antialiasing, offset 0.1": (True, 0.1),
    "antialiasing": (True, 0.0),
}
STRIPES, FLAT = 1.0, 0.2


def measure(setting: Setting, way: str) -> Measured:
    """Propagate ones through the resampling, without data or model."""
    from vitreg.analysis.stripes import column_profile, stripes, table_gradient

    antialias, offset = WAYS[way]
    gradient = table_gradient((SOURCE, SOURCE), (TARGET, TARGET), antialias=antialias, offset=offset)
    found = stripes(gradient)
    numbers: dict[str, float | None] = {
        "min": found.minimum, "max": found.maximum, "mean": found.mean, "std": found.std, "antialias": float(antialias)
    }  # fmt: skip
    profile = column_profile(SOURCE, TARGET, antialias=antialias, offset=offset)
    return Measured(
        subject=way, numbers=numbers, series={"columns": profile.tolist(), "gradient": gradient.flatten().tolist()}
    )


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each way of resampling by the spread of its gradient."""
    return [
        *STRIPED.of_each([each for each in measured if not WAYS[each.subject][0]], _striped),
        *EVEN.of_each([each for each in measured if WAYS[each.subject][0]], _striped),
    ]


def _striped(found: Measured) -> Claim:
    spread = (found.numbers["std"] or 0.0) / (found.numbers["mean"] or 1.0)
    words = f"Spread {number(spread)} times the mean."
    if found.numbers["antialias"]:
        return EVEN.exactly(found.subject, spread < FLAT, words, spread, below=FLAT)
    return STRIPED.exactly(found.subject, spread > STRIPES, words, spread, above=STRIPES)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The gradient maps side by side on one colour scale."""
    return {"fig11": ("what each position of the table receives, on one scale", lambda: _maps(record))}


def _maps(record: ExperimentRecord):
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = [each for each in record.measured if not each.failed]
    figure = Figure(figsize=(3.0 * len(found), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    maps = [np.asarray(each.series["gradient"]).reshape(SOURCE, SOURCE) for each in found]
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    panels = np.atleast_1d(figure.subplots(1, len(found)))
    for axes, each, values in zip(panels, found, maps, strict=True):
        shown = axes.imshow(values, vmin=low, vmax=high, cmap="viridis")
        axes.set_title(each.subject.replace(" (", "\n("), fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.colorbar(shown, ax=list(panels), shrink=0.8)
    return figure


EXPERIMENT = Experiment(
    id="fig11", label="Fig. 11", title="Stripes of resampling", subjects=tuple(WAYS), measure=measure, claims=claims, draw=draw,
    published={"resampling": "bicubic, 16x16 to 7x7", "antialiasing": "none", "pattern": "vertical and horizontal stripes"},
    protocol="Unit gradients propagated through a bicubic interpolation from 16x16 to 7x7 without antialiasing.",
    ours="The same in float64, with and without antialiasing and DINO's offset.",
)  # fmt: skip
