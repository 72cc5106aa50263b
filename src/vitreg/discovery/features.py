"""Preparation of patch features for object discovery: centring, unit length, and a bias chosen without labels.

Keys and values of DINOv2 and CLIP share a large common part, so nearly all their products are positive and LOST's
degrees are uninformative; the paper therefore adds a manual bias (Sec. 3.3). Both remedies here use one image only.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitreg.discovery.chance import alike

Normalize = Literal["none", "l2", "center", "center+l2"]
NORMALIZE: tuple[Normalize, ...] = get_args(Normalize)


def prepare(x: Float[Tensor, "*B N D"], normalize: Normalize) -> Float[Tensor, "*B N D"]:
    """Return patch features in float32 (float64 stays), as they are, centred, of unit length, or both in this order.

    Centring subtracts the mean patch feature of each image. Zero features stay zero, and features that are all alike
    become zero: scaling to unit length would only amplify their rounding errors.

    Raises:
        ValueError: for another word.
    """
    if normalize not in NORMALIZE:
        raise ValueError(f"no way to normalise features is called '{normalize}'; there are {', '.join(NORMALIZE)}")
    x = exact(x)
    if normalize.startswith("center"):
        x = _centred(x)
    return F.normalize(x, dim=-1) if normalize.endswith("l2") else x


def _centred(x: Float[Tensor, "*B N D"]) -> Float[Tensor, "*B N D"]:
    if x.ndim > 2:
        return torch.stack([_centred(own) for own in x]) if len(x) else x
    centre = x.mean(-2, keepdim=True)
    return torch.zeros_like(x) if alike(x, centre) else x - centre


def automatic_bias(features: Float[Tensor, "*B N D"]) -> Float[Tensor, "*B"]:
    """Bias of the Gram matrix that links the median patch to half of the others, per image.

    LOST ranks patches by degree, the number of others with a positive entry. The ranking is most informative if degrees
    lie well between 0 and N - 1. A patch is linked to more than half of the others if the median of its row exceeds -b;
    so b is minus the median of these medians. This needs no labels and no search, and a few high-norm tokens do not
    change it. Features c times as large get a bias c² times as large, so each image has its own; for features of unit
    length the mean over images serves a whole set.

    A bias cannot replace centring. If features share a large common part, as plain keys do, the bias is so low that the
    shortest patches, or those least along the common part, lose every link: one of them becomes the seed, of degree 0,
    and the box is that patch. Centre such features; the bias is then small.

    >>> medians = [sorted(f[p] @ f[q] for q in range(N) if q != p)[(N - 2) // 2] for p in range(N)]
    >>> bias = -sorted(medians)[(N - 1) // 2]                   # the lower of two middle ones; 0 for a single patch

    Args:
        features: as `prepare` returns them.
    """
    if features.ndim > 2:  # one Gram matrix in memory at a time
        return torch.stack([automatic_bias(own) for own in features])
    features = exact(features.detach())
    count = len(features)
    if count == 1:
        return features.new_zeros(())
    gram = (features @ features.T).cpu().numpy()
    np.fill_diagonal(gram, np.inf)  # last in its row, so it moves no rank of the others
    gram.partition(count // 2 - 1, axis=1)  # several times as fast as torch.kthvalue
    return -torch.from_numpy(gram[:, count // 2 - 1]).median()


def exact(x: Tensor) -> Tensor:
    """Return features in float32, or in float64 where they are."""
    return x if x.dtype == torch.float64 else x.float()
