"""What each experiment measures: models of the scale or of the user, and those that are trained for it. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from vitreg.experiments.experiment import Experiment
from vitreg.experiments.lacking import Need
from vitreg.experiments.options import Scale
from vitreg.experiments.trained.model import Trained


class Chosen(Protocol):
    """What decides which models there are: the options of a run."""

    @property
    def models(self) -> tuple[str, ...]:
        """Those that the user named. Then those of the scale are neither looked at nor trained."""
        ...

    @property
    def subjects(self) -> tuple[str, ...]:
        """Those that the user named, or the scale's."""
        ...

    @property
    def scale(self) -> Scale:
        """How models are trained."""
        ...

    @property
    def seed(self) -> int:
        """The first seed."""
        ...

    @property
    def seeds(self) -> int:
        """How many of each model are trained."""
        ...


def runs(experiment: Experiment, chosen: Chosen, named: bool) -> bool:
    """Whether an experiment runs: beside models of the user, one that looks at no other models must be named."""
    return named or not chosen.models or experiment.looks != "none"


def others_of(experiment: Experiment, chosen: Chosen) -> tuple[str, ...]:
    """Return what an experiment measures beside models that are trained for it."""
    if experiment.subjects:
        return experiment.subjects
    wanted = experiment.looks == "models" or (experiment.looks == "given" and bool(chosen.models))
    return chosen.subjects if wanted else ()


def models_of(experiment: Experiment, chosen: Chosen) -> list[Trained]:
    """Return the models that are trained for an experiment, of every seed."""
    if chosen.models and experiment.looks != "none":
        return []
    seeds = range(chosen.seed, chosen.seed + chosen.seeds)
    return [model.with_seed(seed) for seed in seeds for model in experiment.trains(chosen.scale)]


def read_by(experiment: Experiment, trained: Iterable[Trained]) -> tuple[Need, ...]:
    """Return the data that an experiment reads, by the names of their options.

    Args:
        trained: the models that are trained for it.
    """
    recipes = {model.recipe for model in trained}
    on: tuple[Need, ...] = ("train",) * bool(recipes - {"clip"}) + ("captions",) * ("clip" in recipes)
    return tuple(dict.fromkeys((*experiment.needs, *experiment.uses, *on)))
