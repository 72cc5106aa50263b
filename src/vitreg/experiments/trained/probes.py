"""The probes of the paper on frozen features (Sec. 3.2): headlines of `eval`, each on the data that the user or the scale names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Probed:
    """What the probes of a model found.

    Args:
        numbers: the headline of each task whose data there is, and its controls.
        jobs: keys of the jobs, by task.
        refused: why a model cannot take a task, by task: one without a class token, for instance.
    """

    numbers: dict[str, float | None] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def probed(setting: Setting, model: str, tasks: Sequence[str]) -> Probed:
    """Fit the probe of each task whose data there is.

    Raises:
        UserError: if the model can take none of them.
    """
    found = Probed()
    for task in tasks:
        data = {"segmentation": setting.masks, "depth": setting.depths}.get(task, setting.classes)
        if not data:
            continue
        try:
            result, found.jobs[task] = _probe(setting, model, task, data)
        except UserError as error:
            found.refused[task] = error.sentence
            continue
        found.numbers[task] = result.metrics[result.headline]
        found.numbers.update({f"{task} control: {name}": value for name, value in result.controls.items()})
    if found.refused and not found.numbers:
        raise UserError(next(iter(found.refused.values())))
    return found


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
    """Say of a claim without a number what it lacks: data, or a model that can take the task."""
    everyone = [each for side in sides for each in side]
    if claim.value is not None or any(each.failed for each in everyone):
        return claim
    refused = next((each for each in everyone if task in each.refused), None)
    if refused is not None:
        return claim.model_copy(update={"reason": f"{refused.subject}: {refused.refused[task]}"})
    return claim.model_copy(update={"reason": LACKING[NEEDS.get(task, "classes")]})
