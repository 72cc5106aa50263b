"""Attention sinks of single heads and their kinds, after Fesser et al.: what a head does with the key that most queries look at.

A *no-op* sink has a value near zero, so that looking at it adds nothing; a *broadcast* sink has a value of ordinary size, which
most queries then read, and nothing else. Pure functions of attention rows and values; `tally` sums what they give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from vitreg.backbones.trace import ReadRows
from vitreg.records import SINK_KINDS
from vitreg.tokens import TokenLayout

QUERIES = 0.9  # of the sampled queries, at least, must put
ATTENTION = 0.5  # of their attention, at least, on one key
NO_OP = 0.2  # norm of the sink's value / mean norm of all values, at most
BROADCAST = 0.5  # the same, at least
RANK = 1.5  # of what the queries read, at most
NO_OPS, BROADCASTS, UNCLEAR = range(len(SINK_KINDS))
COUNTS = (*SINK_KINDS, "value ratio", "stable rank", "images")  # what is summed for each head
PLACES = ("cls", "register", "other", "patch", "extra")
SQUARINGS = 7


@dataclass(frozen=True)
class FoundSinks:
    """Sinks, one for each pair of an image and a head that has one."""

    image: Int64[Tensor, "n"]
    head: Int64[Tensor, "n"]
    key: Int64[Tensor, "n"]
    kind: Int64[Tensor, "n"]  # index in SINK_KINDS
    value_ratio: Float[Tensor, "n"]
    stable_rank: Float[Tensor, "n"]


def concentrated(rows: Float[Tensor, "*n Q M"]) -> Bool[Tensor, "*n"]:
    """Whether at least 90 % of the queries put at least half of their attention on a key each; these may differ.

    All else that is asked of a sink costs more, and is asked of these heads alone.
    """
    return (rows.amax(-1) >= ATTENTION).sum(-1) >= enough(rows.shape[-2])


def enough(queries: int) -> int:
    """Return how many queries are at least 90 %."""
    return math.ceil(QUERIES * queries - 1e-9)


def find_sinks(read: ReadRows) -> FoundSinks:
    """Return the sinks among the heads that were read, and their kinds."""
    if not len(none := read.image):
        return FoundSinks(none, none, none, none, none.float(), none.float())
    key = sink_keys(read.weights)
    there = key >= 0
    key, norms = key[there], read.value_norms[there]
    own = norms.gather(1, key[:, None])[:, 0]
    ratio = own / norms.mean(1).clamp(min=torch.finfo(own.dtype).tiny)
    rank = stable_rank(read.mixed[there])
    return FoundSinks(read.image[there], read.head[there], key, kinds_of(ratio, rank), ratio, rank)


def sink_keys(rows: Float[Tensor, "n Q M"]) -> Int64[Tensor, "n"]:
    """Return the key on which at least 90 % of the queries put at least half of their attention, -1 where there is none.

    >>> for key in range(M):
    ...     if mean(rows[i, q, key] >= 0.5 for q in range(Q)) >= 0.9:
    ...         out[i] = key
    """
    queries, key = (rows >= ATTENTION).sum(1).max(-1)
    return torch.where(queries >= enough(rows.shape[1]), key, -1)


def kinds_of(value_ratio: Float[Tensor, "*n"], rank: Float[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """Return the kinds of sinks, as indices in SINK_KINDS."""
    broadcast = (value_ratio >= BROADCAST) & (rank <= RANK)
    kinds = torch.where(broadcast, BROADCASTS, UNCLEAR)
    return torch.where(value_ratio <= NO_OP, NO_OPS, kinds)


def stable_rank(mixed: Float[Tensor, "*n Q d"]) -> Float[Tensor, "*n"]:
    """Return the squared Frobenius norm over the squared spectral norm: 1 if all rows are parallel; 0 for zeros.

    The largest eigenvalue of the Gram matrix is read off its 128th power, which needs no decomposition. Near RANK this
    is exact, because the second eigenvalue is then at most half of it; elsewhere the result is too large by at most 1 %.
    """
    gram = mixed.float() @ mixed.float().transpose(-2, -1)
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    gram = gram / trace.clamp(min=torch.finfo(torch.float32).tiny)[..., None, None]
    power = gram
    for _ in range(SQUARINGS):
        power = power @ power
        power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=1e-30)[..., None, None]
    largest = (gram * power).sum((-2, -1))  # of a symmetric product, its trace
    return torch.where(trace > 0, 1 / largest.clamp(min=1e-30), 0.0)


@dataclass(frozen=True)
class SinkCounts:
    """Sums of one batch, on the CPU."""

    heads: Float64[np.ndarray, "L heads counts"]  # COUNTS
    places: Float64[np.ndarray, "L places"]  # sinks on tokens of each of PLACES
    patches: Float[np.ndarray, "L B P"]  # heads whose sink is this patch; 0 for patches that are gone


def numbers_of_heads(found: FoundSinks, images: int, own: int, heads: int) -> Float[Tensor, "B heads counts"]:
    """Return what is summed over images.

    Args:
        own: heads of this block; the others count as not measured, and so does a block with more than `heads`.
        heads: most heads of a block.
    """
    numbers = torch.zeros(images, heads, len(COUNTS), device=found.key.device)
    if own > heads:
        return numbers
    numbers[:, :own, -1] = 1
    numbers[found.image, found.head, found.kind] = 1
    numbers[found.image, found.head, -3] = found.value_ratio
    numbers[found.image, found.head, -2] = found.stable_rank
    return numbers


def keys_by_place(
    found: FoundSinks, images: int, layout: TokenLayout, keys: int
) -> tuple[Float[Tensor, "places"], Float[Tensor, "B P"]]:
    """Return how many sinks stand in each of PLACES, and on each patch of each image.

    Args:
        layout: of the tokens that attend to one another; further keys belong to no token.
        keys: how many keys there are.
    """
    sinks = torch.zeros(images, keys, device=found.key.device)
    sinks.index_put_((found.image, found.key), torch.ones_like(found.value_ratio), accumulate=True)
    by_token, extra = sinks[:, : layout.length], sinks[:, layout.length :].sum()
    groups = (layout.cls, layout.registers, layout.other)
    tokens = [by_token[:, list(group)].sum() for group in groups]
    patches = layout.take(by_token, -1, fill=0.0)
    return torch.stack([*tokens, patches.sum(), extra]), patches
