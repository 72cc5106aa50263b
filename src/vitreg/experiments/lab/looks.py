"""What the looks of a run say: its course over the steps, and at one look what background, registers and other tokens take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from vitreg.records import Attended, LayerMoment, NormsMoment, RunRecord
from vitreg.records.lab import Course, Looked, Shared, Sink

Kind = Literal["background", "registers"]


def course_of(record: RunRecord, metric: str) -> Course:
    """Return the course of a run from its records.

    Args:
        metric: the evaluation that is its error.
    """
    moments = record.watched.moments if record.watched else []
    background, registers = ([sink(each, kind) for each in moments] for kind in ("background", "registers"))
    error = next((curve for curve in record.evaluations if curve.name == metric), None)
    return Course(
        looks=[each.step for each in moments], ratio=[largest(each) for each in moments],
        background=[each and each.attention for each in background], registers=[each and each.attention for each in registers],
        values=[each and each.values for each in background],
        evaluated=list(error.steps) if error else [], error=list(error.values) if error else [],
        foreground=[(found := looked(each, "foreground")) and found.attention for each in moments],
        effective=[(found := shared(each)) and found.effective for each in moments],
    )  # fmt: skip


def looked_at(record: RunRecord, step: int) -> bool:
    """Whether the norms of a step are in a record. Without those of its end a run would be judged by less than its course."""
    moments = record.watched.moments if record.watched else []
    return any(each.step == step and largest(each) > 0 for each in moments)


def largest(moment: NormsMoment) -> float:
    """Return the largest norm over the median after any block; 0 where no block has one."""
    return max((layer.image_ratio for layer in moment.layers if layer.image_ratio is not None), default=0.0)


def sink(moment: NormsMoment, kind: Kind) -> Sink | None:
    """Return what a kind of token takes, in the block that gives it most, and its values and norms there."""
    block = _block(moment, lambda layer: layer.attention and getattr(layer.attention, kind))
    if block is None:
        return None
    layer = moment.layers[block]
    return Sink(
        block=block, attention=getattr(layer.attention, kind), values=getattr(layer.values, kind, None),
        norm=getattr(layer.norms, kind, None),
    )  # fmt: skip


def shared(moment: NormsMoment) -> Shared | None:
    """Return how registers share their work, in the block that gives them most."""
    block = _block(moment, lambda layer: layer.attention and layer.attention.registers)
    each = None if block is None else moment.layers[block].each_register
    if each is None:
        return None
    shares = [share or 0.0 for share in each.attention]
    total = math.fsum(shares)
    return Shared(
        each=each.attention,
        largest=max(shares) / total if total else None,
        effective=effective(shares),
        in_a_head=each.number,
    )


def effective(shares: Sequence[float]) -> float | None:
    """Return exp of the entropy of shares, which need not sum to 1; None of nothing."""
    total = math.fsum(shares)
    if not total:
        return None
    return math.exp(-math.fsum(p * math.log(p) for share in shares if (p := share / total) > 0))


def looked(moment: NormsMoment, of: Literal["most", "foreground"]) -> Looked | None:
    """Return the most attended token, in the block in which it takes most."""

    def here(layer: LayerMoment) -> Attended | None:
        return getattr(layer, of)

    block = _block(moment, lambda layer: (found := here(layer)) and found.attention)
    found = None if block is None else here(moment.layers[block])
    if block is None or found is None:
        return None
    return Looked(block=block, **found.model_dump())


def sinks(moment: NormsMoment) -> float | None:
    """Return in which share of its heads a token takes at least 0.3, of the block with most."""
    return max((layer.sinks for layer in moment.layers if layer.sinks is not None), default=None)


def _block(moment: NormsMoment, share: Callable[[LayerMoment], float | None]) -> int | None:
    """Return the block that gives most; None where none gives any number."""
    known = [(value, -block) for block, layer in enumerate(moment.layers) if (value := share(layer)) is not None]
    return -max(known)[1] if known else None
