"""Sinks of heads in the record of a scan: from the sums of the pass, and from a few example images run once more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vitreg.analysis.norms import encode
from vitreg.analysis.sinks import COUNTS, PLACES
from vitreg.analysis.tally import Sums
from vitreg.analysis.value_space import ValueSums
from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.passes.batches import Batches
from vitreg.records import SINK_KINDS, SinksRecord, ValueSpace
from vitreg.report.attempts import reason_of
from vitreg.verbs.scan.examples import Chosen
from vitreg.verbs.scan.readout import Readout, rounded

IMAGES = 4  # of the examples, for the value projection: their cost must stay small beside that of a scan


def sinks_record(sums: Sums, readout: Readout, queries: int) -> SinksRecord | None:
    """Return the sinks of every head; None if attention was not read."""
    if not sums.head_sinks[..., -1].any():
        return None
    by_name = dict(zip(COUNTS, np.moveaxis(sums.head_sinks, 2, 0), strict=True))
    images, kinds = by_name["images"], [by_name[kind] for kind in SINK_KINDS]
    with_sink = np.sum(kinds, axis=0)
    shares = [_divided(kind, images) for kind in kinds]
    return SinksRecord(
        queries=queries,
        no_op=shares[0],
        broadcast=shares[1],
        unclear=shares[2],
        value_ratio=_divided(by_name["value ratio"], with_sink),
        stable_rank=_divided(by_name["stable rank"], with_sink),
        places=[
            {name: rounded(count / row.sum()) for name, count in zip(PLACES, row, strict=True) if count}
            for row in sums.sink_places
        ],
        on_outliers=[
            None if block == 0 or not sums.sink_places[block].sum() else readout.sinks_on_outliers(block)
            for block in range(len(images))
        ],
    )


def _divided(sums: np.ndarray, counts: np.ndarray) -> list[list[float | None]]:
    return [
        [rounded(value / count) if count else None for value, count in zip(*row, strict=True)]
        for row in zip(sums, counts, strict=True)
    ]


def with_values(
    record: SinksRecord | None, backbone: Backbone, batches: Batches, shown: Sequence[Chosen], readout: Readout
) -> SinksRecord | None:
    """Add what the value projection makes of the outliers of the example images with most of them, run once more."""
    if record is None or not readout.chosen[0]:
        return record
    images = [index for index, _, outliers in shown if outliers][:IMAGES]
    blocks = [layer + 1 for layer in range(backbone.depth - 1) if readout.first_bin(layer) is not None]
    if not images or not blocks:
        why = "no block reads the outliers of another." if images else "no example image has an outlier."
        return record.model_copy(update={"value_unread": why})
    try:
        values = _values(backbone, batches, images, blocks, readout)
    except Exception as error:
        # An image that is gone, or a bug of ours, must not cost what the whole pass has measured.
        reason = error.sentence if isinstance(error, UserError) else reason_of(error)
        return record.model_copy(update={"value_unread": reason})
    return record.model_copy(update={"value_space": values, "value_images": len(images)})


def _values(
    backbone: Backbone, batches: Batches, images: Sequence[int], blocks: Sequence[int], readout: Readout
) -> list[ValueSpace]:
    sums = ValueSums(backbone, blocks)

    def outliers(norms: Tensor, layer: int) -> Tensor:
        return torch.from_numpy(readout.outliers(encode(norms.float().cpu().numpy()), layer)).to(norms.device)

    for index in images:
        sums.add(batches.again(index)[1], outliers)
    return [ValueSpace(**found) for found in sums.result(rounded)]
