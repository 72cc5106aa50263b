"""Outlier masks of patch tokens, one random token of a class per image, and means by class.

The scan's detector sets the threshold from all norms of one block (Sec. 2.1); a probe then compares normal and outlier
tokens. Draws depend only on the seed and the image's number, not on the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.analysis.norms import NormHistogram
from vitreg.analysis.outliers import Detection, Detector, Side
from vitreg.analysis.verdict.decide import choose, inherited, position_locked

GROUPS = 64  # images are resampled in at most this many groups, so the bootstrap needs no memory per image


@dataclass(frozen=True, slots=True)
class OutlierRule:
    """A threshold on the norms of one block; without one no token is an outlier."""

    side: Side = "high"
    threshold: float | None = None
    detection: Detection | None = None

    @property
    def found(self) -> bool:
        """Whether there are outliers at all."""
        return self.threshold is not None

    def __call__(self, norms: Float[Tensor, "B P"]) -> Bool[Tensor, "B P"]:
        """Return which tokens are outliers."""
        if self.threshold is None:
            return torch.zeros(norms.shape, dtype=torch.bool, device=norms.device)
        return norms >= self.threshold if self.side == "high" else norms < self.threshold


def came_in(rule: OutlierRule, norms: Float[Tensor, "n P"], entering: Float[Tensor, "n P"] | None) -> bool:
    """Whether the outliers had most of their norm at the input of block 0, as white patches do.

    The same question as the scan asks before its verdict: see `vitreg.analysis.verdict.decide.inherited`.

    Args:
        norms: of the patch tokens of some images in the block that the rule is for.
        entering: norms of the same tokens before block 0; None if the library hides them.
    """
    outliers = rule(norms)
    if rule.detection is None or entering is None or not outliers.any() or outliers.all():
        return False
    unusual, usual = float(entering[outliers].median()), float(entering[~outliers].median())
    above, below = (unusual, usual) if rule.side == "high" else (usual, unusual)
    shares = outliers.float().mean(0).numpy()
    return below > 0 and inherited(rule.detection, above / below) and not position_locked(shares, len(norms))


def rule_at_peak(
    norms: Sequence[Float[Tensor, "n K"]], entering: Sequence[Float[Tensor, "n K"]] | None, detector: Detector
) -> tuple[OutlierRule, int | None, bool]:
    """Return the rule of the layer where outliers stand out most, as the scan finds it. Uses no labels.

    Args:
        norms: of the patch tokens of some images after several blocks; a block may have fewer than another.
        entering: of the same tokens before block 0, for each block; None where the library hides them.
    Returns:
        The rule, the index of its layer (None without outliers), and whether all outliers found had their norm at the
        input.
    Raises:
        FloatingPointError: for norms that are not finite.
    """
    detections: list[dict[str, Detection]] = []
    withdrawn = False
    for number, values in enumerate(norms):
        before = None if entering is None else entering[number]
        histogram, both = NormHistogram.of(values.numpy()), {}
        for side in ("high", "low"):
            found = detector(histogram, side)
            if found.found and came_in(OutlierRule(found.side, found.threshold, found), values, before):
                found, withdrawn = replace(found, found=False), True
            both[side] = found
        detections.append(both)
    side, _, peak = choose(detections)
    if side is None or peak is None:
        return OutlierRule(), None, withdrawn
    best = detections[peak][side]
    return OutlierRule(best.side, best.threshold, best), peak, False


def random_keys(indices: Int64[Tensor, "B"], count: int, seed: int) -> Float[Tensor, "B count"]:
    """Uniform numbers for each image; they depend only on the seed and the image's number."""
    rows = [np.random.default_rng([seed, int(index)]).random(count, dtype=np.float32) for index in indices]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, count)


def pick_one(members: Bool[Tensor, "B P"], keys: Float[Tensor, "B P"]) -> Int64[Tensor, "B"]:
    """One member of each row, uniformly by random keys; -1 where a row has none."""
    best = keys.to(members.device).masked_fill(~members, -1.0).argmax(1)
    return torch.where(members.any(1), best, -1)


