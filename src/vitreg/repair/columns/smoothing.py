"""How alike the patches of an image are: their mean cosine (over-smoothing), and how many directions they fill."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitreg.repair.columns.column import Column, PerImage, mean
from vitreg.repair.columns.reading import Reading


def mean_cosine(patches: Float[Tensor, "B P D"]) -> Float[Tensor, "B"]:
    """Return the mean cosine of all pairs of different patches of each image, by the closed form.

    >>> (norm(sum(x / norm(x) for x in patches)) ** 2 - P) / (P * (P - 1))
    """
    total = F.normalize(patches.double(), dim=-1).sum(1)
    count = patches.shape[1]
    return (total.pow(2).sum(-1) - count) / (count * (count - 1))


def effective_rank(patches: Float[Tensor, "B P D"]) -> Float[Tensor, "B"]:
    """Return exp of the entropy of the singular values, over their sum, of each image's centred patches."""
    centred = (patches - patches.mean(1, keepdim=True)).double()
    sigma = torch.linalg.svdvals(centred.cpu())
    share = sigma / sigma.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.special.entr(share).sum(1).exp()


def _there(reading: Reading) -> Tensor:
    return reading.patches[:, reading.final.layout.present]


def _alike(reading: Reading) -> PerImage:
    return mean(mean_cosine(_there(reading)))


def _rank(reading: Reading) -> PerImage:
    return mean(effective_rank(_there(reading)))


COLUMNS = (
    Column(
        name="mean_cosine", title="mean cosine of patches", side="damage", better="smaller",
        meaning="Mean cosine of all pairs of final patches of an image (over-smoothing), mean over images.",
        measure=_alike, least=0.01,
    ),
    Column(
        name="effective_rank", title="effective rank", side="damage", better="larger",
        meaning="Exp of the entropy of the singular values, as shares of their sum, of an image's centred final patches, "
        "mean over images.",
        measure=_rank, least=1.0,
    ),
)  # fmt: skip
