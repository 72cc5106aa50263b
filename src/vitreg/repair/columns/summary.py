"""How the vector that stands for an image moves: its cosine, and whether its neighbours stay."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitreg.analysis.intervals import wilson
from vitreg.analysis.paired import FEWEST, Sums, interval, resamples
from vitreg.repair.columns.column import Column, PerImage, cosine_distance, mean
from vitreg.repair.columns.reading import Gathered, Reading
from vitreg.results import RepairCell

NEIGHBOURS = 5


def cls_change(before: Reading, after: Reading) -> PerImage:
    """Return 1 - cosine of the class token (of the mean patch without one)."""
    return mean(cosine_distance(before.summary, after.summary))


def shared_neighbours(before: Float[Tensor, "n D"], after: Float[Tensor, "n D"], k: int) -> Float[Tensor, "n"]:
    """Return of each vector the share of its k nearest others, by cosine, that are the same before and after.

    >>> near = [sorted(others(i), key=lambda j: -cos(x[i], x[j]))[:k] for i in range(n)]
    """
    hits = []
    for vectors in (before, after):
        unit = F.normalize(vectors.double(), dim=-1)
        alike = unit @ unit.T
        alike.fill_diagonal_(-torch.inf)
        hits.append(torch.zeros_like(alike).scatter_(1, alike.topk(k, dim=1).indices, 1.0))
    return (hits[0] * hits[1]).sum(1) / k


def _knn(before: Gathered, after: Gathered) -> RepairCell | str:
    one, other = torch.cat(before.summaries), torch.cat(after.summaries)
    if len(one) <= 2 * NEIGHBOURS:
        return f"{len(one)} held-out images are too few; {NEIGHBOURS} neighbours need more than {2 * NEIGHBOURS}"
    shared = shared_neighbours(one, other, NEIGHBOURS).numpy()
    ends = None
    if len(shared) >= FEWEST:
        ends = interval(Sums(shared, shared * 0 + 1).over(resamples(len(shared))))
        if ends is not None and ends[0] == ends[1]:
            ends = wilson(float(shared.sum()), len(shared))
    return RepairCell(value=100 * float(shared.mean()), low=ends and 100 * ends[0], high=ends and 100 * ends[1])


COLUMNS = (
    Column(
        name="cls_change", title="change of CLS", side="damage", better="smaller",
        meaning="1 - cosine of the class token (of the mean patch in a model without one), with and without the repair.",
        compare=cls_change, least=0.001,
    ),
    Column(
        name="knn_agreement", title="kNN agreement", side="damage", better="larger", unit="%",
        meaning=f"Share of the {NEIGHBOURS} nearest held-out images, by the cosine of CLS, that stay the nearest.",
        whole=_knn, least=1.0,
    ),
)  # fmt: skip
