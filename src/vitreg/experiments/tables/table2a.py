"""Table 2a: linear evaluation of frozen features. With registers nothing is lost, and dense tasks gain a little."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.options import Scale
from vitreg.experiments.trained.model import PAIRS, RECIPES, Trained
from vitreg.experiments.trained.probes import gain_of, judged, kept, probed
from vitreg.experiments.trained.seeds import Compared, over_seeds, paired, with_registers
from vitreg.quantities import number
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

ACCURACY = Says(
    id="accuracy-kept",
    says="With registers linear classification does not get worse.",
    criterion="the 95 % interval of the gain over three seeds or more lies above -1 point of top-1, where the model without registers "
    "beats its controls",
    paper="84.7 to 84.7 %, 78.2 to 78.1 %, 84.3 to 84.8 %",
)
MASKS = Says(
    id="segmentation-kept",
    says="With registers linear segmentation does not get worse.",
    criterion="the 95 % interval of the gain over three seeds or more lies above -1 point of mIoU, where the model without registers "
    "beats its controls",
    paper="38.9 to 39.1 %, 26.6 to 26.7 %, 46.6 to 47.9 %",
)
DEPTHS = Says(
    id="depth-kept",
    says="With registers linear depth estimation does not get worse.",
    criterion="the 95 % interval of the gain over three seeds or more (RMSE lost) lies above -0.02 m, where the model without registers "
    "beats its controls",
    paper="0.511 to 0.512 m, 0.702 to 0.661 m, 0.378 to 0.366 m",
)
BETTER = Says(
    id="dense-better",
    says="With registers DINOv2 segments better.",
    criterion="the 95 % interval of the gain in mIoU over three seeds or more lies above 0; one of the two models beats its controls",
    paper="46.6 to 47.9 %",
)
KEPT = {
    ACCURACY: kept("linear", "%", -1.0),
    MASKS: kept("segmentation", "%", -1.0),
    DEPTHS: kept("depth", "m", -0.02, lower=True),
}
GAIN = gain_of("segmentation", "%")


def trains(scale: Scale) -> tuple[Trained, ...]:
    """Every recipe without and with registers."""
    return PAIRS


def measure(setting: Setting, model: str) -> Measured:
    """Fit the three linear heads."""
    found = probed(setting, model, ("linear", "segmentation", "depth"))
    return Measured(subject=model, numbers=found.numbers, jobs=found.jobs, refused=found.refused)


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each recipe by the differences over its seeds; a model that was named stands alone."""
    found = [
        _over(says, compared, measured, recipe)
        for says, compared in KEPT.items()
        for recipe in RECIPES
        if any(each.trained is not None for each in measured)
    ]
    found += [_over(BETTER, GAIN, measured, "dinov2")] if found else []
    return [
        *found,
        *(alone(says, each, compared) for says, compared in KEPT.items() for each in measured if not each.trained),
    ]


def _over(says: Says, compared: Compared, measured: Sequence[Measured], recipe: str) -> Claim:
    sides = paired(measured, with_registers(recipe, 4), with_registers(recipe, 0))
    subject = f"{RECIPES[recipe]}, 4 registers against none"  # type: ignore[index]
    return judged(over_seeds(says, subject, *sides, compared), sides, compared.name)


def alone(says: Says, found: Measured, compared: Compared) -> Claim:
    """Show the number of a model that the user named; what registers change is asked of models trained alike."""
    value = found.numbers.get(compared.name)
    reason = found.failed or found.refused.get(compared.name) or (
        "It was not measured." if value is None
        else f"{number(value)} {compared.unit}; what registers change is asked of models that were trained alike, over seeds."
    )  # fmt: skip
    return says.outcome(found.subject, None, reason, value)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """A table has no figure."""
    return {}


EXPERIMENT = Experiment(
    id="table2a", label="Table 2a", title="Linear evaluation with and without registers", looks="given", trains=trains,
    uses=("classes", "masks", "depths"),
    measure=measure, claims=claims, draw=draw,
    published={
        "DeiT-III": {"ImageNet": (84.7, 84.7), "ADE20k": (38.9, 39.1), "NYUd": (0.511, 0.512)},
        "OpenCLIP": {"ImageNet": (78.2, 78.1), "ADE20k": (26.6, 26.7), "NYUd": (0.702, 0.661)},
        "DINOv2": {"ImageNet": (84.3, 84.8), "ADE20k": (46.6, 47.9), "NYUd": (0.378, 0.366)},
    },
    protocol="Linear heads on frozen features, as in DINOv2: ImageNet top-1, ADE20k mIoU, NYUd RMSE; without and with 4 registers.",
    ours="`eval linear`, `segmentation` and `depth` with the scale's steps, on models that differ in registers and seed only.",
)  # fmt: skip
