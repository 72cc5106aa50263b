"""Register queries that compete for keys as slots do (Locatello et al. 2020): the paper leaves the regularisation of
registers for future work (Sec. 3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

EPS = 1e-8


def attend_as_slots(
    q: Float[Tensor, "B heads N d"],
    k: Float[Tensor, "B heads N d"],
    v: Float[Tensor, "B heads N d"],
    attn_mask: Bool[Tensor, "B 1 1 N"] | None,
    slots: tuple[int, int],
) -> Float[Tensor, "B heads N d"]:
    """Attend with the queries of the registers as slots, and with all others as usual.

    >>> S = softmax(logits[start:stop], over the queries)      # each key is shared out among the registers
    >>> mixed[start:stop] = S / (S.sum(over the keys) + 1e-8) @ v

    The same as a softmax over the keys, with minus the logsumexp of the registers' logits added to each key. So
    `scaled_dot_product_attention` sees all of it, and what the registers look at can be read and edited like any attention.
    In float32 at least: the sums of bfloat16 logits are 1 apart.

    Args:
        attn_mask: False hides a key from all queries.
        slots: [start, stop) of the registers in the sequence.
    """
    start, stop = slots
    with torch.autocast(q.device.type, enabled=False):
        exact = torch.promote_types(q.dtype, torch.float32)
        q, k, v = q.to(exact), k.to(exact), v.to(exact)
        logits = q[:, :, start:stop] @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # [B, heads, R, N]
        together = logits.logsumexp(dim=2, keepdim=True)  # [B, heads, 1, N]
        taken = (logits - together).exp()  # each key sums to 1 over the registers
        bias = F.pad(-together.expand_as(logits), (0, 0, start, q.shape[2] - stop))  # [B, heads, N, N]
        if attn_mask is not None:
            taken, bias = taken.masked_fill(~attn_mask, 0.0), bias.masked_fill(~attn_mask, float("-inf"))
        total = taken.sum(-1, keepdim=True)  # [B, heads, R, 1]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        update = mixed[:, :, start:stop] * (total / (total + EPS))
        return torch.cat([mixed[:, :, :start], update, mixed[:, :, stop:]], dim=2)
