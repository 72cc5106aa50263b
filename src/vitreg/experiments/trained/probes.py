"""The probes of the paper on frozen features (Sec. 3.2): headlines of `eval`, each on the data that the user or the scale names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vitreg.errors import UserError
from vitreg.experiments.lacking import LACKING, Need
from vitreg.experiments.trained.seeds import Compared
from vitreg.records.reproduction import Claim, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting
    from vitreg.results import EvalResult

NEEDS: dict[str, Need] = {"segmentation": "masks", "depth": "depths"}
"""What tasks need that need more than classes."""


def probed(setting: Setting, model: str, tasks: Sequence[str]) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return the headline of each task whose data there is, its controls, and the keys of the jobs.

    Raises:
        UserError: if a task fails, or there are data for none.
    """
    numbers: dict[str, float | None] = {}
    jobs = {}
    for task in tasks:
        data = {"segmentation": setting.masks, "depth": setting.depths}.get(task, setting.classes)
        if data:
            result, jobs[task] = _probe(setting, model, task, data)
            numbers[task] = result.metrics[result.headline]
            numbers |= {f"{task} control: {name}": value for name, value in result.controls.items()}
    return numbers, jobs


def _probe(setting: Setting, model: str, task: str, data: str) -> tuple[EvalResult, str]:
    from vitreg.verbs.eval.tasks.depth import WITHOUT

    try:
        return setting.probe(model, task, data)
    except UserError as error:  # names a flag of `eval` that experiments do not have
        raise UserError(error.sentence.replace(f"; {WITHOUT}", "")) from error


def kept(task: str, unit: str, least: float, *, lower: bool = False) -> Compared:
    """What is asked of a probe that must not get worse: the model that could lose something must beat the controls."""
    return Compared(name=task, unit=unit, lower=lower, least=least, controls=f"{task} control: ")


def gain_of(task: str, unit: str, *, lower: bool = False) -> Compared:
    """What is asked of a probe that must get better: one of the two models must beat the controls."""
    return Compared(name=task, unit=unit, lower=lower, controls=f"{task} control: ", either=True)


def judged(claim: Claim, sides: tuple[Sequence[Measured], Sequence[Measured]], task: str) -> Claim:
    """Say of a claim without a number which data it lacks."""
    if claim.value is not None or any(each.failed for side in sides for each in side):
        return claim
    return claim.model_copy(update={"reason": LACKING[NEEDS.get(task, "classes")]})
