"""TokenCut: the two halves of an image's patches that are least alike, by a normalised cut (Wang et al. 2022).

MaskCut (CutLER, Wang et al. 2023) repeats it on what is left. Unlike LOST, neither depends on the single patch with the
fewest links. Both always find some eigenvector; here it is tested for being a cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from vitreg.discovery.boxes import Box, component, enclosing
from vitreg.discovery.chance import ALIKE, NO_CUT, STREWN, alike, strewn
from vitreg.discovery.features import exact
from vitreg.discovery.spectrum import Spectrum, second_eigenvector

_TIE = 1e-8  # of the largest entry of an eigenvector: two entries no further apart are the same
_SAME = 1e-9  # between eigenvalues: no closer pair is told apart


@dataclass(frozen=True, slots=True, eq=False)
class TokenCut:
    """What a normalised cut finds in an image."""

    box: Box | None
    """(row0, col0, row1, col1) in patches around `mask`, the end left out; None where `nothing` says why."""
    seed: int | None
    """Patch where the eigenvector is largest in magnitude, row-major; of several, the first. None without an eigenvector."""
    eigenvector: Float64[Tensor, "rows cols"]
    """Second smallest of the graph's, positive at the seed; 0 at patches that were not in the graph, and where it has none."""
    mask: Bool[Tensor, "rows cols"]
    """The object: of the patches above the eigenvector's mean, the connected component that holds the seed."""
    gap: float
    """Between the second and the third smallest eigenvalue, how clearly this cut is the best; 0 without a box."""
    nothing: str = ""
    """Why there is no cut: all patches are alike, their graph has none, or its two sides are strewn over the image."""


def tokencut(features: Float[Tensor, "N D"], grid: tuple[int, int], *, tau: float = 0.2, eps: float = 1e-5) -> TokenCut:
    """Find one object in an image, or that its graph has no cut.

    Patches with the same links have the same entry, so ties are common. Entries within 1e-8 of the largest one count as
    tied, so that rounding does not choose.

    If all patches are linked, or none, every vector is an eigenvector, and the solver's choice is rounding. In general
    there is no cut if the second eigenvalue is multiple, or no further from 1 than that of a graph with the same number
    of random links (the edge of Wigner's semicircle; a random half of a complete graph also has a normalised cut of 1).

    >>> W = np.where(cosine(features, features) > tau, 1, eps)
    >>> D = np.diag(W.sum(1))
    >>> values, vectors = scipy.linalg.eigh(D - W, D)
    >>> p = W.mean()                                                                                      # links
    >>> if values[2] - values[1] < 1e-9 or 1 - values[1] <= 2 * sqrt((1 - p) / (p * N)) + 1 / N:
    ...     return None
    >>> v = vectors[:, 1]
    >>> seed = abs(v).argmax()                                                             # the first of those tied
    >>> mask = component(v > v.mean() if v[seed] > v.mean() else v < v.mean(), seed)                 # 4-connected

    Args:
        features: of the patches, row-major; they are brought to unit length here.
        grid: (rows, cols) with rows * cols == N.
        tau: cosine above which two patches are linked.
        eps: weight between patches that are not linked; above 0, so that the graph is connected.
    Raises:
        ValueError: if the grid does not hold N patches, eps is not above 0 (and at most 1), or a feature is not finite.
    """
    near = _linked(features, grid, tau, eps)
    if alike(exact(features.detach())):
        return _none(grid, ALIKE)
    return _cut(near, np.ones(len(near), dtype=bool), grid, eps)


def maskcut(
    features: Float[Tensor, "N D"], grid: tuple[int, int], *, masks: int = 3, tau: float = 0.15, eps: float = 1e-5
) -> list[TokenCut]:
    """Find up to `masks` objects that do not overlap, each by `tokencut` of the patches that no earlier one took.

    Patches already taken leave the graph. In CutLER's code their features are set to zero and they stay, with weight eps
    to all: they then count in the mean that divides the halves, and where the cut is poor (an eigenvalue near 1) the
    eigenvector is largest on them. Its priors on corners of the image, its filter of repeated masks and its conditional
    random field are not part of this either.

    Returns:
        the objects in the order they were found; fewer than `masks` where what was left has no cut. Where all patches
        together have none, that is the only entry, without a box.
    Raises:
        ValueError: as `tokencut`.
    """
    near = _linked(features, grid, tau, eps)
    if alike(exact(features.detach())):
        return [_none(grid, ALIKE)]
    free = np.ones(len(near), dtype=bool)
    found: list[TokenCut] = []
    while len(found) < masks:
        cut = _cut(near, free, grid, eps)
        if not found or cut.box is not None:
            found.append(cut)
        if cut.box is None:
            break
        free = free & ~cut.mask.flatten().numpy()
    return found


def _linked(features: Tensor, grid: tuple[int, int], tau: float, eps: float) -> np.ndarray:
    """Return which pairs of patches [N, N] have a cosine above tau."""
    rows, cols = grid
    if rows * cols != len(features):
        raise ValueError(f"a {rows}x{cols} grid holds {rows * cols} patches, not {len(features)}")
    if not 0 < eps <= 1:
        raise ValueError(f"eps is the weight of a missing link, above 0 and at most 1, not {eps}")
    unit = F.normalize(exact(features.detach()), dim=-1)
    if not unit.isfinite().all():
        raise ValueError("the features of some patches are not finite")
    near = unit @ unit.T > tau
    return (near | near.T).cpu().numpy()  # rounding may differ between the two sides of the diagonal


def _cut(near: np.ndarray, free: np.ndarray, grid: tuple[int, int], eps: float) -> TokenCut:
    links = near if free.all() else near[np.ix_(free, free)]
    found = _spectrum(links, eps)
    if found is None:
        return _none(grid, NO_CUT)
    values, above = np.zeros(len(free)), np.zeros(len(free), dtype=bool)
    v = found.vector
    largest = np.abs(v).max()
    first = int((np.abs(v) >= (1 - _TIE) * largest).argmax())
    if v[first] < 0:  # an eigenvector's sign says nothing
        v = -v
    seed = int(np.flatnonzero(free)[first])
    values[free], above[free] = v, v > v.mean() + _TIE * largest
    mask, vector = component(torch.from_numpy(above.reshape(grid)), seed), torch.from_numpy(values.reshape(grid))
    if strewn(above.reshape(grid), free.reshape(grid)):
        return TokenCut(None, seed, vector, mask, 0.0, STREWN)
    return TokenCut(enclosing(mask), seed, vector, mask, found.gap)


def _none(grid: tuple[int, int], why: str) -> TokenCut:
    zeros = torch.zeros(grid, dtype=torch.float64)
    return TokenCut(None, None, zeros, zeros > 0, 0.0, why)


def _spectrum(links: Bool[np.ndarray, "N N"], eps: float) -> Spectrum | None:
    """Solve for the cut of a graph; None if it has none."""
    count = len(links)
    linked = int(links.sum())
    if count < 3 or linked == count**2 or linked <= links.trace():
        return None
    share = (linked + eps * (count**2 - linked)) / count**2
    found = second_eigenvector(links, eps)
    by_chance = 2 * np.sqrt((1 - share) / (share * count)) + 1 / count
    return None if found.gap < _SAME or 1 - found.value <= by_chance else found
