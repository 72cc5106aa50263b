"""Every recipe keeps the promises of `check_recipe`, with every knob of registers on or off; broken ones are caught by name."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.contracts.recipes.broken_recipes import FAULTS, Toy, toy_batch
from tests.contracts.recipes.tiny_recipes import ALL_KNOBS, MODEL, RECIPES, batch_of, build

from vitreg.recipes import registry
from vitreg.recipes.known import kinds
from vitreg.recipes.settings import ClipConfig, SupervisedConfig
from vitreg.testing import check_recipe

NO_REGISTERS = {"registers": 0}
KNOBS = {
    "one register": {"registers": 1},
    "late": {"register_depth": 1},
    "slots": {"register_attention": "slots"},
    "positions": {"register_positions": True},
    "dropout": {"register_dropout": 0.5},
    "decorrelation": {"register_decorrelation": 0.5},
    "depth": {"drop_path": 0.5},
    "depth of a subset": {"drop_path": 0.5, "drop_path_mode": "subset"},
    "mean of patches": {"pool": "mean"},
    "norm first": {"pre_norm": True},
    "swiglu": {"mlp": "swiglu"},
    "layer scale": {"layer_scale": 1e-4},
}
WHOLE = {"clip", "dinov2 sinkhorn", "dinov2 shared head"}
"""Recipes whose `why_whole_batch` says why micro-batches are another step."""
AVERAGED = {"dinov2 sinkhorn", "dinov2 softmax", "dinov2 shared head", "dino", "supervised ema"}
"""Recipes that keep an average of their weights."""


def check(name, **knobs):
    recipe, model = RECIPES[name], replace(MODEL, **knobs)
    if isinstance(recipe, ClipConfig):
        pytest.importorskip("open_clip", reason="open_clip is not installed")
    return check_recipe(lambda: build(recipe, model), lambda step: batch_of(recipe, step))


KINDS = {type(recipe): name for name, recipe in reversed(RECIPES.items())}.values()  # the first of each


@pytest.mark.parametrize(
    ("name", "knobs"),
    [pytest.param(name, ALL_KNOBS, id=f"{name}-all knobs") for name in RECIPES]
    + [
        pytest.param(name, NO_REGISTERS, id=f"{name}-no registers", marks=() if name in KINDS else pytest.mark.slow)
        for name in RECIPES
    ],
)
def test_every_recipe_keeps_its_promises(name, knobs):
    found = check(name, **knobs)
    assert (found["micro-batches"] != "held") == (name in WHOLE), (
        f"micro-batches: {found['micro-batches']}; if '{name}' is meant so, change `WHOLE` in test_recipes.py"
    )
    assert (found["averages"] == "held") == (name in AVERAGED), (
        f"averages: {found['averages']}; if '{name}' is meant so, change `AVERAGED` in test_recipes.py"
    )
    assert {promise for promise, what in found.items() if what != "held"} <= {"micro-batches", "averages"}


def without_a_case():
    """The recipes of vitreg that no case of `tiny_recipes` builds, and so no promise is checked of."""
    own = {name for name, config in kinds().items() if config.__module__.startswith("vitreg.")}
    return own - {recipe.kind for recipe in RECIPES.values()}


def test_every_recipe_has_a_case():
    assert without_a_case() == set()


def test_a_recipe_without_a_case_is_found(monkeypatch):
    monkeypatch.setitem(registry._registered, "planted", SupervisedConfig)
    assert without_a_case() == {"planted"}


@pytest.mark.slow
@pytest.mark.parametrize("knob", KNOBS)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_keeps_its_promises_with_each_knob(name, knob):
    check(name, **KNOBS[knob])


# Broken ones.


def test_the_toy_keeps_all_promises():
    python, numpy, torchs = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    assert set(check_recipe(Toy, toy_batch).values()) == {"held"}
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy).all()
    assert torch.equal(torch.get_rng_state(), torchs)


@pytest.mark.parametrize("broken", FAULTS, ids=lambda broken: broken.__name__)
def test_a_broken_recipe_is_caught_by_name(broken):
    promise, words = FAULTS[broken]
    with pytest.raises(AssertionError) as caught:
        check_recipe(broken, toy_batch)
    message = str(caught.value)
    assert message.startswith(f"{broken.__name__} ")
    assert f"'{promise}'" in message
    assert words in message


def test_a_batch_of_one_group_proves_nothing():
    with pytest.raises(ValueError, match="two or more whole groups of 2"):
        check_recipe(Toy, lambda step: toy_batch(step).split(2)[0])
