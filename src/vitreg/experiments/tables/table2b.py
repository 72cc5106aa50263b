"""Table 2b: zero-shot classification of OpenCLIP, which registers do not hurt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.options import Scale
from vitreg.experiments.tables.table2a import alone
from vitreg.experiments.trained.model import PAIRS, Trained
from vitreg.experiments.trained.probes import judged, kept, probed
from vitreg.experiments.trained.seeds import over_seeds, paired, with_registers
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

KEPT = Says(
    id="zero-shot-kept",
    says="With registers zero-shot classification does not get worse.",
    criterion="the 95 % interval of the gain over three seeds or more lies above -1 point of top-1, where the model without registers "
    "beats its controls",
    paper="59.9 to 60.1 %",
)
COMPARED = kept("zeroshot", "%", -1.0)


def trains(scale: Scale) -> tuple[Trained, ...]:
    """CLIP without and with registers."""
    return tuple(model for model in PAIRS if model.recipe == "clip")


def measure(setting: Setting, model: str) -> Measured:
    """Classify by sentences."""
    found = probed(setting, model, ("zeroshot",))
    return Measured(subject=model, numbers=found.numbers, jobs=found.jobs)


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge the difference over the seeds; a model that was named stands alone."""
    found = []
    if any(each.trained is not None for each in measured):
        sides = paired(measured, with_registers("clip", 4), with_registers("clip", 0))
        claim = over_seeds(KEPT, "OpenCLIP, 4 registers against none", *sides, COMPARED)
        found = [judged(claim, sides, COMPARED.name)]
    return [*found, *(alone(KEPT, each, COMPARED) for each in measured if each.trained is None)]


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """A table has no figure."""
    return {}


EXPERIMENT = Experiment(
    id="table2b", label="Table 2b", title="Zero-shot classification with and without registers", needs=("classes",), looks="given",
    trains=trains, measure=measure, claims=claims, draw=draw,
    published={"OpenCLIP": {"ImageNet": (59.9, 60.1)}},
    protocol="Zero-shot ImageNet top-1 of OpenCLIP ViT-B/16, trained on licensed images and texts, without and with 4 registers.",
    ours="`eval zeroshot` on CLIP models that differ in registers and seed only; synthetic scenes have eight classes.",
)  # fmt: skip