def pick_many(
    members: Bool[Tensor, "B P"], counts: Int64[Tensor, "B"], keys: Float[Tensor, "B P"]
) -> Bool[Tensor, "B P"]:
    """Some members of each row, uniformly by random keys: `counts` of them, or all where there are fewer."""
    order = keys.to(members.device).masked_fill(~members, -1.0).argsort(1, descending=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return members & (rank < counts.to(members.device)[:, None])


class ByClass:
    """Means of some measures over normal tokens and over outliers, with an interval of their difference.

    Args:
        measures: their names.
    """

    def __init__(self, measures: Sequence[str]) -> None:
        self.measures = tuple(measures)
        self.counts = np.zeros((GROUPS, 2))  # tokens, by group of images and class: normal, outlier
        self.sums = np.zeros((GROUPS, 2, len(self.measures)))
        self._images = np.zeros(1)

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self._images[0])

    @property
    def with_outliers(self) -> int:
        """Number of images with outliers; of more than `GROUPS` images a lower bound, that of their groups."""
        return int((self.counts[:, 1] > 0).sum())

    def add(
        self, indices: Int64[Tensor, "B"], outliers: Bool[Tensor, "B P"], values: Sequence[Float[Tensor, "B P"]]
    ) -> None:
        """Count some images; `values` are in the order of the measures."""
        if len(values) != len(self.measures):
            raise ValueError(f"{len(values)} values for the measures {', '.join(self.measures)}")
        self._images += len(indices)
        groups = indices.numpy() % GROUPS
        for column, members in enumerate((~outliers, outliers)):
            np.add.at(self.counts[:, column], groups, members.sum(1).cpu().numpy())
            for row, value in enumerate(values):
                total = value.double().masked_fill(~members.to(value.device), 0.0).sum(1)
                np.add.at(self.sums[:, column, row], groups, total.cpu().numpy())

    def merge(self, over: Callable[[np.ndarray], np.ndarray]) -> None:
        """Sum over processes."""
        self.counts, self.sums, self._images = over(self.counts), over(self.sums), over(self._images)

    def tokens(self, *, outliers: bool) -> int:
        """Number of tokens of a class."""
        return int(self.counts[:, int(outliers)].sum())

    def mean(self, measure: str, *, outliers: bool) -> float | None:
        """Mean of a measure over the tokens of a class; None where there are none."""
        column = int(outliers)
        count = self.counts[:, column].sum()
        return float(self.sums[:, column, self.measures.index(measure)].sum() / count) if count else None

    def overall(self, measure: str) -> float | None:
        """Mean of a measure over all tokens; None where there are none."""
        total = self.counts.sum()
        return float(self.sums[:, :, self.measures.index(measure)].sum() / total) if total else None

    def interval(self, measure: str, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float] | None:
        """95 % bootstrap interval, over groups of images, of the mean over all tokens; None for fewer than 4 groups."""
        used = self.counts.sum(1) > 0
        counts, sums = self.counts[used].sum(1), self.sums[used, :, self.measures.index(measure)].sum(1)
        if len(counts) < 4:
            return None
        draws = np.random.default_rng(seed).integers(0, len(counts), (resamples, len(counts)))
        low, high = np.quantile(sums[draws].sum(1) / counts[draws].sum(1), (0.025, 0.975))
        return float(low), float(high)

    def difference(self, measure: str, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float] | None:
        """95 % bootstrap interval, over groups of images, of the mean over outliers minus the mean over normal tokens.

        Returns:
            (low, high); None if fewer than 4 groups of images have outliers, or if all resamples agree and so tell
            nothing about other images.
        """
        row = self.measures.index(measure)
        used = self.counts.sum(1) > 0
        counts, sums = self.counts[used], self.sums[used, :, row]
        if (counts[:, 1] > 0).sum() < 4:
            return None
        draws = np.random.default_rng(seed).integers(0, len(counts), (resamples, len(counts)))
        totals = counts[draws].sum(1)  # [resamples, 2]
        totals = np.where(totals > 0, totals, np.nan)
        means = sums[draws].sum(1) / totals
        low, high = np.nanquantile(means[:, 1] - means[:, 0], (0.025, 0.975))
        return (float(low), float(high)) if low < high else None
