"""Distill: only the named parts are trained, towards the average of views; its control without registers is reported."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vitreg
from vitreg.backbones import Backbone
from vitreg.backbones.edits import Edit
from vitreg.errors import UserError
from vitreg.models import planted
from vitreg.models.vit import VisionTransformer
from vitreg.repair.fitting import fit_repair
from vitreg.repair.methods import distill
from vitreg.repair.methods.denoise import ShiftAverage
from vitreg.repair.repair import Repair
from vitreg.repair.train import Schedule

pytestmark = pytest.mark.usefixtures("planted_once")
SETTINGS = {"epochs": 4, "registers": 3, "shifts": 3, "images_at_once": 4}


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    return planted.build("position-locked", 0, image_size=112)[0]


def smooth(count: int, seed: int) -> Tensor:
    """Images whose patches differ, unlike those of white noise."""
    small = torch.randn(count, 3, 14, 14, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(small, size=112, mode="bicubic")


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return smooth(24, 0)


@pytest.fixture(scope="module")
def repair(model: VisionTransformer, pictures: Tensor) -> Repair:
    return fit_repair(model, pictures, "distill", **SETTINGS)


@pytest.fixture(scope="module")
def untrained(model: VisionTransformer, pictures: Tensor) -> Repair:
    return fit_repair(model, pictures, "distill", control=True, **SETTINGS)


def test_the_loss_is_that_of_the_naive_loop() -> None:
    draw = torch.Generator().manual_seed(0)
    found, wanted = (torch.randn(2, 5, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    total = 0.0
    for image in range(2):
        for patch in range(5):
            a, b = found[image, patch], wanted[image, patch]
            total += 1 - float(a @ b / a.norm() / b.norm()) + float(((a - b) ** 2).sum()) / 4
    assert float(distill.loss(found, wanted)) == pytest.approx(total / 10, rel=1e-12)


def test_the_rate_falls_by_the_same_factor_after_every_epoch() -> None:
    schedule = Schedule(epochs=3, lr=1e-4, last_lr=1e-6, weight_decay=0)
    assert [schedule.rate(epoch) for epoch in range(3)] == pytest.approx([1e-4, 1e-5, 1e-6])
    assert Schedule(epochs=1, lr=1e-4, last_lr=1e-6, weight_decay=0).rate(0) == 1e-4


@pytest.mark.slow
def test_registers_table_embedding_and_last_block_are_trained_and_nothing_else(
    model: VisionTransformer, repair: Repair
) -> None:
    changed = distill.weights(_found(repair))
    wanted = {n for n, _ in model.named_parameters() if n.startswith(("pos_embed", "patch_embed.proj", "blocks.11."))}
    assert {*changed} == wanted
    assert not any(torch.equal(value, model.get_parameter(name)) for name, value in changed.items())
    registers = repair.tensors["registers"]
    assert registers.shape == (3, 192)
    assert len(repair.apply(Backbone(model))(torch.randn(1, 3, 112, 112)).layout.registers) == 3
    control = repair.record.details["control"]
    assert control["registers"] == 0
    assert control["held_out"]["images"] == repair.record.held_out.images > 0  # type: ignore[union-attr]
    assert control["losses"] != repair.record.details["losses"]


def _found(repair: Repair) -> distill.Fitted:
    return distill.Fitted(repair.tensors, repair.record.details)


@pytest.mark.slow
def test_training_brings_the_patches_of_other_images_closer_to_the_average_of_views(
    model: VisionTransformer, repair: Repair, untrained: Repair
) -> None:
    losses = repair.record.details["losses"]
    assert losses == sorted(losses, reverse=True)
    others, base = smooth(4, 1), Backbone(model)
    teacher = base.edited([Edit("forward", None, ShiftAverage(3, (16, 16)))], "denoise")(others).patches
    before, after = (float(distill.loss(each.apply(base)(others).patches, teacher)) for each in (untrained, repair))
    assert after < before


@pytest.mark.slow
def test_a_module_keeps_its_outputs_and_the_same_seed_gives_the_same_weights(
    model: VisionTransformer, repair: Repair, pictures: Tensor
) -> None:
    images = torch.randn(2, 3, 112, 112)
    assert repair.apply(model)(images).shape == model(images).shape
    torch.testing.assert_close(
        repair.apply(model)(images), repair.apply(Backbone(model))(images).cls, atol=1e-5, rtol=1e-4
    )
    again = fit_repair(model, pictures, "distill", **SETTINGS)
    assert all(torch.equal(value, again.tensors[name]) for name, value in repair.tensors.items())


def test_an_untrained_control_changes_no_weight(model: VisionTransformer, untrained: Repair) -> None:
    assert untrained.tensors["registers"].shape == (3, 192)
    weights = distill.weights(_found(untrained))
    assert weights
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in weights.items())


def test_ctrl_c_leaves_the_model_as_it_was(
    model: VisionTransformer, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    steps = []

    def interrupted(found: Tensor, wanted: Tensor) -> Tensor:
        if steps:
            raise KeyboardInterrupt
        steps.append(1)
        return F.mse_loss(found, wanted)

    monkeypatch.setattr(distill, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_repair(model, pictures, "distill", **SETTINGS)
    assert steps
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_models_that_cannot_be_trained_so_are_told_so(pictures: Tensor) -> None:
    backbone = vitreg.load(planted.build("position-locked", 0, image_size=112)[0])
    edited = backbone.edited([Edit("block", 0, lambda tokens, _place: tokens)], "nothing")
    with pytest.raises(UserError, match="repair them first"):
        fit_repair(edited, pictures, "distill", **SETTINGS)
    backbone.anatomy = replace(backbone.anatomy, resizable=False)
    with pytest.raises(UserError, match="with registers 0"):
        fit_repair(backbone, pictures, "distill", **SETTINGS)
