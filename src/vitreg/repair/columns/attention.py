"""How much attention the outliers draw after the block at which they appear."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.repair.columns.column import Column, PerImage, mean
from vitreg.repair.columns.reading import LATER, QUERIES, Reader, Reading


def into_sinks(before: Reading, after: Reading) -> PerImage:
    """Return the share of attention on the patches that are outliers, before or after the repair, mean over images."""
    reader = after.reader
    sinks = before.ever | after.ever
    shares = []
    for block, queries in reader.queries.items():
        layout = after.trace.layout_before(block)
        rows = layout.take(after.trace.attention(block, queries), -1, fill=0.0)  # [B, heads, Q, P]
        shares.append(share_on(rows, sinks))
    return mean(torch.stack(shares).mean(0))


def share_on(rows: Float[Tensor, "B heads Q P"], sinks: Bool[Tensor, "B P"]) -> Float[Tensor, "B"]:
    """Return the attention on some patches, mean over heads and queries."""
    return (rows * sinks[:, None, None]).sum(-1).mean((1, 2))


def _unread(reader: Reader) -> str:
    if reader.queries:
        return ""
    status = reader.backbone.attention_status()
    if reader.outliers is None:
        return "the model has no outliers on these images"
    return (
        f"its attention cannot be read ({status.reason})" if status.source == "none" else "no block reads the outliers"
    )


COLUMNS = (
    Column(
        name="attention_sinks", title="attention into sinks", side="gain", better="smaller", unit="%",
        meaning=f"Share of the attention of CLS and {QUERIES} patches on the patches that are outliers with or without the "
        f"repair, mean over heads and {LATER} blocks after the onset.",
        compare=into_sinks, least=0.5, lacks=_unread,
    ),
)  # fmt: skip
