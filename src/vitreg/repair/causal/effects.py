"""Effects of an intervention on each image: how far the output moves, and what the model's classifier makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.analysis.intervals import paired_difference
from vitreg.analysis.paired import Sums, interval, paired_change
from vitreg.repair.columns.column import cosine_distance
from vitreg.repair.columns.data import NO_LABEL
from vitreg.tokens import Tokens

CHANGES = ("cls", "patches", "kl")
"""1 - cosine of the class token, mean 1 - cosine of the patches that are not changed, KL divergence in nats."""
RIGHT = "right"
Interval = tuple[float, float]


@dataclass(frozen=True)
class Output:
    """What a model returns for a batch; logits where it has a classifier."""

    tokens: Tokens
    logits: Float[Tensor, "B K"] | None


def divergence(before: Float[Tensor, "B K"], after: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
    """Return KL(before ‖ after) of the classifier's distributions, in nats, computed in float64 on the CPU.

    >>> sum(p * log(p / q) for p, q in zip(softmax(before), softmax(after)))
    """
    one, other = (each.double().cpu().log_softmax(1) for each in (before, after))
    return (one.exp() * (one - other)).sum(1).clamp_min(0.0)


def changes(before: Output, after: Output, untouched: Bool[Tensor, "B P"]) -> dict[str, Float[Tensor, "B"]]:
    """Return each effect on each image, on the CPU; of a model without a class token, "cls" is the mean untouched patch.

    Args:
        untouched: patches that no side changes. The effect on patches is NaN where there are none.
    """
    seen = [each.tokens.patches.float().cpu().nan_to_num(0.0) for each in (before, after)]
    count = untouched.sum(1)
    moved = (cosine_distance(*seen) * untouched).sum(1) / count
    if before.tokens.layout.cls:
        summaries = [each.tokens.cls.float().cpu() for each in (before, after)]
    else:
        summaries = [(each * untouched[..., None]).sum(1) / count[:, None] for each in seen]
    found = {"cls": cosine_distance(*summaries), "patches": moved}
    if before.logits is not None and after.logits is not None:
        found["kl"] = divergence(before.logits, after.logits)
    return found


def right(output: Output, labels: Int64[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Return whether the classifier is right about each image; NaN where the label is not known."""
    assert output.logits is not None
    found = (output.logits.argmax(1).cpu() == labels).double()
    return torch.where(labels == NO_LABEL, torch.nan, found)


@dataclass(frozen=True)
class Effect:
    """One effect of one intervention over images, on the sinks and on as many random patches.

    Attributes:
        sinks, random: means over images.
        ends: interval of `sinks`; None for too few images.
        more: by how much the effect on the sinks is larger. For "right": by how many percent of the images accuracy falls
            further.
        more_ends: its interval, both sides resampled with the same images.
    """

    sinks: float
    random: float
    ends: Interval | None
    more: float
    more_ends: Interval | None
    images: int

    @property
    def caused(self) -> bool | None:
        """Whether the interval of the difference lies above 0; None without an interval."""
        return None if self.more_ends is None else self.more_ends[0] > 0


def effect_of(sinks: Float[Tensor, "n"], random: Float[Tensor, "n"], weights: np.ndarray | None) -> Effect | None:
    """Compare both sides of a change; images with NaN say nothing. None if none says anything.

    Args:
        weights: resamples of the n images, None for too few.
    """
    one, other = _sums(sinks), _sums(random)
    images = int(one.denominators.sum())
    if not images:
        return None
    if weights is None:
        return Effect(one.value, other.value, None, one.value - other.value, None, images)
    more, ends = paired_change(other, one, weights)
    return Effect(one.value, other.value, interval(one.over(weights)), more, ends, images)


def accuracy_of(sinks: Float[Tensor, "n"], random: Float[Tensor, "n"], *, certain: bool) -> Effect | None:
    """Compare the accuracy in percent with the sinks changed with that of the random side.

    Args:
        certain: whether there are images enough for an interval (of the difference of paired shares).
    """
    one, other = _sums(sinks), _sums(random)
    images = int(one.denominators.sum())
    if not images:
        return None
    known = one.denominators > 0
    fall = (other.numerators - one.numerators)[known]
    ends = paired_difference(fall) if certain else None
    return Effect(
        100 * one.value, 100 * other.value, None, 100 * float(fall.mean()),
        None if ends is None else (100 * ends[0], 100 * ends[1]), images,
    )  # fmt: skip


def _sums(values: Float[Tensor, "n"]) -> Sums:
    known = ~values.isnan()
    return Sums(values.nan_to_num(0.0).double().numpy(), known.double().numpy())
