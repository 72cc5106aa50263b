"""Checks of a recipe over several steps: micro-batches, averages, state, resuming, learning."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vitreg.data.batches.batch import TrainBatch
from vitreg.machine.runtime import Processes
from vitreg.models.vit import VisionTransformer
from vitreg.testing.recipe_case import (
    CPU,
    MEAN,
    SEED,
    STD,
    WHOLE,
    Case,
    at,
    optimizer_of,
    some,
    state_of,
    trainable,
    weights_of,
)
from vitreg.training import checkpoint
from vitreg.training.fit import fit
from vitreg.training.optim import clip_gradients
from vitreg.training.plan import Plan
from vitreg.training.settings import RunConfig, TrainConfig
from vitreg.training.setup import Setup

_SAVED, _LOST = 2, 3  # steps in the checkpoint of a short run, and those done when it is killed
LEARNING = 30  # steps on a fixed batch
_TIGHT = 1e-4


def micro_batches(case: Case) -> str | None:
    """Micro-batches of one group give the loss, gradients and state of the whole batch."""
    whole, parts, batch = case.build(), case.build(), case.batch(0)
    why = whole.why_whole_batch()
    if why is not None:
        assert why.strip(), "why_whole_batch() says nothing; None is for recipes whose batch can be split"
        return f"needs the whole batch: {why}"
    loss = whole(batch, at(0)).loss
    loss.backward()
    total = 0.0
    for part in batch.split(whole.group):
        share = parts(part, at(0, part.first)).loss * (len(part) / len(batch))
        share.backward()
        total += float(share.detach())
    _near(torch.tensor(total), loss.detach(), "the loss")
    largest = max(float(p.grad.norm()) for p in trainable(whole).values() if p.grad is not None)
    for name, parameter in trainable(parts).items():
        wanted = whole.get_parameter(name).grad
        assert (parameter.grad is None) == (wanted is None), f"the gradient of {name} is there only once"
        if parameter.grad is not None and wanted is not None:
            _near(parameter.grad, wanted, f"the gradient of {name}", floor=_TIGHT * largest)
    for recipe in (whole, parts):
        recipe.after_step(at(0))
    for name, value in parts.state_dict().items():
        _near(value, whole.state_dict()[name], f"'{name}' after the step")
    return None


def averages(case: Case) -> str | None:
    """State stays finite, and averages follow the trained weights."""
    recipe = case.build()
    filled: list[VisionTransformer] = []
    recipe.begin_with(lambda network: filled.append(network) or [])
    trained, shown = filled[0], recipe.backbone()
    history = [weights_of(trained)]
    start = weights_of(shown)
    finite = {name for name, value in state_of(recipe).items() if value.isfinite().all()}  # a mask may hold infinities
    case.train(recipe, range(WHOLE), lambda: history.append(weights_of(trained)))
    broken = [name for name, value in state_of(recipe).items() if name in finite and not value.isfinite().all()]
    assert not broken, f"{some(broken)} is not finite after {WHOLE} steps"
    if shown is trained:
        return "all state is finite; no average is kept of the backbone"
    for name, value in weights_of(shown).items():
        past = torch.stack([weights[name] for weights in history])  # [steps + 1, ...]
        if torch.equal(past[-1], past[0]):
            continue
        assert not torch.equal(value, start[name]), f"backbone()'s '{name}' does not follow what is trained"
        low, high = past.amin(0), past.amax(0)
        beyond = float(torch.maximum(low - value, value - high).amax())
        assert beyond <= 1e-6 * float(past.abs().max()), f"backbone()'s '{name}' is no average: {beyond:.1e} outside"
    return None


def state_dict(case: Case) -> None:
    """A state dict holds the complete state of a recipe."""
    recipe, twin = case.build(), case.build(seed=1)
    case.train(recipe, range(_SAVED))
    state = copy.deepcopy(recipe.state_dict())
    twin.load_state_dict(state)
    for name, value in twin.state_dict().items():
        assert torch.equal(value, state[name]), f"'{name}' is not taken from a state dict"
    losses = [one(case.batch(_SAVED), at(_SAVED)).loss for one in (recipe, twin)]
    assert torch.equal(*losses), f"a recipe with its state gives the loss {losses[1].item()}, not {losses[0].item()}"
    for one in (recipe, twin):
        one.after_step(at(_SAVED))
    for name, value in twin.state_dict().items():
        assert torch.equal(value, recipe.state_dict()[name]), f"'{name}' becomes another in a recipe with its state"


def resume(case: Case) -> None:
    """A run that is killed and resumed from its checkpoint ends as the uninterrupted one."""

    def run(folder: Path, *, seed: int = 0, stop: int | None = None, again: bool = False) -> None:
        """A short run of the product's loop, which dies before the step `stop`."""

        def batches(first: int) -> Iterator[TrainBatch]:
            for step in range(first, WHOLE):
                if step == stop:
                    raise _KilledError
                yield case.batch_factory(step)

        setup = Setup(
            batches=batches, mean=MEAN, std=STD, folder=folder, device=CPU, precision=torch.float32,
            group=Processes(), published={"model": {}},
        )  # fmt: skip
        config = TrainConfig(optim=case.optim, run=RunConfig(batch=len(case.batch_factory(0)), seed=SEED))
        plan = Plan(
            total=WHOLE, epoch_steps=_SAVED, warmup=0, save_every=_SAVED, evaluate_every=WHOLE, watch_every=WHOLE
        )
        try:
            fit(case.build(seed), config, plan, setup, checkpoint.load_newest(folder) if again else None)
        except _KilledError:
            assert stop is not None

    with tempfile.TemporaryDirectory() as folder:
        through, pieces = Path(folder) / "through", Path(folder) / "pieces"
        for run_folder in (through, pieces):
            run_folder.mkdir()
        run(through)
        run(pieces, stop=_LOST)
        run(pieces, seed=1, again=True)  # none of the new weights may remain
        one, other = checkpoint.load_newest(through), checkpoint.load_newest(pieces)
        assert one.step == other.step == WHOLE, f"the runs end after {one.step} and {other.step} steps"
        for what, wanted, found in (
            ("weights", one.model, other.model),
            ("moments", one.optimizer.tensors, other.optimizer.tensors),
        ):
            differ = [name for name, value in wanted.items() if not torch.equal(value, found[name])]
            assert not differ, f"{what} of {some(differ)} end otherwise in a run that was resumed"


def learning(case: Case) -> None:
    """The loss falls on a fixed batch."""
    # Without after_step: a moving teacher or centre changes the task, and then the loss may rise.
    recipe, batch = case.build(), case.batch(0)
    groups, optimizer = optimizer_of(recipe, case)
    losses = []
    for _ in range(LEARNING):
        loss = recipe(batch, at(0)).loss
        losses.append(float(loss.detach()))
        loss.backward()
        clip_gradients(groups, case.optim)
        optimizer.step()
        optimizer.zero_grad()
    start, end = losses[0], sum(losses[-5:]) / 5
    assert end < start - 0.01 * abs(start), f"the loss goes from {start:.4g} to {end:.4g} in {LEARNING} steps"


class _KilledError(Exception):
    """Ends a run in the middle."""


def _near(found: Tensor, wanted: Tensor, what: str, floor: float = 1e-7) -> None:
    """Compare by norm: single values, such as the gradient of a key's bias, are zero up to rounding."""
    error = float((found.double() - wanted.double()).norm())
    allowed = _TIGHT * float(wanted.double().norm()) + floor
    assert error <= allowed, f"{what} of micro-batches is off by {error:.1e}, {allowed:.1e} allowed"
