"""Denoise: views, their way back and their average equal the naive loops; planted position-locked outliers are restored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.backbones.edits import Edit, Place
from vitreg.errors import UserError
from vitreg.models import planted
from vitreg.repair.fitting import fit_repair
from vitreg.repair.methods.denoise import ShiftAverage, SubtractMap, View, median, moved_back, seen, views
from vitreg.tokens import TokenLayout, Tokens

pytestmark = pytest.mark.usefixtures("planted_once")
PATCH = (3, 2)


def smooth(count: int, size: int, seed: int = 0) -> Tensor:
    """Images whose patches differ, unlike those of white noise."""
    small = torch.randn(count, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(small, size=(size, size), mode="bicubic")


def test_views_are_the_farthest_points_one_after_another() -> None:
    found = views((14, 20), 10)
    every = [(down, right) for down in range(-2, 3) for right in range(-3, 4)]
    chosen = [(0, 0)]
    while len(chosen) < 10:
        distances = [min((a - c) ** 2 + (b - d) ** 2 for c, d in chosen) for a, b in every]
        chosen.append(every[distances.index(max(distances))])
    assert [(view.down, view.right) for view in found] == chosen
    assert [view.flipped for view in found] == [False, True] * 5
    with pytest.raises(UserError, match="has 9 shifts"):
        views((7, 7), 10)


@pytest.mark.parametrize("view", [View(0, 0), View(2, -1), View(-1, 1, True), View(0, 2, True)])
def test_a_view_shows_the_patches_elsewhere_and_they_are_moved_back(view: View) -> None:
    grid = rows, cols = 5, 4
    images = torch.randn(
        2, 3, rows * 3, cols * 2 + 1, generator=torch.Generator().manual_seed(0)
    )  # a column no patch sees
    moved = seen(images, view, PATCH, grid)
    assert moved.shape == images.shape
    there = patches_of(moved, grid)
    back = moved_back(there.sum(-1, keepdim=True), view)
    for row in range(rows):
        for col in range(cols):
            new_row, new_col = row + view.down, col + view.right
            if not (0 <= new_row < rows and 0 <= new_col < cols):
                assert back[:, row, col].isnan().all()
                continue
            place = cols - 1 - new_col if view.flipped else new_col
            wanted = images[:, :, row * 3 : row * 3 + 3, col * 2 : col * 2 + 2]
            shown = moved[:, :, new_row * 3 : new_row * 3 + 3, place * 2 : place * 2 + 2]
            assert torch.equal(shown.flip(-1) if view.flipped else shown, wanted)
            torch.testing.assert_close(back[:, row, col, 0], wanted.sum((1, 2, 3)))


def patches_of(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, rows, cols, values of a patch]"""
    covered = images[..., : grid[0] * PATCH[0], : grid[1] * PATCH[1]]
    return covered.unfold(2, PATCH[0], PATCH[0]).unfold(3, PATCH[1], PATCH[1]).permute(0, 2, 3, 1, 4, 5).flatten(3)


