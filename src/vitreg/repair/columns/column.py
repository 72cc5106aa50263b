"""`Column`: one number of the table of repairs, as a function of what a model makes of a batch (`Reading`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitreg.repair.columns.reading import Gathered, Reader, Reading
from vitreg.results import RepairCell, RepairColumn

PerImage = tuple[Float[Tensor, "B"], Float[Tensor, "B"]]
"""Numerator and denominator of every image: a value is the ratio of their sums."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of the table. Exactly one of the functions is given.

    Args:
        name: in records and in the CSV file.
        meaning: how it is measured, in a sentence.
        measure: of one model.
        compare: of the model as it is and the repaired one, in this order; an unrepaired model has no value of its own.
        run: of one model, with passes of its own over the images.
        whole: of what both models left of all images; a number without an interval.
        trials: every image is right or wrong, so intervals are those of shares, which hold near 0 and 100 % too.
        asks: whether the data and the model have what it needs.
    """

    name: str
    title: str
    side: Literal["gain", "damage", "cost"]
    better: Literal["smaller", "larger", "neither"]
    meaning: str
    unit: Literal["", "%", "s", "x"] = ""
    measure: Callable[[Reading], PerImage] | None = None
    compare: Callable[[Reading, Reading], PerImage] | None = None
    run: Callable[[Reader], PerImage] | None = None
    whole: Callable[[Gathered, Gathered], RepairCell | None] | None = None
    trials: bool = False
    asks: Callable[[Reader], bool] = lambda _reader: True

    @property
    def record(self) -> RepairColumn:
        """Its entry in the record."""
        return RepairColumn(
            name=self.name, title=self.title, side=self.side, unit=self.unit, better=self.better,
            compared=self.compare is not None or self.whole is not None, meaning=self.meaning,
        )  # fmt: skip


def cosine_distance(one: Float[Tensor, "*N D"], other: Float[Tensor, "*N D"]) -> Float[Tensor, "*N"]:
    """Return 1 - cosine of vectors, exactly 0 for equal ones: half the squared distance of the unit vectors."""
    return (F.normalize(one, dim=-1) - F.normalize(other, dim=-1)).pow(2).sum(-1) / 2


def mean(values: Float[Tensor, "B"]) -> PerImage:
    """Return a mean over images; images whose value is NaN say nothing."""
    known = ~values.isnan()
    return values.nan_to_num(0.0).double(), known.double()
