"""Data that are named and do not exist: what needs them is left out, and the rest runs. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vitreg.errors import UserError
from vitreg.experiments.experiment import Experiment
from vitreg.experiments.lacking import LACKING, Need
from vitreg.experiments.options import ReproduceOptions
from vitreg.experiments.subjects import runs
from vitreg.passes import ahead


def absent(options: ReproduceOptions) -> dict[Need, str]:
    """Return why data that were named cannot be read, by the name of their option; empty if all of them exist."""
    found: dict[Need, str] = {}
    data = options.data
    for need in LACKING:
        try:
            if need == "images":
                ahead.refuse_absent_inputs(options.images)
            else:
                ahead.refuse_absent_set(data[need])
        except UserError as error:
            found[need] = f"--{need}: {error.sentence}"
    return found


def refuse_absent(
    absent: Mapping[Need, str], experiments: Sequence[Experiment], options: ReproduceOptions, named: bool
) -> None:
    """Refuse data that do not exist where every experiment needs some of them; else the others run.

    Args:
        named: whether the user named the experiments.
    Raises:
        UserError: with the first.
    """
    wanted = [each for each in experiments if runs(each, options, named)]
    if absent and all(any(need in absent for need in each.needs) for each in wanted):
        raise UserError(next(iter(absent.values())))
