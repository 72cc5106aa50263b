"""What `vitreg.maps` returns: the arrays of every model and block, and what they look like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitreg.errors import UserError
from vitreg.notebook import Brief, Row, Tabled, card, image
from vitreg.quantities import with_left_out
from vitreg.records import Skipped
from vitreg.report.sheets.sheet import Sheet, draw
from vitreg.verbs.maps.options import WHAT, MapsOptions, What, kinds_of
from vitreg.verbs.maps.sheets import compose
from vitreg.verbs.maps.values import ModelMaps

if TYPE_CHECKING:
    from vitreg.report.paper import NotebookFigure

SHOWN: tuple[What, ...] = ("attention", "norm", "pca", "registers", "rgb", "heads")
"""Kinds of maps, in the order in which a notebook shows them."""
MOST = 3  # kinds that a notebook shows
SCREEN = 100  # pixels of an inch there: notebooks keep what they show


@dataclass(frozen=True, kw_only=True, slots=True)
class MapsResult(Tabled):
    """Maps of one set of images.

    Args:
        images: names, in the order of the first axis of all arrays.
        maps: one entry per model and layer, in the order requested.
        skipped: images that could not be read, and why.
        notes: the maps that a model cannot give, with the reason, and the notes of loading it.
        paths: the sheets written.
        there: number of images to choose from; None if unknown, as behind a URL.
        options: as asked for, by which figures are drawn.
    """

    images: tuple[str, ...]
    maps: tuple[ModelMaps, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    there: int | None = None
    options: MapsOptions = field(default_factory=MapsOptions)

    def __repr__(self) -> str:
        drawn = ", ".join(f"{each.model} block {each.layer}" for each in self.maps)
        return f"MapsResult({len(self.images)} images; {drawn})"

    def plot(self, kind: What | None = None) -> NotebookFigure:
        """Return the first sheet of a kind of map as a figure; it belongs to no window and is not of pyplot.

        Args:
            kind: such as "norm"; by default the first there is of attention, norm, pca, registers, rgb and heads.
        Raises:
            UserError: for a kind that is unknown or that the result does not hold.
        """
        wanted = SHOWN if kind is None else kinds_of(kind)
        found = next((sheet for each in wanted for _, sheet in self._sheets(each)), None)
        if found is None:
            held = [each for each in WHAT if next(self._sheets(each), None)]
            raise UserError(
                f"there are no maps of {', '.join(wanted)} here; there are {', '.join(held) or 'none at all'}."
            )
        return draw(found)

    def figures(self) -> dict[str, NotebookFigure]:
        """Return every sheet that the verb would write, as a figure, by the name of its file."""
        return {name: draw(sheet) for each in self.options.what for name, sheet in self._sheets(each)}

    def _sheets(self, kind: What) -> Iterator[tuple[str, Sheet]]:
        asked = self.options
        shared = asked.scale == "shared"
        yield from compose(self.images, self.maps, (kind,), shared=shared, upsample=asked.upsample, mass=asked.mass)

    def _rows(self) -> list[Row]:
        """Give a row for each model, block, image and map of one number for each patch: least, mean and most, and where it is."""
        return [
            {
                "model": each.model, "block": each.layer, "image": name_of, "map": name, "min": float(np.nanmin(values)),
                "mean": float(np.nanmean(values)), "max": float(np.nanmax(values)), "row": place // each.grid[1],
                "col": place % each.grid[1],
            }
            for each in self.maps
            for name, held in each.named.items()
            for name_of, values in zip(self.images, held, strict=True)
            for place in (int(np.nanargmax(values)),)
        ]  # fmt: skip

    def _brief(self) -> Brief:
        blocks = [(f"{each.model} block {each.layer}", ", ".join(each.named)) for each in self.maps]
        images = with_left_out(len(self.images), len(self.skipped))
        facts = [("images", images), *blocks, *(("sheet", path) for path in self.paths)]
        return Brief(title="MapsResult", sentence=" ".join(self.notes), facts=facts)

    def _repr_html_(self) -> str:
        found = [sheet for kind in SHOWN if kind in self.options.what for _, sheet in list(self._sheets(kind))[:1]]
        return f"<div>{card(self._brief())}{''.join(map(_as_image, found[:MOST]))}</div>"


def _as_image(sheet: Sheet) -> str:
    figure = draw(sheet)
    figure.set_dpi(SCREEN)
    return image(figure._repr_png_(), sheet.title)
