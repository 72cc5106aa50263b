"""The experiments by id, in the order of the paper."""

from __future__ import annotations

from vitreg.errors import unknown
from vitreg.experiments import future
from vitreg.experiments.critics import identical, local, relocated, repaired, zeroed
from vitreg.experiments.experiment import Experiment
from vitreg.experiments.figures import fig03, fig04a, fig04b, fig04c, fig05a, fig05b, fig07, fig08, fig10, fig11, fig12
from vitreg.experiments.pictures import fig01, fig02, fig06, fig09, fig13, fig14, fig15, fig16
from vitreg.experiments.tables import table1, table2a, table2b, table3

EXPERIMENTS: dict[str, Experiment] = {
    each.EXPERIMENT.id: each.EXPERIMENT
    for each in (
        fig01, fig02, fig03, fig04a, fig04b, fig04c, fig05a, fig05b, fig06, fig07, fig08, fig09, fig10, fig11, fig12, fig13,
        fig14, fig15, fig16, table1, table2a, table2b, table3, future,
        identical, zeroed, local, relocated, repaired,
    )
}  # fmt: skip


def experiments_named(ids: tuple[str, ...]) -> list[Experiment]:
    """Return experiments in the order of the paper; all of them without ids.

    Raises:
        UserError: for an id that does not exist, with the nearest.
    """
    for name in ids:
        if name not in EXPERIMENTS:
            raise unknown("experiment", name, EXPERIMENTS, "vitreg reproduce")
    return [each for name, each in EXPERIMENTS.items() if not ids or name in ids]
