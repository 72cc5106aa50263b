"""What a model makes of a batch of held-out images, read once for all columns, and what stays of it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.analysis.paired import Sums
from vitreg.backbones import Backbone, Capture, Trace
from vitreg.repair.columns.data import HeldOut
from vitreg.repair.effect import summary_of
from vitreg.repair.logits import classifies, logits_of
from vitreg.repair.outliers import Outliers, patch_norms
from vitreg.repair.subject import Subject
from vitreg.tokens import TokenLayout, Tokens

T = TypeVar("T")
QUERIES = 16  # patches whose attention is read, beside the class token
LATER = 4  # blocks behind the onset in which it is read


@dataclass(frozen=True)
class Reader:
    """One model over the held-out images.

    Args:
        outliers: of the model as it is, whose thresholds decide; None if it has none.
        held_out: labels, boxes and masks of the images, where they are given.
    """

    backbone: Backbone
    subject: Subject
    outliers: Outliers | None
    held_out: HeldOut
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, name: str, made: Callable[[Reader], T]) -> T:
        """Return what several columns read of one pass of their own; it is made by the first of them."""
        if name not in self._kept:
            self._kept[name] = made(self)
        return self._kept[name]

    @property
    def peak(self) -> int:
        """The block at which outliers stand out most; the last of a model without."""
        return self.backbone.depth - 1 if self.outliers is None else self.outliers.record.peak

    @cached_property
    def queries(self) -> dict[int, list[int]]:
        """The tokens whose attention is read, by block: the class token and evenly spaced patches."""
        depth = self.backbone.depth
        if self.outliers is None or self.backbone.attention_status().source == "none":
            return {}
        later = np.arange(self.outliers.onset + 1, depth)
        blocks = later[np.unique(np.linspace(0, len(later) - 1, LATER).round().astype(int))] if len(later) else []
        layouts = self.backbone.layouts(self.subject.size)
        return {int(block): queries_of(layouts[int(block)]) for block in blocks}

    @cached_property
    def classifies(self) -> bool:
        """Whether the model's own output is that of a classifier."""
        first = next(self.subject.batches("held_out"))
        return classifies(self.backbone, first[:1])

    @cached_property
    def returns(self) -> bool:
        """Whether the model's own module returns one row of numbers an image."""
        first = next(self.subject.batches("held_out"))[:1]
        try:
            return logits_of(self.backbone, first) is not None
        except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError):
            return False  # it takes more than images, or another size

    def read(self, images: Float[Tensor, "B C H W"], start: int) -> Reading:
        """Run the model on a batch.

        Args:
            start: place of the first image among the held-out ones.
        """
        keys = [self.backbone.depth - 1] if self.held_out.truth and self.backbone.anatomy.attention else []
        trace = self.backbone.trace(images, Capture(norms="all", rows=self.queries, projected=keys))
        return Reading(self, images, trace, slice(start, start + len(images)))


@dataclass(frozen=True)
class Reading:
    """One model on one batch."""

    reader: Reader
    images: Float[Tensor, "B C H W"]
    trace: Trace
    place: slice

    @property
    def final(self) -> Tokens:
        """The tokens the model returns."""
        return self.trace.final

    @cached_property
    def patches(self) -> Float[Tensor, "B P D"]:
        """The patches it returns, float32; NaN for patches that are gone."""
        return self.final.patches.float()

    @cached_property
    def clean(self) -> Float[Tensor, "B P D"]:
        """The patches that the clean twin returns for these images."""
        twin = self.reader.held_out.clean
        assert twin is not None
        return twin(self.images).patches.float()

    @cached_property
    def summary(self) -> Float[Tensor, "B D"]:
        """The class token, or the mean patch of a model without one."""
        return summary_of(self.final)

    @cached_property
    def logits(self) -> Float[Tensor, "B K"] | None:
        """What the classifier answers; None without one."""
        return self.returned if self.reader.classifies else None

    @cached_property
    def returned(self) -> Float[Tensor, "B K"] | None:
        """What the model's own module returns, one row an image."""
        return logits_of(self.reader.backbone, self.images)

    def norms(self, block: int) -> Float[Tensor, "B P"]:
        """Return the norms of the patches after a block; NaN for patches that are gone."""
        return patch_norms(self.trace, block)

    def beyond(self, block: int) -> Bool[Tensor, "B P"]:
        """Return which patches are outliers after a block; none in a model that has none."""
        norms, outliers = self.norms(block), self.reader.outliers
        return torch.zeros_like(norms, dtype=torch.bool) if outliers is None else outliers.beyond(norms, block)

    @cached_property
    def ever(self) -> Bool[Tensor, "B P"]:
        """Which patches are outliers after any block that shows outliers."""
        outliers = self.reader.outliers
        blocks = [self.reader.peak] if outliers is None else outliers.blocks
        return torch.stack([self.beyond(block) for block in blocks]).any(0)


@dataclass
class Gathered:
    """What stays of a model's pass over all held-out images: numbers, one vector an image, and counts by place."""

    sums: dict[str, Sums] = field(default_factory=dict)
    summaries: list[Tensor] = field(default_factory=list)
    predicted: list[Tensor] = field(default_factory=list)
    counts: Tensor | None = None  # outliers at the peak, by place
    grid: tuple[int, int] = (0, 0)
    maps: list[Tensor] = field(default_factory=list)  # norms at the peak of the first images
    identical: bool = True
    labels: Tensor | None = None
    lacking: dict[str, str] = field(default_factory=dict)  # column -> why it has no number

    def keep(self, reading: Reading, shown: int) -> None:
        """Keep what columns over all images read, and the first maps."""
        self.summaries.append(reading.summary.cpu())
        self.labels = reading.reader.held_out.labels
        if reading.logits is not None:
            self.predicted.append(reading.logits.argmax(1).cpu())
        peak = reading.reader.peak
        beyond = reading.beyond(peak).sum(0).cpu()
        self.counts = beyond if self.counts is None else self.counts + beyond
        self.grid = reading.trace.layout_after(peak).grid
        self.maps += [
            each.cpu().reshape(self.grid) for each in reading.norms(peak)[: max(0, shown - reading.place.start)]
        ]


def queries_of(layout: TokenLayout) -> list[int]:
    """Return the class token and `QUERIES` patches, evenly spaced."""
    there = layout.patch_index[layout.present]
    chosen = torch.linspace(0, len(there) - 1, min(QUERIES, len(there))).round().long()
    return [*layout.cls, *there[chosen].tolist()]
