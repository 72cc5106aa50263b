"""Sinks of known kind in any model: an edit of its attention draws the queries of some heads to one key."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from vitreg.backbones import QKV, Backbone, Edit, Place

PULL = 60.0  # added to the logits
QUIET = 0.001  # times its value, for a no-op


@dataclass(frozen=True)
class Sinks:
    """Head 0 has a no-op sink at the first token, head 1 a broadcast sink at the last, head 2 no sink: its attention is even.

    Args:
        every: only images whose last query is positive in this channel have sinks; all where it is None.
    """

    every: int | None = None

    def __call__(self, qkv: QKV, place: Place) -> QKV:
        """Return the q, k, v of attention with sinks."""
        last = qkv.k.shape[2] - 1
        bias = torch.zeros(1, qkv.q.shape[1], 1, last + 1, dtype=torch.float32, device=qkv.q.device)
        bias[0, 0, 0, 0], bias[0, 1, 0, last] = PULL, PULL
        v = qkv.v.clone()
        v[:, 0, 0] *= QUIET
        v[:, 1, last] = v[:, 1].norm(dim=-1).mean(-1, keepdim=True) * torch.nn.functional.normalize(
            v[:, 1, last], dim=-1
        )
        if self.every is not None:
            bias = bias * (qkv.q[:, :1, -1:, self.every : self.every + 1] > 0)
        q = torch.cat([qkv.q[:, :2], qkv.q[:, 2:] * 0], 1)
        return replace(qkv, q=q, v=v).with_bias(bias.to(qkv.q.dtype))


def with_sinks(backbone: Backbone, blocks: tuple[int, ...] = (1,), every: int | None = None) -> Backbone:
    """Return the backbone with sinks in some blocks."""
    return backbone.edited([Edit("attention", block, Sinks(every)) for block in blocks], "sinks")
