"""Test-time registers: neurons found are the planted ones; scores and moves equal the naive loops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vitreg
from vitreg.backbones.edits import Place
from vitreg.errors import UserError
from vitreg.models import planted
from vitreg.repair.fitting import fit_repair
from vitreg.repair.methods.test_time import MoveToTokens
from vitreg.tokens import TokenLayout

pytestmark = pytest.mark.usefixtures("planted_once")


@pytest.mark.parametrize("kind", ["high-norm", "low-norm"])
def test_the_neurons_found_are_the_planted_writers(kind: str, photographs: list[Path]) -> None:
    model, truth = planted.build(kind, 0)
    found = fit_repair(model, photographs).record
    assert {int(block): set(units) for block, units in found.details["neurons"].items()} == {
        block: set(units) for block, units in truth.neurons.items()
    }
    assert found.held_out is not None
    assert found.held_out.share == 0


def test_neurons_chosen_by_lot_repair_nothing(photographs: list[Path]) -> None:
    model, truth = planted.build("high-norm", 0)
    found = fit_repair(model, photographs, neurons=6, control=True).record
    assert not {unit for units in found.details["neurons"].values() for unit in units} & {*truth.neurons[3]}
    assert found.held_out is not None
    assert found.held_out.share == found.held_out.before > 0


def test_outliers_of_the_position_table_are_no_neurons_work(photographs: list[Path]) -> None:
    with pytest.raises(UserError, match="position-rows"):
        fit_repair(planted.build("position-locked", 0)[0], photographs)


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
        fit_repair(backbone, photographs)
