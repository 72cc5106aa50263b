"""Fig. 4b: the norms of the tokens over the training. Outliers appear only after a third of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitreg.errors import UserError
from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.options import Scale
from vitreg.experiments.outliers import absence, of_verdict
from vitreg.experiments.trained.model import RECIPES, Trained
from vitreg.experiments.trained.seeds import FEWEST_SEEDS, of_seeds
from vitreg.passes.jobs import RUNS
from vitreg.quantities import count
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

LATE = Says(
    id="late",
    says="Outliers appear only after a part of the training.",
    criterion="trained models have outliers, and the looks at their probe images show them, to the end, from a quarter of the "
    "training on or later; interval over three seeds or more",
    paper="after a third",
)
FROM = 0.25


def trains(scale: Scale) -> tuple[Trained, ...]:
    """DINOv2 without registers."""
    return (Trained(recipe="dinov2", registers=0),)


def measure(setting: Setting, model: str) -> Measured:
    """Scan the trained model, and read what was seen of its probe images while it was trained."""
    from vitreg.training.history import read_run

    held = setting.as_trained(model)
    if held is None:
        raise UserError("norms over the training are known of models that are trained here only.")
    folder = Path(model.removeprefix("run:"))
    scanned, job = setting.scan(model)
    run = read_run(folder)
    numbers: dict[str, float | None] = of_verdict(scanned)
    series: dict[str, list[float]] = {}
    if run.watched is not None and run.total:
        onset, looks = run.watched.onset, run.watched.moments
        numbers |= {"onset": None if onset is None else float(onset), "steps": float(run.total)}
        numbers |= {"part": None if onset is None else onset / run.total, "looks": float(len(looks))}
        series = {"step": [float(each.step) for each in looks], "share": [each.outlier_fraction for each in looks]}
        series["max_over_median"] = [each.layers[-1].max / each.layers[-1].median for each in looks]
    return Measured(subject=model, numbers=numbers, series=series, jobs={"scan": job, "train": folder.name})


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge the trainings over their seeds, by the look from which on outliers are there."""
    trained = [each for each in measured if each.trained is not None]
    return (
        [_late(trained)]
        if trained
        else [LATE.outcome(each.subject, None, each.failed) for each in measured if each.failed]
    )


def _late(trained: Sequence[Measured]) -> Claim:
    subject = f"{RECIPES[trained[0].trained.recipe]}, no registers"  # type: ignore[union-attr, index]
    failed = next((each.failed for each in trained if each.failed), "")
    if failed:
        return LATE.outcome(subject, None, failed)
    having = [each for each in trained if each.numbers["outliers"]]
    enough = len(trained) >= FEWEST_SEEDS
    if not having or len(having) < FEWEST_SEEDS <= len(trained):
        absent = [absence(each) for each in trained if not each.numbers["outliers"]]
        held = False if not having and enough and all(sure for sure, _ in absent) else None
        few = "" if enough else f", and from fewer than {FEWEST_SEEDS} nothing is claimed"
        words = f"Of {count(len(trained), 'seed')} {len(having)} have outliers in the end{few}. {absent[0][1]}."
        return LATE.outcome(subject, held, words)
    parts = [each.numbers.get("part") for each in having]
    if any(part is None for part in parts):
        return LATE.outcome(
            subject, None, "The trained model has outliers, and its probe images did not show them at the end."
        )
    steps = ", ".join(f"{each.numbers['onset']:.0f} of {each.numbers['steps']:.0f}" for each in having)
    words = f"From step {steps}; part of the training " + "{}"
    return of_seeds(LATE, subject, [part or 0.0 for part in parts], words, above=FROM)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The norms of the probe images over each training."""
    found = [each for each in record.measured if not each.failed and each.series]
    return {f"fig4b-{place}": (each.subject, partial(_curves, each, jobs)) for place, each in enumerate(found)}


def _curves(found: Measured, jobs: Path) -> Any:
    from vitreg.report.run.figures import curves_figure
    from vitreg.training.history import read_run

    return curves_figure([read_run(jobs / RUNS / found.jobs["train"]).model_copy(update={"name": found.subject})])


EXPERIMENT = Experiment(
    id="fig4b", label="Fig. 4b", title="Norms over the training", needs=("images",), looks="none", trains=trains,
    measure=measure, claims=claims, draw=draw,
    published={"model": "DINOv2 ViT-g/14", "outliers appear after": "a third of the training"},
    protocol="Distribution of the norms of patch tokens at the output, at checkpoints of the training of DINOv2 ViT-g/14.",
    ours="A DINOv2 of the scale without registers is trained; its probe images are scanned ten times or more on the way.",
)  # fmt: skip
