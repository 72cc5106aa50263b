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

PerImage = tuple[Float[Tensor, "B *C"], Float[Tensor, "B *C"]]
"""Numerator and denominator of every image: a value is the ratio of their sums, of several classes the mean of ratios."""

Needs = Literal["", "labels", "boxes", "masks", "clean twin", "names"]
"""What is known of the held-out images, see `HeldOut`."""


def nothing(_reader: Reader) -> str:
    """Return that a model lacks nothing that a column is measured on."""
    return ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of the table. Exactly one of the functions is given.

    Args:
        name: in records and in the CSV file.
        meaning: how it is measured, in a sentence.
        measure: of one model.
        compare: of the model as it is and the repaired one, in this order; an unrepaired model has no value of its own.
        run: of one model, with passes of its own over the images.
        whole: of what both models left of all images, a number without an interval, or why there is none.
        least: the smallest change worth naming, in the unit of the column: less is neither better nor worse.
        counts: what is right or wrong, or an outlier or none: every image, every token, or that of a model before and after
            something ("fall"). Intervals are then those of shares, which hold near 0 and 100 % too.
        needs: what is measured on, beside the images.
        lacks: why a model has no such number; "" if it has.
    """

    name: str
    title: str
    side: Literal["gain", "damage", "cost"]
    better: Literal["smaller", "larger", "neither"]
    meaning: str
    least: float
    unit: Literal["", "%", "s", "x"] = ""
    measure: Callable[[Reading], PerImage] | None = None
    compare: Callable[[Reading, Reading], PerImage] | None = None
    run: Callable[[Reader], PerImage] | None = None
    whole: Callable[[Gathered, Gathered], RepairCell | str] | None = None
    counts: Literal["", "images", "tokens", "fall"] = ""
    needs: Needs = ""
    lacks: Callable[[Reader], str] = nothing

    @property
    def record(self) -> RepairColumn:
        """Its entry in the record."""
        return RepairColumn(
            name=self.name, title=self.title, side=self.side, unit=self.unit, better=self.better, least=self.least,
            compared=self.compare is not None or self.whole is not None, meaning=self.meaning,
        )  # fmt: skip


def cosine_distance(one: Float[Tensor, "*N D"], other: Float[Tensor, "*N D"]) -> Float[Tensor, "*N"]:
    """Return 1 - cosine of vectors, exactly 0 for equal ones: half the squared distance of the unit vectors."""
    return (F.normalize(one, dim=-1) - F.normalize(other, dim=-1)).pow(2).sum(-1) / 2


def mean(values: Float[Tensor, "B"]) -> PerImage:
    """Return a mean over images; images whose value is NaN say nothing."""
    known = ~values.isnan()
    return values.nan_to_num(0.0).double(), known.double()
