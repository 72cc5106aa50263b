"""The subject of the conformance suite of recipes, and helpers for it: a recipe's factory, batches, and state."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitreg.data.batches.batch import TrainBatch
from vitreg.recipes.parameters import ParamGroup
from vitreg.recipes.recipe import Progress, Recipe
from vitreg.recipes.settings import OptimConfig
from vitreg.training.optim import build_optimizer, clip_gradients, set_rates

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)  # for batches of bytes
SEED = 3  # of the run
WHOLE = 4  # steps of a short run


@dataclass(frozen=True, slots=True)
class Case:
    """A recipe under test, with its batches and optimiser settings."""

    recipe_factory: Callable[[], Recipe]
    batch_factory: Callable[[int], TrainBatch]
    optim: OptimConfig
    rate: float

    def build(self, seed: int = 0) -> Any:
        """A fresh recipe, as the loop gets it: both a `Recipe` and an `nn.Module`."""
        torch.manual_seed(seed)
        return self.recipe_factory()

    def batch(self, step: int) -> TrainBatch:
        """The whole batch of a step, as the loop hands it over."""
        return self.batch_factory(step).on(CPU, MEAN, STD)

    def train(self, recipe: Any, steps: range, after: Callable[[], None] = lambda: None) -> None:
        """Take optimiser steps at the case's rate, and call `after` after each."""
        groups, optimizer = optimizer_of(recipe, self)
        for step in steps:
            recipe(self.batch(step), at(step)).loss.backward()
            clip_gradients(groups, self.optim)
            optimizer.step()
            optimizer.zero_grad()
            recipe.after_step(at(step))
            after()


def optimizer_of(recipe: Any, case: Case) -> tuple[list[ParamGroup], torch.optim.Optimizer]:
    """The optimiser of a recipe at the constant rate of the case, with the groups it was built from."""
    groups = recipe.parameter_groups(case.optim)
    optimizer = build_optimizer(groups, case.optim)
    constant = replace(case.optim, lr=case.rate, min_lr=case.rate, lr_scaling="none")
    set_rates(optimizer, groups, constant, at(0), 0, len(case.batch_factory(0)))
    return groups, optimizer


def at(step: int, first: int = 0) -> Progress:
    """The `Progress` of a short run."""
    return Progress(step=step, total=100, epoch_steps=10, seed=SEED, first=first)


def trainable(recipe: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters, by name."""
    return {name: parameter for name, parameter in recipe.named_parameters() if parameter.requires_grad}


def is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters, and none of them is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def state_of(recipe: nn.Module) -> dict[str, Tensor]:
    """All tensors of a recipe except gradients: parameters and buffers, saved or not."""
    return {**recipe.state_dict(), **dict(recipe.named_buffers())}


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters, by name."""
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def some(names: list[str]) -> str:
    """Name three, and count the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more


def generators() -> dict[str, Any]:
    """The state of every global generator, as values that compare."""
    kind, keys, *place = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (kind, np.asarray(keys).tobytes(), *place),
        "Python": random.getstate(),
    }


@contextmanager
def own_randomness() -> Generator[None, None, None]:
    """Leave all global generators as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
