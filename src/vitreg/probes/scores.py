"""Classification metrics: top-1, top-5, mean over classes, and mean average precision. All in percent."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.data.sets.sides import Metric


def score(
    found: Float[Tensor, "n C"] | Int64[Tensor, " n"],
    truth: Int64[Tensor, " n"] | Int64[Tensor, "n C"],
    metric: Metric,
    ignored: Bool[Tensor, "n C"] | None = None,
) -> float:
    """Return the metric that is customary on a set.

    Args:
        found: logits or votes; predicted classes if the metric needs no more.
        truth: class numbers; for "map" 0 and 1 for every label.
        ignored: for "map", labels that are not scored (VOC: difficult objects).
    Raises:
        ValueError: for predictions of another form than the metric needs.
    """
    if metric == "map":
        if found.ndim != 2 or truth.shape != found.shape:
            raise ValueError(f"mean average precision of scores {list(found.shape)} for labels {list(truth.shape)}")
        return mean_average_precision(found, truth.bool(), ignored)
    answers = found.argmax(-1) if found.ndim == 2 else found
    return top1(answers, truth) if metric == "top1" else mean_per_class(answers, truth)


def top1(answers: Int64[Tensor, " n"], truth: Int64[Tensor, " n"]) -> float:
    """Return the share of right answers."""
    return 100 * (answers == truth).double().mean().item()


def top_k(ranked: Int64[Tensor, "n k"], truth: Int64[Tensor, " n"]) -> float:
    """Return the share of images whose class is among the k answers."""
    return 100 * (ranked == truth[:, None]).any(-1).double().mean().item()


def mean_per_class(answers: Int64[Tensor, " n"], truth: Int64[Tensor, " n"]) -> float:
    """Return the mean over classes of the share of right answers; classes without an image do not count."""
    counts = truth.bincount()
    right = truth[answers == truth].bincount(minlength=len(counts))
    present = counts > 0
    return 100 * (right[present].double() / counts[present]).mean().item()


def mean_average_precision(
    scores: Float[Tensor, "n C"], truth: Bool[Tensor, "n C"], ignored: Bool[Tensor, "n C"] | None = None
) -> float:
    """Return the mean over labels of `average_precision`; labels that hold for no image do not count."""
    judged = torch.ones_like(truth) if ignored is None else ~ignored
    columns = zip(scores.T, truth.T, judged.T, strict=True)
    values = [average_precision(s[own], t[own]) for s, t, own in columns if bool(t[own].any())]
    return 100 * sum(values) / len(values) if values else float("nan")


def average_precision(scores: Float[Tensor, " n"], truth: Bool[Tensor, " n"]) -> float:
    """Return the sum of precision times gain in recall over all thresholds, not interpolated, as scikit-learn's.

    VOC 2007's own tool interpolates at 11 recalls, which gives slightly other numbers.
    """
    order = scores.argsort(descending=True)
    ranked = truth[order].double()
    hits = ranked.cumsum(0)
    last = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    last[:-1] = scores[order][1:] != scores[order][:-1]  # equal scores are one threshold
    hits, count = hits[last], torch.arange(1, len(scores) + 1, device=scores.device)[last]
    gained = torch.diff(hits, prepend=hits.new_zeros(1))
    return float((hits / count * gained).sum() / ranked.sum())
