"""Reads where attention goes in the later half of a model's blocks: to registers, and to patches that are sinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vitreg.backbones import Backbone, Capture
from vitreg.errors import UserError
from vitreg.passes.given import Images
from vitreg.passes.view import images_at_once
from vitreg.repair.columns.attention import share_on
from vitreg.repair.columns.reading import queries_of
from vitreg.repair.fitting import subject_of
from vitreg.repair.settings import FitOptions


def shares_of(backbone: Backbone, images: Images, times: float, reading: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return shares of attention for each image: "on_sinks", patches with more than `times` the mean,
    and "on_registers".

    Args:
        reading: keywords of `FitOptions`.
    Raises:
        UserError: if its attention cannot be read, or for images that cannot be.
    """
    status = backbone.attention_status()
    if status.source == "none":
        raise UserError(f"its attention cannot be read: {status.reason}.")
    found: dict[str, list[float]] = {"on_sinks": [], "on_registers": []}
    with subject_of(backbone, images, FitOptions(**reading), choose=False) as subject:
        layouts = backbone.layouts(subject.size)
        rows = {block: queries_of(layouts[block]) for block in range(backbone.depth // 2, backbone.depth)}
        batch = reading.get("batch_size") or images_at_once(backbone, subject.size)
        for part in ("fit", "held_out"):
            for pixels in subject.images.batches(part, batch):
                trace = backbone.trace(pixels, Capture(rows=rows))
                shares = torch.stack([_shares(trace, block, own, times) for block, own in rows.items()]).mean(0)
                for name, values in zip(found, shares, strict=True):
                    found[name] += values.tolist()
    return found


def _shares(trace: Any, block: int, queries: Sequence[int], times: float) -> torch.Tensor:
    """Return both shares [2, B] in one block."""
    layout = trace.layout_before(block)
    attention = trace.attention(block, queries).float().cpu()  # [B, heads, Q, N]
    patches = layout.take(attention, -1, fill=0.0)
    received = patches.mean((1, 2))  # [B, P]
    sinks = received > times / attention.shape[-1]
    registers = attention[..., list(layout.registers)].sum(-1).mean((1, 2))
    return torch.stack([share_on(patches, sinks), registers])
