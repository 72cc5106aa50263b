"""Attention for training in bfloat16 on a CPU: logits and softmax in float32, all else in bfloat16.

The backward pass of PyTorch's fused kernel is 2 to 4 times slower there than plain products
(`benchmarks/attention.py`). Plain products in bfloat16 alone are wrong: real models have logits of 200, where bfloat16
values are 1 apart.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def attend_plainly(
    q: Float[Tensor, "B heads N d"],
    k: Float[Tensor, "B heads N d"],
    v: Float[Tensor, "B heads N d"],
    attn_mask: Bool[Tensor, "B 1 1 N"] | None = None,
) -> Float[Tensor, "B heads N d"]:
    """Return `scaled_dot_product_attention`, with gradients, as matrix products and a softmax."""
    return _Attention.apply(q, k, v, attn_mask)  # pyright: ignore[reportReturnType]


class _Attention(torch.autograd.Function):
    """A custom backward pass to save memory: autograd would also keep the weights in float32."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        # Contiguous copies: products are slow on the strided parts of a fused projection.
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        with torch.autocast(q.device.type, enabled=False):  # it would cast the logits to half precision
            logits = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-2, -1)  # [B, heads, N, N]
            if mask is not None:
                logits.masked_fill_(~mask, float("-inf"))
            exact = torch.softmax(logits, dim=-1, out=logits)
            weights = exact.to(v.dtype)
            # Correct for the rounding of the weights: otherwise the largest error is twice the fused kernel's.
            rest = exact.sub_(weights).to(v.dtype) @ v
            mixed = torch.baddbmm(rest.flatten(0, 1), weights.flatten(0, 1), v.flatten(0, 1))
        ctx.save_for_backward(q, k, v, weights)
        return mixed.unflatten(0, q.shape[:2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, weights = ctx.saved_tensors
        of_weights = gradients[0] @ v.transpose(-2, -1)
        of_logits = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype) * q.shape[-1] ** -0.5
        # Rows sum to zero, so an offset shared by all keys should cancel. After rounding they do not quite, and an
        # offset of 500 would cause an error of 20 %: subtract it.
        centred = (k - k.mean(dim=-2, keepdim=True, dtype=torch.float32)).to(k.dtype)
        of_values = weights.transpose(-2, -1) @ gradients[0]
        return of_logits @ centred, of_logits.transpose(-2, -1) @ q, of_values, None