@pytest.mark.parametrize("center", ["mean", "median"])
def test_the_average_is_that_of_the_naive_loop(center: str) -> None:
    grid = rows, cols = 7, 8
    layout = TokenLayout.prefixed(grid, cls_tokens=1).without([1 + 2 * cols + 3])  # one patch is gone
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, rows * 3, cols * 2, generator=draw)
    locked = torch.randn(rows, cols, generator=draw)

    def run(given: Tensor) -> Tokens:
        patches = (patches_of(given, grid).mean(-1) + locked).flatten(1)  # [B, P]
        tokens = torch.cat([given.mean((1, 2, 3))[:, None], patches[:, layout.present]], 1)
        return Tokens(tokens[..., None].expand(-1, -1, 4), layout)

    found = ShiftAverage(5, PATCH, center)(images, Place(layer=None, layout=layout, run=run))
    content = patches_of(images, grid).mean(-1)
    for row in range(rows):
        for col in range(cols):
            noise = []
            for view in views(grid, 5):
                new_row, new_col = row + view.down, col + view.right
                if 0 <= new_row < rows and 0 <= new_col < cols:
                    place = cols - 1 - new_col if view.flipped else new_col
                    noise += [locked[new_row, place].item()] * ((new_row, place) != (2, 3))
            middle = sorted(noise)[(len(noise) - 1) // 2] / 2 + sorted(noise)[len(noise) // 2] / 2
            wanted = content[:, row, col] + (sum(noise) / len(noise) if center == "mean" else middle)
            if (row, col) == (2, 3):
                assert found.patches[:, row * cols + col].isnan().all()
            else:
                torch.testing.assert_close(found.patches[:, row * cols + col, 0], wanted)
    assert torch.equal(found.cls, run(images).cls)


def test_the_median_counts_numbers_only_and_keeps_gradients() -> None:
    values = torch.tensor([[1.0, torch.nan], [5.0, 3.0], [2.0, torch.nan], [4.0, 7.0]], requires_grad=True)
    found = median(values)
    assert found.tolist() == [3.0, 5.0]
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_planted_tokens_at_fixed_places_are_restored_at_the_output(seed: int, photographs: list[Path]) -> None:
    model, truth = planted.build("position-locked", seed)
    repair = fit_repair(model, photographs, "denoise", limit=12)
    output = repair.record.details["output"]
    assert output["before"] > 5
    assert output["after"] < 2
    images = smooth(2, 224, seed)
    clean, fixed = Backbone(planted.clean(seed))(images), repair.apply(Backbone(model))(images)
    cosines, were = F.cosine_similarity(fixed.patches, clean.patches, dim=-1), truth.outliers(images)
    assert cosines[~were].mean() >= 0.99
    assert cosines[were].mean() >= 0.9
    assert torch.equal(fixed.cls, Backbone(model)(images).cls)
    with pytest.raises(UserError, match="use distill"):
        repair.apply(model)


def test_views_moved_back_by_lot_restore_less() -> None:
    model, _ = planted.build("position-locked", 0)
    images = smooth(1, 224)
    clean = Backbone(planted.clean(0))(images).patches
    worst = []
    for misplaced in (False, True):
        edit = Edit("forward", None, ShiftAverage(10, (16, 16), "median", misplaced))
        patches = Backbone(model).edited([edit], "denoise")(images).patches
        apart = [each - each.mean(1, keepdim=True) for each in (patches, clean)]
        worst.append(float(F.cosine_similarity(*apart, dim=-1).median()))
    assert worst[1] < worst[0] - 0.1


@pytest.mark.slow
def test_the_position_part_is_the_mean_map_and_works_in_the_module(photographs: list[Path]) -> None:
    model, truth = planted.build("position-locked", 0, image_size=112)
    images = smooth(100, 112)
    repair = fit_repair(model, images, "denoise", position_part=True)
    output = repair.record.details["output"]
    assert output["before"] > 5
    assert output["after"] < 2
    fixed = repair.apply(Backbone(model))(images[:2])
    were, clean = truth.outliers(images[:2]), Backbone(planted.clean(0, image_size=112))(images[:2])
    assert F.cosine_similarity(fixed.patches, clean.patches, dim=-1)[were].min() >= 0.9
    assert F.cosine_similarity(fixed.patches, clean.patches, dim=-1)[~were].mean() >= 0.9
    assert repair.apply(model)(images[:2]).shape == model(images[:2]).shape
    with pytest.raises(UserError, match="at least 100 images, and there are 33"):
        fit_repair(model, photographs, "denoise", position_part=True, size=112)


def test_a_map_is_subtracted_from_the_patches_alone_and_resampled() -> None:
    layout = TokenLayout.prefixed((2, 3), cls_tokens=1, registers=1).without([3])
    tokens, values = torch.randn(2, layout.length, 4), torch.randn(6, 4)
    found = SubtractMap(values, (2, 3))(tokens, Place(layer=1, layout=layout))
    assert torch.equal(found[:, :2], tokens[:, :2])
    torch.testing.assert_close(found[:, 2:], tokens[:, 2:] - values[[0, 2, 3, 4, 5]])
    larger = TokenLayout.prefixed((4, 6))
    constant = SubtractMap(torch.ones(6, 4), (2, 3))(torch.zeros(1, 24, 4), Place(layer=1, layout=larger))
    torch.testing.assert_close(constant, -torch.ones(1, 24, 4))
