"""Clip norm: outliers get the median norm and keep their direction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vitreg.backbones.edits import Place
from vitreg.repair.methods.clip_norm import ClipNorm
from vitreg.repair.per_image.detect import Detector
from vitreg.repair.table.on_planted import Patient, patient
from vitreg.tokens import TokenLayout

pytestmark = pytest.mark.usefixtures("planted_once")


@pytest.fixture(scope="module")
def high(photographs: list[Path]) -> Iterator[Patient]:
    with patient("high-norm", 0, photographs[:12]) as found:
        yield found


@pytest.mark.parametrize("side", ["high", "low"])
def test_outliers_are_rescaled_as_the_naive_loop_says(side: str) -> None:
    draw = torch.Generator().manual_seed(0)
    layout = TokenLayout.prefixed((3, 3), cls_tokens=1, registers=1)
    tokens = torch.randn(3, layout.length, 6, generator=draw, dtype=torch.float64)
    tokens[0, 4] *= 100 if side == "high" else 0.001
    tokens[0, 0] *= 100 if side == "high" else 0.001  # the class token is none of its business
    tokens[1, 2] = 0
    threshold = 20.0 if side == "high" else 0.1
    given, detector = tokens.clone(), Detector("norm", side, threshold, 0.05, 30)
    fixed = ClipNorm(detector)(tokens, Place(layer=0, layout=layout))

    wanted = given.clone()
    for image in range(3):
        norms = [given[image, patch].norm().item() for patch in range(2, 11)]
        for patch in range(2, 11):
            norm = norms[patch - 2]
            if norm and (norm >= threshold if side == "high" else norm < threshold):
                wanted[image, patch] = given[image, patch] * sorted(norms)[4] / norm
    torch.testing.assert_close(fixed, wanted, atol=1e-12, rtol=1e-12)
    assert torch.equal(tokens, given)


def test_norms_are_ordinary_and_directions_stay_wrong(high: Patient) -> None:
    after = high.after("clip-norm")
    assert after.effect.before > 0.002
    assert after.effect.worst_share == 0
    assert after.effect.ratio == pytest.approx(1, abs=0.1)
    assert after.normal >= 0.99
    assert after.outliers < 0.5  # why it is a control


def test_patches_by_lot_clip_nothing(high: Patient) -> None:
    after = high.after("clip-norm", random=True)
    assert after.effect.worst_share == after.effect.before
