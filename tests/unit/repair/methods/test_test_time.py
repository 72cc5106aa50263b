"""Test-time registers: neurons found are the planted ones; scores and moves equal the naive loops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clean_twin import pictures, restored

import vitreg
from vitreg.backbones import Backbone
from vitreg.backbones.edits import Place
from vitreg.errors import UserError
from vitreg.models import planted
from vitreg.repair.effect import Effects
from vitreg.repair.fitting import fit_repair, subject_of
from vitreg.repair.methods.test_time import MoveToTokens
from vitreg.repair.settings import FitOptions
from vitreg.tokens import TokenLayout

pytestmark = pytest.mark.usefixtures("planted_once")


@pytest.mark.parametrize("kind", [pytest.param("high-norm", marks=pytest.mark.slow), "low-norm"])
def test_the_neurons_found_are_the_planted_writers(kind: str, photographs: list[Path]) -> None:
    model, truth = planted.build(kind, 0)
    found = fit_repair(model, photographs).record
    assert {int(block): set(units) for block, units in found.details["neurons"].items()} == {
        block: set(units) for block, units in truth.neurons.items()
    }
    assert found.held_out is not None
    assert found.held_out.share == 0


@pytest.mark.slow
def test_neurons_chosen_by_lot_repair_nothing(photographs: list[Path]) -> None:
    model, truth = planted.build("high-norm", 0)
    found = fit_repair(model, photographs, neurons=6, control=True).record
    assert not {unit for units in found.details["neurons"].values() for unit in units} & {*truth.neurons[3]}
    assert found.held_out is not None
    assert found.held_out.share == found.held_out.before > 0


def test_outliers_of_the_position_table_are_no_neurons_work(photographs: list[Path]) -> None:
    with pytest.raises(UserError, match="position-rows"):
        fit_repair(planted.build("position-locked", 0)[0], photographs[:12])


@pytest.mark.parametrize("registers", [1, 2])
def test_activations_move_as_the_naive_loop_says(registers: int) -> None:
    draw = torch.Generator().manual_seed(registers)
    layout = TokenLayout.prefixed((2, 3), cls_tokens=1, registers=1 + registers)
    hidden = torch.randn(4, layout.length, 7, generator=draw, dtype=torch.float64)
    neurons, owners = torch.tensor([5, 0, 3]), torch.arange(3) % registers
    given = hidden.clone()
    moved = MoveToTokens(neurons, owners, registers)(hidden, Place(layer=0, layout=layout))

    wanted = hidden.clone()
    added = [2 + r for r in range(registers)]  # CLS and one register of the model come before
    for image in range(4):
        for index, neuron in enumerate(neurons.tolist()):
            largest = max(
                (hidden[image, patch, neuron].item() for patch in range(2 + registers, 8 + registers)), key=abs
            )
            for patch in range(2 + registers, 8 + registers):
                wanted[image, patch, neuron] = 0
            for r, token in enumerate(added):
                wanted[image, token, neuron] = largest if r == index % registers else 0
    assert torch.equal(moved, wanted)
    assert torch.equal(hidden, given)


def test_a_model_whose_mlps_are_not_recognised_is_told_so(photographs: list[Path]) -> None:
    backbone = vitreg.load(planted.build("high-norm", 0)[0])
    backbone.anatomy = replace(backbone.anatomy, mlp=())
    with pytest.raises(UserError, match="not recognised"):
        fit_repair(backbone, photographs[-12:])


@pytest.mark.slow
def test_fitted_at_one_size_it_repairs_another(photographs: list[Path]) -> None:
    """Neurons are kept; thresholds are those of the other size."""
    model, truth = planted.build("high-norm", 0)
    repair = fit_repair(model, photographs[:16], size=160, neurons=6)
    assert repair.record.size == (160, 160)
    ((block, units),) = truth.neurons.items()
    assert {*repair.record.details["neurons"][str(block)]} == {*units}
    with subject_of(vitreg.load(model), photographs[-12:], FitOptions()) as subject:
        assert subject.size == (224, 224)
        outliers = subject.outliers
        assert outliers.record.thresholds != repair.record.outliers.thresholds
        effect = Effects(subject, outliers, "held_out").of(repair.apply(subject.backbone))
        assert effect.before > 0.002
        assert effect.worst_share == 0


def test_more_registers_than_patches_are_refused(photographs: list[Path]) -> None:
    with pytest.raises(UserError, match=r"196 patches.*not 197"):
        fit_repair(planted.build("high-norm", 0)[0], photographs[:8], registers=197)


def test_a_search_needs_outliers_to_judge_by(photographs: list[Path]) -> None:
    dealt = np.random.default_rng(0).permutation(8).argsort()  # the first three are fitted on, the next is chosen with
    noise = torch.randn(5, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    images = torch.cat([pictures([photographs[index] for index in (9, 10, 30)]), noise])[dealt]
    with pytest.raises(UserError, match="there are 0 outliers in the 1 image to choose with, too few to tell how many"):
        fit_repair(planted.build("high-norm", 0)[0], list(images))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["high-norm", "low-norm", "hidden", "last-block"])
@pytest.mark.parametrize("seed", range(20))
def test_every_draw_is_repaired(kind: str, seed: int, photographs: list[Path]) -> None:
    model, truth = planted.build(kind, seed)
    images, others = pictures(photographs[-6:]), pictures(photographs[:-6])
    for method in ("test-time", "attention-bias"):
        repair = fit_repair(model, [*others, *others.flip(-1)], method)  # mirrored too: half only judge
        found = {(int(block), unit) for block, units in repair.record.details["neurons"].items() for unit in units}
        planned = {(block, unit) for block, units in truth.neurons.items() for unit in units}
        neither = {(b, u) for role in (truth.triggers, truth.removers) for b, units in role.items() for u in units}
        assert len(found & planned) >= 0.95 * len(found - neither)
        assert len(found & planned) >= 0.95 * len(planned)
        assert repair.record.held_out is not None
        assert repair.record.held_out.worst_share < 0.0005
        cosines = restored(repair.apply(Backbone(model)), truth, seed, images)
        assert cosines.normal >= 0.99
        assert not truth.outliers(images).any() or cosines.outliers >= 0.9
