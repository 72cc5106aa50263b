"""Rows of the position table that stand out are replaced by the interpolation of their neighbours. It changes weights.

A row stands out if its norm and its distance from the interpolation both do (`far_above`). The interpolation bends least:
it minimises the sum of squared second differences of the table along rows and columns, all other rows fixed. For a single
row inside the grid these are the weights of cubic interpolation, (-1, 4, 4, -1) / 6 in both directions. That both
criteria must hold, and the form of the interpolation, are vitreg's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.analysis.lint import far_above
from vitreg.backbones import Backbone
from vitreg.backbones.anatomy.parts import parameter_name
from vitreg.errors import UserError
from vitreg.repair.method import Fitted, Method
from vitreg.repair.settings import PositionRowsSettings
from vitreg.repair.subject import Subject

SHORTEST = 3  # a second difference needs three rows or columns


def bending(table: Float[Tensor, "rows cols D"]) -> Float[Tensor, "rows cols D"]:
    """Return half the gradient of the sum of squared second differences along rows and columns."""
    found = torch.zeros_like(table)
    for axis in (0, 1):
        given, result = table.transpose(0, axis), found.transpose(0, axis)
        if len(given) >= SHORTEST:
            second = given[:-2] - 2 * given[1:-1] + given[2:]
            result[:-2] += second
            result[1:-1] -= 2 * second
            result[2:] += second
    return found


def residuals(table: Float[Tensor, "P D"], grid: tuple[int, int]) -> Float[Tensor, "P"]:
    """Return the distance of every row from what its neighbours alone would put there."""
    rows, cols = (_own_weight(side, table.dtype) for side in grid)
    weights = (rows[:, None] + cols[None]).flatten()
    return bending(table.unflatten(0, grid)).flatten(0, 1).norm(dim=-1) / weights


def _own_weight(side: int, dtype: torch.dtype) -> Float[Tensor, "side"]:
    """Return the weight of each place of a line in its own bending."""
    weight = torch.zeros(side, dtype=dtype)
    if side >= SHORTEST:
        weight[:-2] += 1
        weight[1:-1] += 4
        weight[2:] += 1
    return weight


def interpolated(
    table: Float[Tensor, "P D"], grid: tuple[int, int], missing: Bool[Tensor, "P"]
) -> Float[Tensor, "P D"]:
    """Return the table with some rows replaced such that it bends least."""
    holes = missing.nonzero()[:, 0]
    units = torch.zeros(len(table), len(holes), dtype=table.dtype)
    units[holes, torch.arange(len(holes))] = 1
    system = bending(units.unflatten(0, grid)).flatten(0, 1)[holes]  # [holes, holes]
    known = table.masked_fill(missing[:, None], 0)
    wanted = -bending(known.unflatten(0, grid)).flatten(0, 1)[holes]
    filled = known.clone()
    filled[holes] = torch.linalg.solve(system, wanted)
    return filled


def fit(subject: Subject, settings: PositionRowsSettings) -> Fitted:
    """Find the rows that stand out, and interpolate them."""
    name, parameter, table, grid = _table_of(subject.backbone)
    values = table.detach().double().cpu()
    found = far_above(values.norm(dim=-1), settings.mads) & far_above(residuals(values, grid), settings.mads)
    if not found.any():
        raise UserError(
            f"no row of {name} of {subject.backbone.spec} stands out, so there is none to replace; test-time registers "
            "repair outliers that follow the image."
        )
    if subject.random:
        others = (~found).nonzero()[:, 0].numpy()
        drawn = np.random.default_rng(subject.seed).permutation(others)[: int(found.sum())]
        found = torch.zeros_like(found).index_fill(0, torch.from_numpy(drawn), True)
    mended = parameter.detach().clone(memory_format=torch.preserve_format)
    # The rows of the patches are a view of the parameter, whatever stands before them there.
    view = mended.as_strided(table.shape, table.stride(), table.storage_offset() - parameter.storage_offset())
    view.copy_(interpolated(values, grid, found))
    places = [[index // grid[1], index % grid[1]] for index in found.nonzero()[:, 0].tolist()]
    return Fitted({name: mended.cpu()}, {"rows": places, "parameter": name})


def _table_of(backbone: Backbone) -> tuple[str, Tensor, Float[Tensor, "P D"], tuple[int, int]]:
    """Return the parameter that holds the position table, by name, and in it the rows of the patches and their grid."""
    stored, tower = backbone.anatomy.position_table(), backbone.anatomy.tower
    name = None if stored is None else parameter_name(tower, stored[0])
    if stored is None or name is None:
        raise UserError(
            f"{backbone.spec} learns no table of absolute positions, so none of its rows can be replaced; denoise needs none."
        )
    table, grid = stored
    if min(grid) < SHORTEST:
        raise UserError(
            f"the position table of {backbone.spec} has {grid[0]}x{grid[1]} rows, and interpolation needs at least 3x3."
        )
    return name, tower.get_parameter(name), table, grid


def weights(found: Fitted) -> Mapping[str, Tensor]:
    """Return the parameter with the rows replaced."""
    return dict(found.tensors)


METHOD = Method(name="position-rows", settings=PositionRowsSettings, fit=fit, weights=weights)
