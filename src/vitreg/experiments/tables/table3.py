"""Table 3: objects are found better with registers: CorLoc of LOST."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.analysis.intervals import difference_of_shares
from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.options import Scale
from vitreg.experiments.outliers import note_of
from vitreg.experiments.pictures.judging import NO_TWIN, TWIN, twin_of
from vitreg.experiments.trained.model import PAIRS, RECIPES, Trained
from vitreg.experiments.trained.seeds import Compared, best_control, over_seeds, paired, with_registers
from vitreg.quantities import number
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

BETTER = Says(
    id="objects",
    says="LOST finds more objects with registers (DeiT-III, DINOv2; not OpenCLIP).",
    criterion=f"CorLoc is above that of {TWIN}; interval of the difference above 0; the better of the two beats the box "
    "in the middle and the whole image",
    paper="DINOv2, VOC 2007: 55.4 % against 35.3 %",
)
OVER_SEEDS = Says(
    id="objects-over-seeds",
    says="LOST finds more objects with registers (DeiT-III, DINOv2; not OpenCLIP).",
    criterion="CorLoc with 4 registers is above that with none, in models that were trained alike; interval over three seeds or more "
    "above 0; the better of the two beats the box in the middle and the whole image",
    paper="VOC 2007: DeiT-III 11.7 to 27.1 %, OpenCLIP 38.8 to 37.1 %, DINOv2 35.3 to 55.4 %",
)

LOST = Compared(name="corloc", unit="%", controls="control: ", either=True)


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
        numbers |= {f"{LOST.controls}{name}": value for name, value in result.controls.items()}
    return Measured(subject=model, note=note_of(model), numbers=numbers, jobs={"discover": job})


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each named model with registers against the last one before it of the same shape without, trained ones over seeds."""
    named = [each for each in measured if each.trained is None]
    found = BETTER.of_each(named, lambda found: _better(found, named))
    if len(named) == len(measured):
        return found
    return [*found, *(_over_seeds(measured, recipe) for recipe in RECIPES)]


def _over_seeds(measured: Sequence[Measured], recipe: str) -> Claim:
    sides = paired(measured, with_registers(recipe, 4), with_registers(recipe, 0))
    subject = f"{RECIPES[recipe]}, 4 registers against none"  # type: ignore[index]
    return over_seeds(OVER_SEEDS, subject, *sides, LOST)


def _better(found: Measured, measured: Sequence[Measured]) -> Claim:
    if not found.numbers["registers"]:
        return BETTER.outcome(found.subject, None, "It has no registers.")
    twin = twin_of(found, measured)
    if twin is None:
        return BETTER.untestable(found.subject, NO_TWIN)
    own, other = found.numbers.get("corloc"), twin.numbers.get("corloc")
    if own is None or other is None:
        return BETTER.outcome(found.subject, None, "No image has a true box.")
    images = [each.numbers["images"] or 0.0 for each in (found, twin)]
    held = max((found, twin), key=lambda each: each.numbers["corloc"] or 0.0)
    control = best_control(held.numbers, LOST)
    words = f"{number(own)} % against {number(other)} % of {twin.subject}"
    if control is None:
        return BETTER.untestable(found.subject, f"{words}. The record holds no control.", own - other)
    best, of_best = (held.numbers["corloc"] or 0.0) / 100, held.numbers["images"] or 0.0
    words += f" (control: {number(control[1])} %, {control[0]})"
    if difference_of_shares(best, of_best, control[1] / 100, of_best)[0] <= 0:
        return BETTER.untestable(
            found.subject, f"{words}. Neither is better than the control for certain.", own - other
        )
    low, high = (100 * end for end in difference_of_shares(own / 100, images[0], other / 100, images[1]))
    words += f"; difference {number(low)} to {number(high)}"
    return BETTER.decided(found.subject, own - other, (low, high), words, above=0.0)


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
