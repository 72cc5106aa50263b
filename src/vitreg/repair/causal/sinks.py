"""Which patches of an image are its sinks, and the random patches beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.analysis.token_classes import pick_many, pick_one, random_keys
from vitreg.backbones import Capture, Trace
from vitreg.errors import UserError
from vitreg.repair.columns.reading import queries_of
from vitreg.repair.outliers import NothingToRepairError, Outliers, patch_norms
from vitreg.repair.subject import Subject


@dataclass(frozen=True)
class Sinks:
    """The sinks of a model: its outliers, or the patch that gets the most attention.

    Args:
        onset: the block after whose output they are changed.
        later: the blocks behind it, whose attention reads them.
        there: patches that no block drops; others are never sinks.
        outliers: None for a model that has none.
        queries: the tokens whose attention tells the most attended patch, by block; empty where outliers are known.
    """

    onset: int
    later: tuple[int, ...]
    there: Bool[Tensor, "P"]
    outliers: Outliers | None
    queries: Mapping[int, Sequence[int]]

    @property
    def noun(self) -> str:
        """What they are called in a sentence."""
        return "the most attended patch" if self.outliers is None else "the sinks"

    @property
    def capture(self) -> Capture:
        """What `of` reads."""
        return Capture(norms=[self.onset], rows=self.queries)

    def of(self, trace: Trace) -> Bool[Tensor, "B P"]:
        """Return the sinks of each image, on the CPU."""
        if self.outliers is not None:
            return self.outliers.beyond(patch_norms(trace, self.onset)).cpu() & self.there
        found = attended(trace, self.queries).masked_fill(~self.there, -1.0)
        return torch.zeros_like(found, dtype=torch.bool).scatter(1, found.argmax(1, keepdim=True), True)


@dataclass(frozen=True)
class Chosen:
    """The patches of a batch that are changed, on the grid.

    Args:
        sinks: of each image; none in an image that is left out.
        random: as many others, by lot.
        target: an other patch, by lot, which gets attention that is redirected.
        instead: as many others as the model has registers, by lot.
        numbers: of the images, which seed their draws.
    """

    sinks: Bool[Tensor, "B P"]
    random: Bool[Tensor, "B P"]
    target: Int64[Tensor, "B"]
    instead: Bool[Tensor, "B P"]
    numbers: Int64[Tensor, "B"]

    @property
    def acts(self) -> Bool[Tensor, "B"]:
        """Whether an image has sinks, and enough other patches beside them."""
        return self.sinks.any(1)

    def with_sinks(self, most: int) -> Chosen:
        """Return the first images that have sinks."""
        own = self.acts.nonzero()[:most, 0]
        return Chosen(self.sinks[own], self.random[own], self.target[own], self.instead[own], self.numbers[own])


def find_sinks(subject: Subject) -> Sinks:
    """Find the outliers of a model, or say which attention tells the most attended patch of one without.

    Raises:
        UserError: for outliers that nothing reads, or a model without outliers whose attention cannot be read.
    """
    backbone = subject.backbone
    layouts = backbone.layouts(subject.size)
    there = torch.stack([layout.present for layout in layouts]).all(0)
    try:
        outliers = subject.outliers
    except NothingToRepairError:
        outliers = None
    last = backbone.depth - 1
    onset = max(backbone.depth // 2 - 1, 0) if outliers is None else outliers.onset
    if onset == last:
        raise UserError(
            f"outliers of {backbone.spec} appear after its last block, which no attention reads, so they cause nothing."
            if outliers is not None
            else f"{backbone.spec} has one block only, so nothing reads what it makes of a patch."
        )
    later = tuple(range(onset + 1, backbone.depth))
    if outliers is not None:
        return Sinks(onset, later, there, outliers, {})
    status = backbone.attention_status()
    if status.source == "none":
        raise UserError(
            f"{backbone.spec} has no outliers on these images, and its attention cannot be read, so it shows no sinks."
        )
    return Sinks(onset, later, there, None, {block: queries_of(layouts[block]) for block in later})


def attended(trace: Trace, queries: Mapping[int, Sequence[int]]) -> Float[Tensor, "B P"]:
    """Return the attention that each patch gets, mean over heads, queries and blocks, on the CPU."""
    shares = [
        trace.layout_before(block).take(trace.attention(block, own), -1, fill=0.0).mean((1, 2))
        for block, own in queries.items()
    ]
    return torch.stack(shares).mean(0).cpu()


def choose(
    sinks: Bool[Tensor, "B P"], there: Bool[Tensor, "P"], registers: int, numbers: Int64[Tensor, "B"], seed: int
) -> Chosen:
    """Draw the random patches of each image. Draws depend on the seed and the image's number, not on the batch.

    An image whose sinks leave too few other patches is left out.
    """
    others = there & ~sinks
    enough = others.sum(1) > sinks.sum(1)
    sinks = sinks & enough[:, None]
    keys = [random_keys(numbers, sinks.shape[1], seed + shift) for shift in range(3)]
    random = pick_many(others, sinks.sum(1), keys[0])
    target = pick_one(others & ~random, keys[1]).clamp_min(0)
    instead = pick_many(others, torch.full((len(sinks),), registers), keys[2])
    return Chosen(sinks, random, target, instead, numbers)
