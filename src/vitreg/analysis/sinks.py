"""Attention sinks of single heads and their kinds, after Fesser et al.: what a head does with the key that most queries look at.

A *no-op* sink has a value near zero, so that looking at it adds nothing; a *broadcast* sink has a value of ordinary size, which
most queries then read, and nothing else. Pure functions of attention rows and values; `tally` sums what they give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

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
    """The sink of every image and head; numbers are 0 where there is none."""

    key: Int64[Tensor, "B heads"]  # -1 without a sink
    kind: Int64[Tensor, "B heads"]  # index in SINK_KINDS, -1 without
    value_ratio: Float[Tensor, "B heads"]
    stable_rank: Float[Tensor, "B heads"]


def find_sinks(
    rows: Float[Tensor, "B heads Q M"], mixed: Float[Tensor, "B heads Q d"], value_norms: Float[Tensor, "B heads M"]
) -> FoundSinks:
    """Return which key is the sink of each head, and of which kind.

    Args:
        rows: attention of Q sampled queries.
        mixed: what they read, rows times values.
        value_norms: norms of all values.
    """
    key = sink_keys(rows)
    there = key >= 0
    own = value_norms.gather(2, key.clamp(min=0)[..., None])[..., 0]
    ratio = torch.where(there, own / value_norms.mean(2).clamp(min=torch.finfo(own.dtype).tiny), 0.0)
    rank = torch.zeros_like(ratio)
    rank[there] = stable_rank(mixed[there])
    return FoundSinks(key, torch.where(there, kinds_of(ratio, rank), -1), ratio, rank)


def sink_keys(rows: Float[Tensor, "B heads Q M"]) -> Int64[Tensor, "B heads"]:
    """Return the key on which at least 90 % of the queries put at least half of their attention, -1 where there is none.

    >>> for key in range(M):
    ...     if mean(rows[b, h, q, key] >= 0.5 for q in range(Q)) >= 0.9:
    ...         out[b, h] = key
    """
    queries, key = (rows >= ATTENTION).sum(2).max(-1)
    return torch.where(queries >= math.ceil(QUERIES * rows.shape[2] - 1e-9), key, -1)


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


def numbers_of_heads(found: FoundSinks, heads: int) -> Float[Tensor, "B heads counts"]:
    """Return what is summed over images, with zeros for heads that this block lacks.

    A block with more heads than its anatomy says counts as not measured.
    """
    ones = torch.ones_like(found.value_ratio)
    kinds = [(found.kind == kind).float() for kind in range(len(SINK_KINDS))]
    numbers = torch.stack([*kinds, found.value_ratio, found.stable_rank, ones], 2)
    missing = heads - numbers.shape[1]
    return F.pad(numbers if missing >= 0 else numbers[:, :0], (0, 0, 0, missing if missing >= 0 else heads))


def keys_by_place(
    key: Int64[Tensor, "B heads"], layout: TokenLayout, keys: int
) -> tuple[Float[Tensor, "places"], Float[Tensor, "B P"]]:
    """Return how many sinks stand in each of PLACES, and on each patch of each image.

    Args:
        layout: of the tokens that attend to one another; further keys belong to no token.
        keys: how many keys there are.
    """
    sinks = torch.zeros(len(key), keys, device=key.device)
    sinks.scatter_add_(1, key.clamp(min=0), (key >= 0).float())
    by_token, extra = sinks[:, : layout.length], sinks[:, layout.length :].sum()
    groups = (layout.cls, layout.registers, layout.other)
    tokens = [by_token[:, list(group)].sum() for group in groups]
    patches = layout.take(by_token, -1, fill=0.0)
    return torch.stack([*tokens, patches.sum(), extra]), patches
