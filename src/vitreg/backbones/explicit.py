"""Attention and linear layers written so that bfloat16 on a CPU is faster; traced and untraced runs both use them, so
that they give the same bits.

Attention is two matrix products and a softmax, with weights rounded to bfloat16 as the fused kernel rounds them: 1.2 to
1.7 times as fast (ViT-S, 261 tokens, two cores). A linear layer adds its bias inside oneDNN's product, where `F.linear`
first copies the bias to every row of its output: 5 % of the whole forward. Weights are read as they are, nothing is kept.
"""

from __future__ import annotations

import types as python_types
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def _without_dispatch(function: Any) -> Any:
    """Return the same code with its own check for function modes answered no.

    `F.multi_head_attention_forward` hands itself to any active mode before it does anything, so calling it again under
    the mode would never end, and calling it without hides the attention inside. This copy skips only that first check.
    """
    names = {**function.__globals__, "has_torch_function": lambda _tensors: False}
    copy = python_types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


attention_body = _without_dispatch(F.multi_head_attention_forward)


def _fused_product() -> Any:
    """Return oneDNN's product with bias, a private function of PyTorch, or None where it is missing or has no bfloat16."""
    try:
        return torch.ops.mkldnn._linear_pointwise if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None
    except (AttributeError, RuntimeError):
        return None


_linear_pointwise = _fused_product()

LARGEST = 2**27  # attention weights held at once; above, the fused kernel's memory matters more than its speed


def faster_attention(module: nn.Module) -> AbstractContextManager[object]:
    """Return a context in which `module` runs faster, or one that does nothing."""
    first = next(module.parameters(), None)
    suits = first is not None and first.device.type == "cpu" and first.dtype == torch.bfloat16
    return _Explicit() if suits else nullcontext()


class _Explicit(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return attention_body(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            output = _attend(*args, **kwargs)
            return func(*args, **kwargs) if output is None else output
        if func is F.linear:
            output = _product_with_bias(*args, **kwargs)
            return func(*args, **kwargs) if output is None else output
        return func(*args, **kwargs)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """`scaled_dot_product_attention` without mask, or None where the fused kernel should do it."""
    plain = attn_mask is None and not is_causal and not enable_gqa and dropout_p == 0.0
    if (
        not plain
        or query.ndim < 3
        or not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
        or query.dtype != torch.bfloat16
        or query.shape[:-2].numel() * query.shape[-2] * key.shape[-2] > LARGEST
    ):
        return None
    # The products want whole matrices; k and v lie strided in the fused projection. Copied here, the transpose is free.
    q, k, v = (x.contiguous().flatten(0, -3) for x in (query, key, value))
    weights = torch.bmm(q * (query.shape[-1] ** -0.5 if scale is None else scale), k.transpose(1, 2))
    torch.softmax(weights, dim=-1, out=weights)
    return torch.bmm(weights, v).unflatten(0, query.shape[:-2])


def _product_with_bias(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """`F.linear` with a bias, or None where PyTorch should do it."""
    if bias is None or _linear_pointwise is None:
        return None
    for x in (input, weight, bias):
        if type(x) not in (Tensor, nn.Parameter) or x.dtype != torch.bfloat16 or x.device.type != "cpu":
            return None
    if not (weight.is_contiguous() and input.numel() and input.ndim > 1) or torch.is_autocast_enabled("cpu"):
        return None
    return _linear_pointwise(input, weight, bias, "none", [], "")
