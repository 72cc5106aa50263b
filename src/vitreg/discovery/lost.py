"""LOST: the patch least linked to others is on an object, and what resembles it is the object (Siméoni et al. 2021).

The paper judges register models by it, with a bias on the Gram matrix (Sec. 3.3, Table 3), and shows its steps in
Fig. 13. How features are prepared and which bias fits them is decided in `features`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.discovery.boxes import Box, component, enclosing
from vitreg.discovery.chance import ALIKE, alike, strewn
from vitreg.discovery.features import exact

_BLOCK = 128  # rows of the Gram matrix at a time: they stay in the processor's cache until they are counted


@dataclass(frozen=True, slots=True, eq=False)
class Lost:
    """What LOST finds in an image, and the steps that led there (the columns of the paper's Fig. 13)."""

    box: Box | None
    """(row0, col0, row1, col1) in patches around `mask`, the end left out; `boxes.to_pixels` turns it into pixels. None
    where `nothing` says why."""
    seed: int
    """Patch of the lowest degree, row-major; of several, the first."""
    similars: Int64[Tensor, " S"]
    """Patches the seed is expanded to, by rising degree; the seed is among them."""
    degree: Int64[Tensor, "rows cols"]
    """How many other patches have a positive entry in the Gram matrix with this one."""
    gram_row: Float[Tensor, "rows cols"]
    """The seed's row of the Gram matrix, with the bias."""
    mask: Bool[Tensor, "rows cols"]
    """The object: the connected component that holds the seed."""
    by_chance: bool
    """Whether the patches of `M > 0`, neither all nor a single one, hang together no more than as many in random places."""
    nothing: str = ""
    """Why there is no object: all patches are alike."""


def lost(features: Float[Tensor, "N D"], grid: tuple[int, int], *, bias: float = 0.0, k: int = 100) -> Lost:
    """Find one object in an image, or that there is none.

    LOST as published gives a box for any features. Here patches that are all alike have none; noise still has one,
    which `by_chance` marks (`chance.strewn`).

    Patches of equal degree keep row-major order; the official code leaves their order to the backend. With a
    negative bias the seed may not even resemble itself: it then stays among the similars, and where it falls outside the
    mask, the official code's error, the box is its own patch.

    >>> A = features @ features.T + bias
    >>> degree = [sum(A[p, q] > 0 for q in range(N) if q != p) for p in range(N)]
    >>> order = sorted(range(N), key=lambda p: degree[p])                              # stable
    >>> seed, potentials = order[0], order[:k]
    >>> similars = [p for p in potentials if p == seed or A[seed, p] > 0]
    >>> M = [sum(A[s, p] for s in similars) for p in range(N)]
    >>> mask = flood({p for p in range(N) if M[p] > 0}, start=seed)    # from patch to 4-neighbour; {seed} if outside
    >>> rows, cols = [p // grid[1] for p in mask], [p % grid[1] for p in mask]
    >>> box = (min(rows), min(cols), max(rows) + 1, max(cols) + 1)

    Args:
        features: of the patches, row-major, as `features.prepare` returns them; patches of padding take part.
        grid: (rows, cols) with rows * cols == N.
        bias: added to every entry of the Gram matrix.
        k: how many patches of lowest degree the seed may be expanded to.
    Raises:
        ValueError: if the grid does not hold N patches, k is below 1, or a feature is not finite.
    """
    return lost_batch(features[None], grid, bias=bias, k=k)[0]


def lost_batch(
    features: Float[Tensor, "B N D"],
    grid: tuple[int, int],
    *,
    bias: float | Float[Tensor, " B"] = 0.0,
    k: int = 100,
) -> list[Lost]:
    """Find one object in each of several images of the same size, as `lost` does, whatever the others in the batch.

    The Gram matrix is never stored: its half above the diagonal is counted block by block, and of the rows only their
    sum is needed, which is one product with the sum of the similars' features.

    Args:
        bias: one for all, or one for each image, as `features.automatic_bias` gives them.
    """
    rows, cols = grid
    if rows * cols != features.shape[1]:
        raise ValueError(f"a {rows}x{cols} grid holds {rows * cols} patches, not {features.shape[1]}")
    if k < 1:
        raise ValueError(f"the seed is one of the k patches of lowest degree, so k is at least 1 and not {k}")
    features = exact(features.detach())
    biases = torch.as_tensor(bias).double().expand(len(features)).tolist()
    return [_one(own, grid, each, k) for own, each in zip(features, biases, strict=True)]


def _one(features: Float[Tensor, "N D"], grid: tuple[int, int], bias: float, k: int) -> Lost:
    degree = degrees(features, bias)
    order = degree.argsort(stable=True)
    seed, potentials = int(order[0]), order[:k]
    row = features @ features[seed] + bias
    if not row.isfinite().all():  # non-finite numbers propagate to here, where few numbers need checking
        raise ValueError("the features of some patches are not finite")
    similars = potentials[(row[potentials] > 0) | (potentials == seed)]
    total = features @ features[similars].sum(0) + len(similars) * bias
    same = alike(features)
    part = (total > 0).view(grid).cpu()
    mask = component(part, seed)
    return Lost(
        box=None if same else enclosing(mask),
        seed=seed,
        similars=similars.cpu(),
        degree=degree.view(grid).cpu(),
        gram_row=row.view(grid).cpu(),
        mask=mask,
        by_chance=1 < int(part.sum()) < part.numel() and strewn(part.numpy()),
        nothing=ALIKE if same else "",
    )


def degrees(features: Float[Tensor, "N D"], bias: float = 0.0) -> Int64[Tensor, " N"]:
    """Count for each patch the others with which its entry of the Gram matrix, plus the bias, is positive."""
    count = len(features)
    degree = features.new_zeros(count)  # whole numbers, exact in float32 up to 2^24
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        linked = features[start:stop] @ features[start:].T
        linked.gt_(-bias)
        linked.diagonal().zero_()
        degree[start:stop] += linked.sum(1)
        degree[stop:] += linked[:, stop - start :].sum(0)
    return degree.long()
