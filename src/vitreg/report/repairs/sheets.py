"""Maps of the patch norms before and after every repair, on one colour scale for each model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from vitreg.report.repairs.words import label
from vitreg.report.sheets.boxes import thumbnail
from vitreg.report.sheets.kept import Named
from vitreg.report.sheets.sheet import Column, Sheet, shared_scale
from vitreg.results import RepairRow, RepairsResult

MAPS = "maps.png"
UNCHANGED = "zero strength"


@dataclass(frozen=True)
class Photograph:
    """An image as a model sees it."""

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]


def sheets_of(result: RepairsResult, photographs: Sequence[Sequence[Photograph]]) -> list[Named]:
    """Return one sheet for each model: photographs down, repairs across.

    Args:
        photographs: of each model, in the order of the rows.
    """
    sheets: list[Named] = []
    models = list(dict.fromkeys(row.model for row in result.rows))
    for number, (model, shown) in enumerate(zip(models, photographs, strict=False)):
        rows = [row for row in result.rows if row.model == model and row.maps and row.control != UNCHANGED]
        rows = [row for row in rows if len(row.maps) == len(shown)]
        if shown and rows:
            name = MAPS if not number else f"maps-{number + 1}.png"
            sheets.append((name, _sheet(model, shown, rows)))
    return sheets


def _sheet(model: str, shown: Sequence[Photograph], rows: Sequence[RepairRow]) -> Sheet:
    maps = [[np.array(each, dtype=np.float64) for each in row.maps] for row in rows]  # None becomes NaN
    scale = shared_scale([each for one in maps for each in one], "L2 norm of the patch", colours="magma")
    pictures = Column(title="image", cells=[thumbnail(each.pixels) for each in shown])
    columns = [Column(title=label(row), cells=cells) for row, cells in zip(rows, maps, strict=True)]
    return Sheet(
        title="Norms of the patches before and after",
        subtitle=model,
        rows=[each.name for each in shown],
        columns=[pictures, *columns],
        scale=scale,
        caption="At the block where the outliers of the model as it is stand out most, on one colour scale. Held-out images.",
    )
