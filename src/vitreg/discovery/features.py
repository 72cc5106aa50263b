"""What is done to patch features before objects are sought in them: centring, unit length, and a bias without labels.

Keys and values of DINOv2 and CLIP share a large common part, so that nearly all their products are positive and LOST's
degrees say nothing; the paper therefore adds a bias by hand (Sec. 3.3). Both remedies here look at one image only.
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

    Centring subtracts the mean patch feature of each image. A feature of zero stays zero, and features that are all alike
    become zero: what is left of them is rounding, which unit length would make as long as any feature.

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
    """Bias of the Gram matrix with which the median patch is linked to half of the others, for each image by itself.

    LOST ranks patches by degree, the number of others with a positive entry, and a ranking says most where degrees
    neither all reach N - 1 nor all fall to 0. A patch is linked to more than half of the others where the median of its
    row exceeds -b; so b is minus the median of these medians. No label is looked at and nothing is searched, and the
    few high-norm tokens have no say. Features c times as large get a bias c² times as large, which is why each image
    has its own; the mean over images makes one for a set whose features have unit length.

    One number cannot do what centring does. Where features share a large common part, as plain keys do, the bias is
    so low that the patches least along it, or shortest, lose every link: one of them becomes the seed, of degree 0, and
    the box is that patch. Centre such features; the bias is then small.

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
