"""TokenCut: the two halves of an image's patches that are least alike, by a normalised cut (Wang et al. 2022).

MaskCut (CutLER, Wang et al. 2023) repeats it on what is left. Unlike LOST, neither depends on which single
patch has the fewest links.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from vitreg.discovery.boxes import Box, component, enclosing
from vitreg.discovery.features import exact

_SMALL = 128  # patches; below, the dense solver is as fast as the iterative one
_SLACK = 1e-9  # by how much an eigenvalue may exceed the one found and still be taken for it
_TIE = 1e-8  # of the largest entry of an eigenvector: two entries no further apart are the same
_STEPS = 120  # of the iteration: photographs need some thirty, and the dense solver takes over from here
_RESIDUAL = 1e-13  # of an eigenvector of a matrix of norm 1


@dataclass(frozen=True, slots=True, eq=False)
class TokenCut:
    """What a normalised cut finds in an image."""

    box: Box
    """(row0, col0, row1, col1) in patches around `mask`, the end left out."""
    seed: int
    """Patch where the eigenvector is largest in magnitude, row-major; of several, the first."""
    eigenvector: Float64[Tensor, "rows cols"]
    """Second smallest of the graph's, positive at the seed; 0 at patches that were not in the graph."""
    mask: Bool[Tensor, "rows cols"]
    """The object: of the patches above the eigenvector's mean, the connected component that holds the seed."""


def tokencut(features: Float[Tensor, "N D"], grid: tuple[int, int], *, tau: float = 0.2, eps: float = 1e-5) -> TokenCut:
    """Find one object in an image.

    Patches with the same links have the same entry, so ties are common; entries as close as 1e-8 of the largest one count
    as tied, lest rounding choose. Where the second eigenvalue is a multiple one, as without any structure, there are
    many best cuts, and this is one.

    >>> W = np.where(cosine(features, features) > tau, 1, eps)
    >>> D = np.diag(W.sum(1))
    >>> v = scipy.linalg.eigh(D - W, D)[1][:, 1]
    >>> seed = abs(v).argmax()                                                             # the first of those tied
    >>> mask = component(v > v.mean() if v[seed] > v.mean() else v < v.mean(), seed)                 # 4-connected

    Args:
        features: of the patches, row-major; they are brought to unit length here.
        grid: (rows, cols) with rows * cols == N.
        tau: cosine above which two patches are linked.
        eps: weight between patches that are not; above 0, so that the graph hangs together.
    Raises:
        ValueError: if the grid does not hold N patches, eps is not above 0 (and at most 1), or a feature is not finite.
    """
    near = _linked(features, grid, tau, eps)
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
        the objects in the order they were found; fewer than `masks` where fewer than two patches were left.
    Raises:
        ValueError: as `tokencut`.
    """
    near = _linked(features, grid, tau, eps)
    free = np.ones(len(near), dtype=bool)
    found: list[TokenCut] = []
    while len(found) < masks and (free.sum() > 1 or not found):
        found.append(_cut(near, free, grid, eps))
        free = free & ~found[-1].mask.flatten().numpy()
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
    v = second_eigenvector(np.where(near if free.all() else near[np.ix_(free, free)], 1.0, eps))
    largest = np.abs(v).max()
    first = int((np.abs(v) >= (1 - _TIE) * largest).argmax())
    if v[first] < 0:  # an eigenvector's sign says nothing
        v = -v
    values, above, seed = np.zeros(len(free)), np.zeros(len(free), dtype=bool), int(np.flatnonzero(free)[first])
    values[free], above[free] = v, v > v.mean() + _TIE * largest
    mask = component(torch.from_numpy(above.reshape(grid)), seed)
    return TokenCut(enclosing(mask), seed, torch.from_numpy(values.reshape(grid)), mask)


def second_eigenvector(weights: Float64[np.ndarray, "N N"]) -> Float64[np.ndarray, " N"]:
    """Solve (D - W) v = λ D v for the second smallest λ, where D is the diagonal of W's row sums.

    It is D^-1/2 times the first eigenvector of D^-1/2 W D^-1/2 once the trivial one, the square root of D, is moved to
    the other end of the spectrum. Lanczos iteration finds it in some thirty products with a vector; a Cholesky
    factorisation then proves that no eigenvalue is larger. Where either fails, the dense solver decides.

    Args:
        weights: symmetric, none below 0, every row with a positive sum.
    Returns:
        v with vᵀDv = 1 and of arbitrary sign; zero for a graph of one node, which has no second eigenvector.
    """
    count = len(weights)
    if count == 1:
        return np.zeros(1)
    root = np.sqrt(weights.sum(1))
    trivial = root / np.linalg.norm(root)
    matrix = weights / root / root[:, None]
    matrix -= 2 * np.outer(trivial, trivial)
    found = _lanczos(matrix) if count >= _SMALL else None
    if found is not None and _bounds(found[0] + _SLACK, matrix):
        return found[1] / root
    last = [count - 1, count - 1]
    return scipy.linalg.eigh(matrix, subset_by_index=last, check_finite=False)[1][:, 0] / root


def _lanczos(matrix: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Largest eigenvalue that shows from a fixed start, and its vector; None if it takes too long.

    scipy's eigsh draws vectors of its own, from no fixed seed, where a graph has few distinct eigenvalues.
    """
    basis = np.zeros((min(_STEPS, len(matrix)), len(matrix)))
    diagonal, beside = np.zeros(len(basis)), np.zeros(len(basis))
    vector = np.random.default_rng(0).standard_normal(len(matrix))
    vector /= np.linalg.norm(vector)
    for step in range(len(basis)):
        basis[step] = vector
        vector = matrix @ vector
        diagonal[step] = basis[step] @ vector
        for _ in range(2):  # once leaves rounding errors that grow
            vector -= (basis[: step + 1] @ vector) @ basis[: step + 1]
        beside[step] = np.linalg.norm(vector)
        if step % 4 == 3 or beside[step] < _RESIDUAL:
            values, weights = scipy.linalg.eigh_tridiagonal(
                diagonal[: step + 1], beside[:step], select="i", select_range=(step, step)
            )
            if beside[step] * abs(weights[-1, 0]) < _RESIDUAL:
                return float(values[0]), weights[:, 0] @ basis[: step + 1]
        vector /= beside[step]
    return None


def _bounds(bound: float, matrix: np.ndarray) -> bool:
    """Whether all eigenvalues of a symmetric matrix lie below a bound."""
    below = -matrix
    np.fill_diagonal(below, below.diagonal() + bound)
    try:
        scipy.linalg.cholesky(below.T, overwrite_a=True, check_finite=False)  # .T, as LAPACK wants it: not copied
    except np.linalg.LinAlgError:
        return False
    return True
