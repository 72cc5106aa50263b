"""The sheets of dense tasks: the first test images, their true maps, and the head's predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from matplotlib.colors import hsv_to_rgb
from torch import Tensor

from vitreg.data.sets.settings import IGNORE
from vitreg.data.sources.decode import Unreadable
from vitreg.report.sheets.sheet import Column, Scale, Sheet
from vitreg.verbs.eval.dense.stored import at_points
from vitreg.verbs.eval.dense.tokens import Case

SHOWN = 8  # images
SIDE = 240  # pixels, the longer side of a picture
_GOLDEN = 0.618034  # hue step as a share of the circle; no two classes get the same hue


class Album:
    """Keeps small copies of the first test images and their maps."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._images: list[np.ndarray | None] = []
        self._maps: dict[str, list[np.ndarray]] = {}

    def add(self, case: Case, maps: Mapping[str, Shaped[Tensor, "H W"]]) -> None:
        """Keep an image if there is room; every image has maps of the same names."""
        if len(self._names) == SHOWN:
            return
        shrink = min(1.0, SIDE / max(case.truth.shape))
        size = [max(1, round(side * shrink)) for side in case.truth.shape]
        try:
            picture = case.pairs.read(case.index).image.convert("RGB").resize((size[1], size[0]))
        except Unreadable:  # deleted after its features were extracted; it is judged all the same
            picture = None
        self._names.append(Path(case.pairs.name(case.index)).name)
        self._images.append(None if picture is None else np.asarray(picture))
        for title, values in maps.items():
            self._maps.setdefault(title, []).append(at_points(values.numpy(), size))

    def of_classes(self, title: str) -> Sheet:
        """Draw maps of class numbers, one colour per class, white for pixels without a class."""
        return self._sheet(
            title,
            f"{self._which} A colour is a class, black the first one, white pixels without one.",
            {name: [class_colours(each) for each in maps] for name, maps in self._maps.items()},
        )

    def of_depths(self, title: str, low: float, high: float) -> Sheet:
        """Draw maps of metres on one scale up to the deepest value; white for pixels out of range."""
        found = {
            name: [np.where((each > low) & (each < high), each, np.nan) for each in maps]
            for name, maps in self._maps.items()
        }
        ends = [np.nanmax(each) for maps in found.values() for each in maps if np.isfinite(each).any()]
        scale = Scale(low=0.0, high=float(max(ends, default=high)), label="metres", colours="magma")
        caption = f"{self._which} White: no known depth within reach of the bins."
        return self._sheet(title, caption, found, scale)

    @property
    def _which(self) -> str:
        return f"The first {len(self._names)} test images, not chosen."

    def _sheet(
        self, title: str, caption: str, maps: Mapping[str, list[np.ndarray]], scale: Scale | None = None
    ) -> Sheet:
        columns = [Column(title="image", cells=self._images)]
        columns += [Column(title=name, cells=cells) for name, cells in maps.items()]
        return Sheet(
            title=title, caption=caption, rows=self._names, columns=columns, scale=scale, upsample="bilinear", cell=2.0
        )


def class_colours(numbers: Shaped[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Paint class numbers: 0, most often the background, black; others in hues far apart; 255 white."""
    steps = np.arange(256)
    colours = hsv_to_rgb(np.stack([steps * _GOLDEN % 1, np.ones(256), np.where(steps % 2, 0.95, 0.65)], axis=1))
    colours[0], colours[IGNORE] = 0, 1
    return (255 * colours).astype(np.uint8)[numbers]
