"""Tests for non-objects: features that are all alike, and parts no more connected than random patches.

LOST and TokenCut as published find something in any features. Both tests use the features of one image only.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

ALIKE = "all patches are alike"
NO_CUT = "the graph of patches has no cut"
STREWN = "the patches found are strewn over the image as by chance"
PLAIN = "the picture has one colour"
LEVEL = 0.01  # significance level: how often random patches may pass as a part
_DRAWS = 999  # so that the smallest p-value is a tenth of the level


def alike(features: Float[Tensor, "N D"], centre: Float[Tensor, "1 D"] | None = None) -> bool:
    """Whether patches differ only by the rounding of float32.

    True if the centred features have rank 0 by the tolerance of `numpy.linalg.matrix_rank`.

    >>> norm(features - features.mean(0)) <= max(N, D) * 2**-23 * norm(features)
    """
    centre = features.mean(-2, keepdim=True) if centre is None else centre
    rounding = max(features.shape) * torch.finfo(torch.float32).eps
    # Divide by the largest entry: squares of 1e-30 would vanish and those of 1e30 overflow.
    scale = features.abs().amax().clamp(min=torch.finfo(features.dtype).tiny)
    spread, length = ((features - centre) / scale).norm(), (features / scale).norm()
    return bool(spread <= rounding * length)


def strewn(part: Bool[np.ndarray, "rows cols"], among: Bool[np.ndarray, "rows cols"] | None = None) -> bool:
    """Whether a part is no more connected than the same number of patches in random places.

    For features without spatial structure every choice of patches is equally likely, whatever the method; the test is
    exact for those. It counts pairs of 4-neighbours across the part's border (join counts: Moran 1948). So few pairs
    must have a probability of at most LEVEL: by Cantelli's inequality with the exact mean and variance, or, if that is
    inconclusive, by 999 draws.

    A part of one patch has no neighbours in it and is always strewn.

    Args:
        among: the patches it was chosen from; all if None.
    """
    among = np.ones(part.shape, dtype=bool) if among is None else among
    pairs = _neighbours(among)
    sides = part[among]
    border = int((sides[pairs[:, 0]] != sides[pairs[:, 1]]).sum())
    mean, variance = border_by_chance(pairs, len(sides), int(sides.sum()))
    below = mean - border
    if below <= 0:
        return True
    if variance <= LEVEL * (variance + below**2):
        return False
    draw = np.random.default_rng(0)
    drawn = draw.permuted(np.broadcast_to(sides, (_DRAWS, len(sides))), axis=1)
    borders = (drawn[:, pairs[:, 0]] != drawn[:, pairs[:, 1]]).sum(1)
    return bool((borders <= border).sum() + 1 > LEVEL * (_DRAWS + 1))


def border_by_chance(pairs: np.ndarray, count: int, inside: int) -> tuple[float, float]:
    """Mean and variance of the number of pairs with one end among `inside` random ones of `count` patches.

    Two pairs share no patch, share one, or are the same; in each case the probability that both are divided follows
    from sampling without replacement (Cliff and Ord 1981, non-free sampling).

    Args:
        pairs: [J, 2], of neighbours.
    """
    outside, joins = count - inside, len(pairs)
    if joins == 0 or not 0 < inside < count:
        return 0.0, 0.0
    ends = np.bincount(pairs.ravel(), minlength=count)
    touching = int((ends * (ends - 1)).sum())  # ordered
    one = 2 * inside * outside / (count * (count - 1))
    both = 0.0
    if count > 3:
        both = 4 * inside * (inside - 1) * outside * (outside - 1)
        both /= count * (count - 1) * (count - 2) * (count - 3)
    mean = joins * one
    square = joins * one + touching * one / 2 + (joins**2 - joins - touching) * both
    return mean, max(square - mean**2, 0.0)


def _neighbours(among: Bool[np.ndarray, "rows cols"]) -> np.ndarray:
    """Return all pairs of 4-neighbours [J, 2], as places among the patches that count."""
    place = np.cumsum(among).reshape(among.shape) - 1
    across, down = among[:, 1:] & among[:, :-1], among[1:] & among[:-1]
    return np.concatenate(
        [
            np.stack([place[:, :-1][across], place[:, 1:][across]], axis=1),
            np.stack([place[:-1][down], place[1:][down]], axis=1),
        ]
    )
