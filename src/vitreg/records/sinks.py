"""The attention sinks of a scan: how many heads have one, of which kind, and what the value projection makes of outliers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from vitreg.records.base import Record

SinkKind = Literal["no-op", "broadcast", "unclear"]
SINK_KINDS: tuple[SinkKind, ...] = ("no-op", "broadcast", "unclear")
MOSTLY = 0.5  # a head counts as a sink on the page if it is one in at least this share of the images

Heads = list[list[float | None]]  # [block][head]; null where nothing was measured


class ValueSpace(Record):
    """What the value projection of one block makes of the outliers of the block before; one number for each head.

    A number near 1 in `length` says that outliers write as much as other patches. `outside_random` is what the share
    is for directions that know nothing of the weights: most of the space, for a head is narrow.
    """

    block: int
    outliers: int = Field(description="how many of them were read")
    length: list[float] = Field(description="of the values of outliers / of other patches: mean of |W_v LN1(x) + b|")
    length_without_bias: list[float] = Field(description="the same without b")
    outside: list[float] = Field(
        description="share of LN1's output, before its weight and bias, outside the row space of W_v diag(weight): squared "
        "norm, mean over outliers"
    )
    outside_normal: list[float] = Field(description="the same of other patches")
    outside_random: list[float] = Field(description="the same expected of random directions")


class SinksRecord(Record):
    """A head has a sink in an image if at least 90 % of the sampled queries put at least half of their attention on one key.

    It is a no-op if the value of that key has at most 0.2 times the mean norm, a broadcast if it has at least 0.5 times and
    what the queries read has a stable rank of at most 1.5, and unclear otherwise (after Fesser et al.).
    """

    queries: int = Field(description="sampled in each block: CLS and patches")
    no_op: Heads = Field(description="share of the images")
    broadcast: Heads = Field(description="share of the images")
    unclear: Heads = Field(description="share of the images")
    value_ratio: Heads = Field(
        description="norm of the sink's value / mean norm of all values, mean; null without a sink"
    )
    stable_rank: Heads = Field(description="of what the queries read, mean over images with a sink; null without")
    places: list[dict[str, float]] = Field(
        description="for each block, share of its sinks that are a cls, register, other or patch token, or a key of none (extra)"
    )
    on_outliers: list[float | None] = Field(
        description="for each block, share of its sinks on outliers of the block before; null without outliers or sinks"
    )
    value_space: list[ValueSpace] = Field(
        default=[], description="for blocks that read outliers, from a few example images"
    )
    value_images: int = Field(default=0, description="how many images these are")
    value_unread: str = Field(default="", description="why there is none; empty where there are some")

    def share(self, block: int, head: int) -> float | None:
        """Return the share of the images in which a head has a sink; None if it was not measured."""
        parts = [self.of(kind)[block][head] for kind in SINK_KINDS]
        return None if parts[0] is None else sum(part or 0.0 for part in parts)

    def of(self, kind: SinkKind) -> Heads:
        """Return the shares of one kind."""
        return {"no-op": self.no_op, "broadcast": self.broadcast, "unclear": self.unclear}[kind]

    def kind(self, block: int, head: int) -> SinkKind | None:
        """Return the most frequent kind of a head with a sink in at least half of the images; None for the others."""
        share = self.share(block, head)
        if share is None or share < MOSTLY:
            return None
        return max(SINK_KINDS, key=lambda kind: self.of(kind)[block][head] or 0.0)

    def kinds(self) -> Sequence[tuple[int, int, SinkKind]]:
        """Return (block, head, kind) of every head that has one."""
        found: list[tuple[int, int, SinkKind]] = []
        for block, row in enumerate(self.no_op):
            for head in range(len(row)):
                kind = self.kind(block, head)
                if kind is not None:
                    found.append((block, head, kind))
        return found
