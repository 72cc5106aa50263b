"""The second eigenvector of a graph with two weights, and how far its eigenvalue is from the third.

A weight is 1 or eps, so that W = eps + (1 - eps) B with B of zeros and ones, and W itself is never built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float64

_SMALL = 128  # nodes; below, the dense solver is as fast as the iterative one
_STEPS = (
    60  # of the iteration, two vectors each: photographs need some twenty, and the dense solver takes over from here
)
_CHECKED_EVERY = 4
_RESIDUAL, _RESIDUAL_OF_NEXT = 1e-13, 1e-7  # of eigenvectors of a matrix of norm 1; the next one's value alone matters
_CLOSE = 1e-3  # eigenvalues whose order is proved, and not only seen
_NOTHING = 1e-10  # norm left of a unit vector that lies in the known subspace
_SLACK = 1e-9  # tolerance by which another eigenvalue may exceed the one found


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """A solution of (D - W) v = λ D v, where D is the diagonal of W's row sums.

    Args:
        value: second smallest λ, the bound of the normalised cut: 0 for two parts without links between them.
        gap: from there to the third.
        vector: of the second, with vᵀDv = 1 and of arbitrary sign.
    """

    value: float
    gap: float
    vector: Float64[np.ndarray, " N"]


def second_eigenvector(links: Bool[np.ndarray, "N N"], eps: float) -> Spectrum:
    """Solve for the second smallest λ, and the third.

    v is D^-1/2 times the first eigenvector of D^-1/2 W D^-1/2 once the trivial one, the square root of D, is moved to
    the other end of the spectrum. Lanczos iteration on two vectors at once finds both eigenvalues, even where they are
    one; where they are close, a Cholesky factorisation proves that none is larger. Where either fails, the dense solver
    decides.

    Args:
        links: symmetric, at least 3 nodes.
        eps: weight of a missing link, above 0.
    """
    binary = links.astype(np.float64)
    root = np.sqrt(eps * len(links) + (1 - eps) * binary.sum(1))
    trivial = root / np.linalg.norm(root)

    def product(x: Float64[np.ndarray, "2 N"]) -> Float64[np.ndarray, "2 N"]:
        scaled = x / root
        linked = np.stack(
            [binary @ row for row in scaled]
        )  # row by row: a product of two rows is slower than two of one
        affine = (1 - eps) * linked + eps * scaled.sum(1, keepdims=True)
        return affine / root - 2 * (x @ trivial)[:, None] * trivial

    found = _lanczos(product, len(links)) if len(links) >= _SMALL else None
    if found is None or found[0][1] - found[0][0] < _CLOSE:
        matrix = (eps + (1 - eps) * binary) / root / root[:, None] - 2 * np.outer(trivial, trivial)
        if found is None or not _bounds(found[0][1] + _SLACK, matrix):
            last = [len(matrix) - 2, len(matrix) - 1]
            values, vectors = scipy.linalg.eigh(matrix, subset_by_index=last, check_finite=False)
            found = values, vectors[:, 1]
    (third, second), vector = found
    return Spectrum(1 - float(second), float(second - third), vector / root)


def _lanczos(
    product: Callable[[Float64[np.ndarray, "2 N"]], Float64[np.ndarray, "2 N"]], count: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Two largest eigenvalues, ascending, and the vector of the larger; None if it takes too long.

    With one start vector a multiple eigenvalue is found once; with two, twice. scipy's eigsh uses one, and draws
    further vectors without a fixed seed if a graph has few distinct eigenvalues.
    """
    draw = np.random.default_rng(0)
    basis, images = np.zeros((2 * _STEPS, count)), np.zeros((2 * _STEPS, count))
    block = draw.standard_normal((2, count))
    for step in range(min(_STEPS, count // 2)):
        stop = 2 * step + 2
        basis[stop - 2 : stop] = _orthonormal(block, basis[: stop - 2], draw)
        images[stop - 2 : stop] = block = product(basis[stop - 2 : stop])
        if step % _CHECKED_EVERY == _CHECKED_EVERY - 1:
            projected = basis[:stop] @ images[:stop].T
            last = [stop - 2, stop - 1]
            values, weights = scipy.linalg.eigh((projected + projected.T) / 2, subset_by_index=last, check_finite=False)
            vectors = weights.T @ basis[:stop]
            next_one, own = np.linalg.norm(weights.T @ images[:stop] - values[:, None] * vectors, axis=1)
            if own < _RESIDUAL and next_one < _RESIDUAL_OF_NEXT:
                return values, vectors[1]
    return None


def _orthonormal(
    block: Float64[np.ndarray, "2 N"], basis: Float64[np.ndarray, "n N"], draw: np.random.Generator
) -> Float64[np.ndarray, "2 N"]:
    """Make two rows orthonormal to a basis and to each other; where nothing is left of one, start it anew."""
    first, second = block
    for _ in range(3):  # once leaves rounding errors that grow, and a third time is for a row begun anew
        first, second = np.stack([first, second]) - (np.stack([first, second]) @ basis.T) @ basis
        first = _unit(first, draw)
        second = _unit(second - (second @ first) * first, draw)
    return np.stack([first, second])


def _unit(row: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    length = np.linalg.norm(row)
    row = row if length > _NOTHING else draw.standard_normal(len(row))
    return row / np.linalg.norm(row)


def _bounds(bound: float, matrix: np.ndarray) -> bool:
    """Whether all eigenvalues of a symmetric matrix lie below a bound."""
    below = -matrix
    np.fill_diagonal(below, below.diagonal() + bound)
    try:
        scipy.linalg.cholesky(below.T, overwrite_a=True, check_finite=False)  # .T, as LAPACK wants it: not copied
    except np.linalg.LinAlgError:
        return False
    return True
