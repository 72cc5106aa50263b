"""Position rows: the planted rows are found and replaced, and the interpolation is that of the naive loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import vitreg
from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.models import planted
from vitreg.repair.fitting import fit_repair
from vitreg.repair.methods.position_rows import interpolated, residuals
from vitreg.repair.outliers import NothingToRepairError

pytestmark = pytest.mark.usefixtures("planted_once")


def naive_bending(table: list[list[float]]) -> float:
    rows, cols = len(table), len(table[0])
    lines = [*table, *([table[r][c] for r in range(rows)] for c in range(cols))]
    return sum((line[i] - 2 * line[i + 1] + line[i + 2]) ** 2 for line in lines for i in range(len(line) - 2))


@pytest.mark.parametrize("places", [[(2, 3)], [(0, 0)], [(4, 2), (4, 3), (1, 0)]])
def test_the_interpolation_bends_least_of_all(places: list[tuple[int, int]]) -> None:
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(5, 6, 1, generator=draw, dtype=torch.float64)
    missing = torch.zeros(5, 6, dtype=torch.bool)
    missing[tuple(zip(*places, strict=True))] = True
    filled = interpolated(table.flatten(0, 1), (5, 6), missing.flatten()).reshape(5, 6)
    assert torch.equal(filled[~missing], table[..., 0][~missing])
    least = naive_bending(filled.tolist())
    for place in places:
        for step in (-0.01, 0.01):
            other = filled.clone()
            other[place] += step
            assert naive_bending(other.tolist()) > least


def test_a_row_inside_gets_the_cubic_weights_and_its_residual_is_the_distance() -> None:
    table = torch.randn(7 * 7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grid, (row, col) = table.reshape(7, 7, 4), (3, 2)
    wanted = torch.zeros(4, dtype=torch.float64)
    for dr, dc in ((1, 0), (0, 1)):
        for step, weight in ((-2, -1), (-1, 4), (1, 4), (2, -1)):
            wanted += weight / 12 * grid[row + step * dr, col + step * dc]
    missing = torch.arange(49) == row * 7 + col
    filled = interpolated(table, (7, 7), missing)
    torch.testing.assert_close(filled[missing][0], wanted)
    alone = torch.stack([(interpolated(table, (7, 7), torch.arange(49) == i) - table).norm() for i in range(49)])
    torch.testing.assert_close(residuals(table, (7, 7)), alone)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_planted_rows_are_found_and_their_tokens_restored(seed: int, photographs: list[Path]) -> None:
    model, truth = planted.build("position-locked", seed)
    repair = fit_repair(model, photographs, "position-rows")
    assert sorted(map(tuple, repair.record.details["rows"])) == sorted(truth.positions)
    effect = repair.record.held_out
    assert effect is not None
    assert effect.before > 0.005
    assert effect.worst_share < 0.0005

    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(seed))
    clean, fixed = Backbone(planted.clean(seed))(images), repair.apply(Backbone(model))(images)
    cosines, were = F.cosine_similarity(fixed.patches, clean.patches, dim=-1), truth.outliers(images)
    assert cosines[~were].min() >= 0.99
    assert cosines[were].min() >= 0.9
    torch.testing.assert_close(repair.apply(model)(images), fixed.cls, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_all_other_rows_and_weights_stay(photographs: list[Path]) -> None:
    model, truth = planted.build("position-locked", 0)
    fixed = fit_repair(model, photographs, "position-rows").apply(model)
    (changed,) = [n for n, value in fixed.state_dict().items() if not torch.equal(value, model.state_dict()[n])]
    assert changed == "pos_embed"
    differ = (fixed.pos_embed != model.pos_embed).any(-1).flatten().nonzero()[:, 0].tolist()
    assert differ == sorted(row * truth.grid[1] + col for row, col in truth.positions)


@pytest.mark.slow
def test_rows_chosen_by_lot_repair_nothing(photographs: list[Path]) -> None:
    model, truth = planted.build("position-locked", 0)
    found = fit_repair(model, photographs, "position-rows", control=True).record
    assert len(found.details["rows"]) == len(truth.positions)
    assert not {*map(tuple, found.details["rows"])} & {*truth.positions}
    assert found.held_out is not None
    assert found.held_out.share == found.held_out.before > 0


def test_outliers_that_follow_the_image_are_no_rows_work(photographs: list[Path]) -> None:
    with pytest.raises(UserError, match=r"no row of pos_embed .* test-time"):
        fit_repair(planted.build("high-norm", 0)[0], photographs, "position-rows")


def test_a_model_without_a_table_and_one_without_outliers_are_told_so(photographs: list[Path]) -> None:
    backbone = vitreg.load(planted.build("position-locked", 0)[0])
    backbone.anatomy = replace(backbone.anatomy, position_table=lambda: None)
    with pytest.raises(UserError, match="learns no table"):
        fit_repair(backbone, photographs[:16], "position-rows")
    with pytest.raises(NothingToRepairError):
        fit_repair(planted.clean(0), photographs[:8], "position-rows")
