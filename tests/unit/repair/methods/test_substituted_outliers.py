"""Substitute: outliers found and filled as the naive loops say, and restored in planted models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor

from vitreg.backbones.edits import Place
from vitreg.errors import UserError
from vitreg.models import planted
from vitreg.repair.fitting import fit_repair
from vitreg.repair.methods.substitute import Substitute
from vitreg.repair.per_image.detect import Detector, as_many_others, local_outlier_factor
from vitreg.repair.per_image.neighbours import filled
from vitreg.repair.table.on_planted import Patient, patient
from vitreg.tokens import GONE, TokenLayout

pytestmark = pytest.mark.usefixtures("planted_once")
SPARSE = (
    0,
    4,
    5,
    8,
    12,
    16,
    17,
    18,
    19,
    20,
    21,
    22,
)  # photographs with 1 to 9 planted outliers, below 5 % of the patches
BY_NORM = Detector("norm", "high", 20.0, 0.05, 30)


@pytest.fixture(scope="module")
def low(photographs: list[Path]) -> Iterator[Patient]:
    with patient("low-norm", 0, [photographs[index] for index in SPARSE]) as found:
        yield found


def naive_fill(values: torch.Tensor, marked: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    rows, cols = layout.grid
    found = values.clone()
    for image in range(len(values)):
        for row in range(rows):
            for col in range(cols):
                at = layout.patch(row, col)
                if at == GONE or not marked[image, row * cols + col]:
                    continue
                for ring in range(1, max(rows, cols)):
                    around = [
                        values[image, layout.patch(r, c)]
                        for r in range(max(0, row - ring), min(rows, row + ring + 1))
                        for c in range(max(0, col - ring), min(cols, col + ring + 1))
                        if layout.patch(r, c) != GONE and not marked[image, r * cols + c]
                    ]
                    if around:
                        found[image, at] = torch.stack(around).mean(0)
                        break
    return found


@pytest.mark.parametrize("gone", [(), (3, 9, 10)])
def test_outliers_become_the_mean_of_their_nearest_ordinary_neighbours(gone: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    layout = TokenLayout.prefixed((4, 5), cls_tokens=1, registers=2).without(gone)
    tokens = torch.randn(4, layout.length, 6, generator=draw, dtype=torch.float64)
    marked = torch.rand(4, 20, generator=draw) < 0.3
    marked[1] = torch.tensor(
        [[row < 3 and col < 3 for col in range(5)] for row in range(4)]
    ).flatten()  # a ring is not enough
    marked[2] = True  # nothing to fill from: stays
    marked[3] = False
    marked &= layout.present
    index = layout.patch_index
    for image, place in marked.nonzero().tolist():
        tokens[image, index[place]] *= 100
    given = tokens.clone()
    fixed = Substitute(BY_NORM)(tokens, Place(layer=0, layout=layout))
    torch.testing.assert_close(fixed, naive_fill(given, marked, layout), atol=1e-12, rtol=1e-12)
    assert torch.equal(fixed[2:], given[2:])
    assert torch.equal(tokens, given)


def test_low_precision_and_gradients() -> None:
    values = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    marked = torch.zeros(2, 9, dtype=torch.bool)
    marked[:, 4] = True
    whole = filled(values, marked, torch.arange(9), (3, 3))
    whole[:, 4].sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad[:, 4], torch.zeros(2, 4))  # what is replaced counts no more
    torch.testing.assert_close(values.grad[:, 0], torch.full((2, 4), 1 / 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(filled(values, marked, torch.arange(9), (3, 3)), whole)
    half = filled(values.bfloat16(), marked, torch.arange(9), (3, 3))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("k", [5, 30, 100])
def test_the_local_outlier_factor_is_that_of_scikit_learn(k: int) -> None:
    draw = torch.Generator().manual_seed(k)
    values = torch.randn(3, 64, 8, generator=draw, dtype=torch.float64) + 50
    values[1, :40] *= 3
    factors = local_outlier_factor(values, k)
    layout = TokenLayout.prefixed((8, 8), cls_tokens=1)
    marked = Detector("lof", "high", 0.0, 0.05, k)(torch.cat([values[:, :1], values], 1), layout)
    for image in range(3):
        model = LocalOutlierFactor(n_neighbors=min(k, 63), contamination=0.05)
        found = model.fit_predict(values[image].numpy()) == -1
        np.testing.assert_allclose(factors[image].numpy(), -model.negative_outlier_factor_, rtol=1e-9)
        assert np.array_equal(marked[image].numpy(), found)
        assert marked[image].sum() == math.ceil(0.05 * 63)


def test_equal_patches_have_a_factor() -> None:
    assert local_outlier_factor(torch.zeros(1, 9, 4), 30).isfinite().all()


def test_a_control_marks_as_many_others() -> None:
    marked = torch.rand(5, 196, generator=torch.Generator().manual_seed(0)) < 0.02
    marked[4] = False
    others = as_many_others(marked, seed=1)
    assert not (others & marked).any()
    assert torch.equal(others.sum(1), marked.sum(1))
    assert torch.equal(as_many_others(marked[2:3], seed=1), others[2:3])  # each image alone the same
    assert not torch.equal(as_many_others(marked, seed=2), others)


@pytest.mark.parametrize("detector", ["norm", "lof"])
def test_it_restores_planted_outliers(low: Patient, detector: str) -> None:
    after = low.after("substitute", detector=detector)
    assert after.effect.before > 0.002
    assert after.effect.worst_share == 0
    assert after.normal >= 0.99
    assert after.before < 0.5
    assert after.outliers >= 0.9


def test_at_the_output_only_earlier_blocks_keep_them(low: Patient) -> None:
    after = low.after("substitute", where="output")
    assert after.repair.record.details["block"] == 11
    assert after.effect.worst_share == after.effect.before
    assert after.outliers >= 0.9


def test_the_published_form_acts_after_the_last_block_but_one(low: Patient) -> None:
    after = low.after("substitute", where="late", detector="lof")
    assert after.repair.record.details["block"] == 10
    assert after.outliers >= 0.9


def test_the_local_outlier_factor_misses_a_crowd(photographs: list[Path]) -> None:
    """An image of more outliers than 5 % of its patches keeps some; where there are more than k, they are a cluster."""
    with patient("low-norm", 0, photographs[29:]) as crowded:
        after = crowded.after("substitute", detector="lof")
        assert after.effect.share > 0.5 * after.effect.before > 0.05
        assert crowded.after("substitute").effect.share == 0


def test_patches_by_lot_repair_nothing(low: Patient) -> None:
    after = low.after("substitute", random=True)
    assert after.effect.share >= after.effect.before
    assert after.outliers == pytest.approx(after.before, abs=1e-3)


def test_a_share_of_the_patches_lies_between_none_and_all(photographs: list[Path]) -> None:
    with pytest.raises(UserError, match="is a share of the patches"):
        fit_repair(planted.clean(0), photographs[:4], "substitute", share=1.0)
