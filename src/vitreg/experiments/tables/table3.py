"""Table 3: objects are found better with registers: CorLoc of LOST."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.analysis.intervals import difference_of_shares
from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.options import Scale
from vitreg.experiments.outliers import note_of
from vitreg.experiments.pictures.judging import twin_of
from vitreg.experiments.trained.model import PAIRS, RECIPES, Trained
from vitreg.experiments.trained.seeds import Compared, over_seeds, paired, with_registers
from vitreg.quantities import number
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

BETTER = Says(
    id="objects",
    says="LOST finds more objects with registers (DeiT-III, DINOv2; not OpenCLIP).",
    criterion="CorLoc is above that of the last model named before it with its width and depth and no registers; interval above 0",
    paper="DINOv2, VOC 2007: 55.4 % against 35.3 %",
)
OVER_SEEDS = Says(
    id="objects-over-seeds",
    says="LOST finds more objects with registers (DeiT-III, DINOv2; not OpenCLIP).",
    criterion="CorLoc with 4 registers is above that with none, in models that were trained alike; interval over seeds above 0",
    paper="VOC 2007: DeiT-III 11.7 to 27.1 %, OpenCLIP 38.8 to 37.1 %, DINOv2 35.3 to 55.4 %",
)
GAINS = {"dinov2": 20.1, "deit3": 15.4, "clip": None}
"""Points of CorLoc that registers gain on VOC 2007; OpenCLIP loses some."""

PAPERS = 20.0  # points that DINOv2 gains on VOC 2007


def trains(scale: Scale) -> tuple[Trained, ...]:
    """Every recipe without and with registers."""
    return PAIRS


def measure(setting: Setting, model: str) -> Measured:
    """Find a box in each image, and compare it with the true ones."""
    result, job = setting.discover(model)
    numbers: dict[str, float | None] = {
        "registers": float(result.model.registers),
        "blocks": float(result.model.blocks),
    }
    numbers["width"] = float(result.model.width)
    if result.corloc is not None:
        numbers |= {"corloc": result.corloc.value, "images": float(result.corloc.images)}
        numbers |= {f"control: {name}": value for name, value in result.controls.items()}
    return Measured(subject=model, note=note_of(model), numbers=numbers, jobs={"discover": job})


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each named model with registers against the last one before it of the same shape without, trained ones over seeds."""
    named = [each for each in measured if each.trained is None]
    found = BETTER.of_each(named, lambda found: _better(found, named))
    if len(named) == len(measured):
        return found
    return [*found, *(_over_seeds(measured, recipe, gain) for recipe, gain in GAINS.items())]


def _over_seeds(measured: Sequence[Measured], recipe: str, gain: float | None) -> Claim:
    sides = paired(measured, with_registers(recipe, 4), with_registers(recipe, 0))
    subject = f"{RECIPES[recipe]}, 4 registers against none"  # type: ignore[index]
    return over_seeds(OVER_SEEDS, subject, *sides, Compared(name="corloc", unit="%", expected=gain))


def _better(found: Measured, measured: Sequence[Measured]) -> Claim:
    if not found.numbers["registers"]:
        return BETTER.outcome(found.subject, None, "It has no registers.")
    twin = twin_of(found, measured)
    if twin is None:
        return BETTER.outcome(
            found.subject, None, "No network of its width and depth without registers was named before it."
        )
    own, other = found.numbers.get("corloc"), twin.numbers.get("corloc")
    if own is None or other is None:
        return BETTER.outcome(found.subject, None, "No image has a true box.")
    low, high = difference_of_shares(own / 100, found.numbers["images"] or 0, other / 100, twin.numbers["images"] or 0)
    low, high = 100 * low, 100 * high
    if low <= 0 and high >= PAPERS:
        return BETTER.outcome(
            found.subject,
            None,
            f"Too few images: {number(low)} to {number(high)} points hold both 0 and the paper's {PAPERS:.0f}.",
        )
    words = f"{number(own)} % against {number(other)} % of {twin.subject}; difference {number(low)} to {number(high)}."
    return BETTER.outcome(found.subject, low > 0, words, own - other, (low, high))


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """A table has no figure."""
    return {}


EXPERIMENT = Experiment(
    id="table3", label="Table 3", title="Objects found by LOST", needs=("boxes",), trains=trains, measure=measure, claims=claims, draw=draw,
    published={
        "DeiT-III": {"VOC07": (11.7, 27.1), "VOC12": (13.1, 32.7), "COCO20k": (10.7, 25.1)},
        "OpenCLIP": {"VOC07": (38.8, 37.1), "VOC12": (44.3, 42.0), "COCO20k": (31.0, 27.9)},
        "DINOv2": {"VOC07": (35.3, 55.4), "VOC12": (40.2, 60.0), "COCO20k": (26.9, 42.0)},
    },
    protocol="CorLoc of LOST on keys (DINOv2) or values (others), without and with registers; a bias on the Gram matrix is not published.",
    ours="`discover` with its defaults: keys of the last block (values of DeiT-III and CLIP trained here), images at their own size.",
)  # fmt: skip
