"""The conformance suite of training recipes: promises to the loop, checkpoints and several processes.

It uses the project's own loop, optimiser and checkpoints, on one process. Equality of two processes with one is tested
outside this suite.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch

from vitreg.data.batches.batch import TrainBatch
from vitreg.models.vit import VisionTransformer
from vitreg.recipes.foreign import ForeignNetwork
from vitreg.recipes.recipe import Recipe, StepOutput
from vitreg.recipes.settings import OptimConfig
from vitreg.testing.recipe_case import WHOLE, Case, at, generators, is_frozen, own_randomness, some, trainable
from vitreg.testing.recipe_runs import averages, learning, micro_batches, resume, state_dict


def check_recipe(
    recipe_factory: Callable[[], Recipe],
    batch_factory: Callable[[int], TrainBatch],
    *,
    optim: OptimConfig | None = None,
    rate: float = 2e-3,
) -> dict[str, str]:
    """Check that a recipe keeps every promise the training loop relies on.

    The loss is one finite number, its metrics are detached; gradients reach every trainable parameter and no other;
    every trainable parameter is in exactly one group, under its own name; a step draws nothing from global generators
    and is the same again for the same batch and progress; what is not trained stays in evaluation mode; `begin_with`
    gives its weights to the network that is trained and to its average; `backbone()` and `shards()` are parts of the
    recipe; micro-batches of one group give the loss, gradients and state of the whole batch, unless `why_whole_batch()`
    says why not; after some steps all state is finite, and an average lies between the weights the network has had and
    has moved; a state dict is all there is to know; a run that is killed and resumed from its checkpoint ends as the
    uninterrupted one, bit for bit; the loss falls on a
    fixed batch while averages stand still.

    Some parameters get a gradient in special batches only: a register that no sample hides, a mask token where something
    is masked. They must get one within four steps.

    Args:
        recipe_factory: builds the recipe, its weights drawn from torch's global generator, which is seeded before.
        batch_factory: from a step to a batch of two or more whole groups, always the same for the same step.
        optim: AdamW with its defaults and clipping if unset; rates come from `rate` where the loss must fall.
        rate: learning rate at which the loss falls on a fixed batch within 30 steps.
    Returns:
        name of the check -> "held", or why it does not apply to this recipe.
    Raises:
        AssertionError: naming the recipe, the promise, and how it was broken.
        ValueError: if a batch has fewer than two groups.
    """
    case = Case(recipe_factory, batch_factory, optim or OptimConfig(clip=1.0), rate)
    with own_randomness():
        recipe = case.build()
        name, samples = type(recipe).__name__, len(batch_factory(0))
        if recipe.group < 1 or samples % recipe.group or samples < 2 * recipe.group:
            raise ValueError(f"a batch of {samples} samples is not two or more whole groups of {recipe.group} ({name})")
        return {promise: _examined(name, promise, check, case) for promise, check in _CHECKS.items()}


def _examined(name: str, promise: str, check: Callable[[Case], str | None], case: Case) -> str:
    try:
        return check(case) or "held"
    except AssertionError as error:
        raise AssertionError(f"{name} breaks the promise '{promise}': {error}") from error
    except Exception as error:
        raise AssertionError(f"{name} fails at '{promise}' with {type(error).__name__}: {error}") from error


def _loss(case: Case) -> None:
    batch = case.batch(0)
    output = case.build()(batch, at(0))
    assert isinstance(output, StepOutput), f"forward returns {type(output).__name__}, not StepOutput"
    assert output.loss.ndim == 0, f"the loss has shape {list(output.loss.shape)}, it must be one number"
    assert output.loss.isfinite(), f"the loss is {output.loss.item()}"
    assert output.loss.requires_grad, "no gradient flows from the loss"
    assert output.examples == len(batch), f"{output.examples} examples in a batch of {len(batch)}"
    for key, value in output.metrics.items():
        assert value.ndim == 0, f"the metric '{key}' has shape {list(value.shape)}, it must be one number"
        assert not value.requires_grad, f"the metric '{key}' is not detached and would keep the graph of the step"
        assert value.isfinite(), f"the metric '{key}' is {float(value)}"


def _gradients(case: Case) -> None:
    recipe = case.build()
    before = trainable(recipe)
    for step in range(WHOLE):
        recipe(case.batch(step), at(step)).loss.backward()
    assert trainable(recipe).keys() == before.keys(), "a step changes which parameters are trainable"
    silent = [name for name, p in before.items() if p.grad is None or not p.grad.any()]
    assert not silent, f"no gradient reaches {some(silent)} within {WHOLE} steps"
    broken = [name for name, p in before.items() if p.grad is not None and not p.grad.isfinite().all()]
    assert not broken, f"the gradient is not finite in {some(broken)}"
    touched = [name for name, p in recipe.named_parameters() if name not in before and p.grad is not None]
    assert not touched, f"there is a gradient in {some(touched)}, which is not trainable"


def _groups(case: Case) -> None:
    recipe = case.build()
    named, learned = dict(recipe.named_parameters()), trainable(recipe)
    for optim in (case.optim, OptimConfig(layer_decay=0.9, patch_embed_lr=0.2, decay_tokens=True)):
        groups = recipe.parameter_groups(optim)
        for group in groups:
            assert len(group.names) == len(group.params), f"{len(group.names)} names, {len(group.params)} parameters"
            strange = [n for n, p in zip(group.names, group.params, strict=True) if named.get(n) is not p]
            assert not strange, f"{some(strange)} in a group is not the parameter of that name"
        counts = Counter(name for group in groups for name in group.names)
        frozen = [name for name in counts if name not in learned]
        assert not frozen, f"{some(frozen)} is in a group and not trainable"
        missing = [name for name in learned if name not in counts]
        assert not missing, f"{some(missing)} is trainable and in no group"
        twice = [name for name, count in counts.items() if count > 1]
        assert not twice, f"{some(twice)} is in more than one group"


def _random_numbers(case: Case) -> None:
    recipe, batch = case.build(), case.batch(0)
    before = generators()
    recipe(batch, at(0)).loss.backward()
    recipe.after_step(at(0))
    touched = [name for name, state in generators().items() if state != before[name]]
    assert not touched, f"a step draws from or seeds the global generator of {some(touched)}; use Progress.generator"


def _same_again(case: Case) -> None:
    recipe, batch = case.build(), case.batch(0)
    first = recipe(batch, at(0)).loss
    for draw in (torch.rand, np.random.rand):  # other code draws in between
        draw(1)
    random.random()
    again = recipe(batch, at(0)).loss
    assert torch.equal(first, again), f"the same batch and progress give {first.item()}, then {again.item()}"
    twin = case.build()(batch, at(0)).loss
    assert torch.equal(first, twin), f"built again from the same seed it gives {twin.item()}, not {first.item()}"


def _training_flags(case: Case) -> None:
    recipe = case.build()
    assert recipe.training, "a fresh recipe is not in training mode"
    for mode in ("when it is built", "after train()", "after eval() and train()"):
        if mode == "after train()":
            recipe.train()
        elif mode != "when it is built":
            recipe.eval().train()
        awake = [name for name, module in recipe.named_modules() if module.training and is_frozen(module)]
        assert not awake, f"{some(awake)} is never trained, and in training mode {mode}"
    flags = {name: module.training for name, module in recipe.named_modules()}
    recipe(case.batch(0), at(0)).loss.backward()
    recipe.after_step(at(0))
    changed = [name or "the recipe" for name, module in recipe.named_modules() if module.training != flags[name]]
    assert not changed, f"a step changes the training mode of {some(changed)}"


def _begin_with(case: Case) -> None:
    recipe, notes = case.build(), ["what was done"]
    filled: list[VisionTransformer] = []

    def fill(network: VisionTransformer) -> list[str]:
        filled.append(network)
        draw = torch.Generator().manual_seed(5)
        for parameter in network.parameters():
            parameter.data.normal_(generator=draw)
        return notes

    said = recipe.begin_with(fill)
    assert len(filled) == 1, f"fill is called {len(filled)} times"
    assert said == notes, f"it returns {said}, not what fill said"
    assert any(module is filled[0] for module in recipe.modules()), (
        "the network that is filled is no part of the recipe"
    )
    assert any(p.requires_grad for p in filled[0].parameters()), "the network that is filled is not trained"
    shown = dict(recipe.backbone().named_parameters())
    assert shown.keys() == dict(filled[0].named_parameters()).keys(), "backbone() is not built as what is trained"
    other = [name for name, p in filled[0].named_parameters() if not torch.equal(p, shown[name])]
    assert not other, f"backbone() has not taken over {some(other)}"


def _parts(case: Case) -> None:
    recipe = case.build()
    inside = {id(module): name for name, module in recipe.named_modules()}
    assert id(recipe.backbone()) in inside, "backbone() is no part of the recipe"
    assert isinstance(recipe.backbone(), VisionTransformer | ForeignNetwork), (
        "backbone() is neither a VisionTransformer nor a ForeignNetwork"
    )
    shards = recipe.shards()
    strange = [type(module).__name__ for module in shards if id(module) not in inside]
    assert not strange, f"shards() has {some(strange)}, which is no part of the recipe"
    names = [inside[id(module)] for module in shards]
    assert len(set(names)) == len(names), "shards() names a module twice"
    nested = [name for name in names for other in names if name != other and name.startswith(f"{other}.")]
    assert "" not in names, "shards() has the recipe itself, which is wrapped in any case"
    assert not nested, f"{some(nested)} lies inside another of the shards"
    empty = [name for name, module in zip(names, shards, strict=True) if not any(True for _ in module.parameters())]
    assert not empty, f"{some(empty)} has no parameter to shard"


_CHECKS: dict[str, Callable[[Case], str | None]] = {
    "loss": _loss,
    "gradients": _gradients,
    "groups": _groups,
    "random numbers": _random_numbers,
    "same again": _same_again,
    "training flags": _training_flags,
    "begin with": _begin_with,
    "parts": _parts,
    "averages": averages,
    "micro-batches": micro_batches,
    "state dict": state_dict,
    "resume": resume,
    "learning": learning,
}
