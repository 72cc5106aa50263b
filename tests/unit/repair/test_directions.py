"""The predicted direction: the linear maps are those of the formula, and on planted models it is the artifact's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import vitreg
from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.models import planted
from vitreg.models.vit import Block, VisionTransformer
from vitreg.repair.directions import angle, block_map, deviations_of, measured_direction, predicted_directions
from vitreg.repair.table.on_planted import Patient, patient

pytestmark = pytest.mark.usefixtures("planted_once")


@pytest.fixture(scope="module")
def low(photographs: list[Path]) -> Iterator[Patient]:
    with patient("low-norm", 0, photographs[4:12]) as found:
        yield found


@pytest.mark.parametrize("deviation", [1.0, 2.5])
def test_a_block_is_the_map_of_the_formula(deviation: float) -> None:
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, 24, 1, 3, layer_scale=0.5).double().eval()
    block = model.blocks[0]
    assert isinstance(block, Block)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    block.norm2.weight.data.fill_(1)
    block.norm2.bias.data.zero_()
    block.mlp.act = nn.Identity()  # then the MLP is linear: W2 W1 (I - 1 1^T / D) / s, up to the norm's curvature
    found = block_map(Backbone(model), 0, deviation)

    width, scale1, scale2 = 24, block.ls1.gamma.detach(), block.ls2.gamma.detach()
    values, output = block.attn.qkv.weight.detach()[48:], block.attn.proj.weight.detach()
    gain, reads, writes = block.norm1.weight.tolist(), values.tolist(), output.tolist()
    attention = torch.zeros(width, width, dtype=torch.float64)
    for row in range(width):
        for col in range(width):
            total = 0.0
            for inner in range(width):
                for middle in range(width):
                    total += writes[row][inner] * reads[inner][middle] * gain[middle] * ((middle == col) - 1 / width)
            attention[row, col] = scale1[row] * total / deviation + (row == col)
    centring = torch.eye(width, dtype=torch.float64) - 1 / width
    linear = scale2[:, None] * (block.mlp.fc2.weight @ block.mlp.fc1.weight).detach() @ centring / deviation
    wanted = (linear + torch.eye(width)) @ attention
    assert float((found - wanted).norm() / wanted.norm()) < 0.03  # 64 * 24 Gaussian tokens


def test_the_least_squares_map_is_that_of_a_solver() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, 24, 1, 3).double().eval()
    block = model.blocks[0]
    assert isinstance(block, Block)
    nn.init.zeros_(block.attn.proj.weight)  # A is the identity
    nn.init.normal_(block.mlp.fc1.weight)
    nn.init.normal_(block.mlp.fc2.weight)
    tokens = torch.randn(64 * 24, 24, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        outputs = block.mlp(block.norm2(tokens))
    padded = torch.cat([tokens, torch.ones(len(tokens), 1)], 1)
    solved = torch.linalg.lstsq(padded, outputs).solution[:-1].T
    torch.testing.assert_close(block_map(Backbone(model), 0), solved + torch.eye(24))


def test_the_artifact_of_a_planted_model_is_predicted(low: Patient) -> None:
    subject, truth = low.subject, low.truth
    onset = subject.outliers.onset
    assert angle(measured_direction(subject), truth.direction) < 10
    from_weights = predicted_directions(subject.backbone, upto=onset)
    assert from_weights.shape == (onset + 1, 192)
    assert angle(from_weights[onset], truth.direction) <= 10
    assert angle(from_weights[0], truth.direction) > 30  # nothing writes it yet
    assert (
        angle(predicted_directions(subject.backbone, deviations_of(subject), upto=onset)[onset], truth.direction) <= 10
    )


def test_a_direction_of_the_position_table_cannot_be_predicted() -> None:
    model, truth = planted.build("position-locked", 0)
    assert angle(predicted_directions(vitreg.load(model), upto=1)[1], truth.direction) > 45


def test_angles_have_no_sign() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    assert angle(a, a) == angle(a, -a) == 0
    assert angle(a, b) == pytest.approx(45)


def test_blocks_that_are_not_recognised_are_refused() -> None:
    backbone = vitreg.load(planted.build("high-norm", 0)[0])
    backbone.anatomy = replace(backbone.anatomy, attention=())
    with pytest.raises(UserError, match="not recognised"):
        predicted_directions(backbone, upto=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["high-norm", "low-norm", "last-block", "hidden"])
def test_the_artifact_of_every_planted_draw_is_predicted(kind: str, seed: int) -> None:
    model, truth = planted.build(kind, seed)
    onset = truth.layers.start
    assert angle(predicted_directions(vitreg.load(model), upto=onset)[onset], truth.direction) <= 10
