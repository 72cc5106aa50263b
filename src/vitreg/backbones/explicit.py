"""Attention and linear layers in bfloat16 on a CPU, written so that they are right first and then fast; traced and
untraced runs both use them, so that they give the same bits.

Logits in bfloat16 are no good: real models have logits of 200, where neighbours in bfloat16 lie 1 apart. All variants
here keep logits and softmax in float32, as PyTorch's fused kernel does; which one is fastest depends on the processor
and is measured once (`vitreg.measured`, `benchmarks/attention.py`). A linear layer adds its bias inside oneDNN's
product, where `F.linear` first copies the bias to every row of its output. Weights are read as they are, nothing is kept.
"""

from __future__ import annotations

import types as python_types
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitreg.measured import times

Attend = Callable[[Tensor, Tensor, Tensor, float | None], Tensor]  # q, k, v [..., N, d], scale -> attention · v


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

AT_ONCE = 2**20  # logits held at once, 4 MiB: they stay in the cache between product, softmax and product


def in_pieces(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """Attention as float32 logits and softmax of a few heads at a time, and one product with weights in bfloat16."""
    factor: float = q.shape[-1] ** -0.5 if scale is None else scale
    # The products want whole matrices; k and v lie strided in the fused projection. Copied here, the transpose is free.
    queries, keys, values = (x.contiguous().flatten(0, -3) for x in (q, k, v))  # [heads of all images, N, d]
    mixed = values.new_empty(*queries.shape[:-1], values.shape[-1])
    rows = max(1, AT_ONCE // keys.shape[1])
    heads = max(1, rows // queries.shape[1])
    for head in range(0, len(queries), heads):
        own = slice(head, head + heads)
        wide = keys[own].float().transpose(1, 2)
        for row in range(0, queries.shape[1], rows):
            logits = torch.bmm(queries[own, row : row + rows].float() * factor, wide)
            torch.softmax(logits, dim=-1, out=logits)
            mixed[own, row : row + rows] = torch.bmm(logits.bfloat16(), values[own])
    return mixed.unflatten(0, q.shape[:-2])


def fused(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """PyTorch's own kernel."""
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def fused_wide(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """PyTorch's own kernel on float32 copies of two images at a time."""
    mixed = q.new_empty(*q.shape[:-1], v.shape[-1])
    for image in range(0, len(q), 2):
        own = slice(image, image + 2)
        mixed[own] = F.scaled_dot_product_attention(q[own].float(), k[own].float(), v[own].float(), scale=scale)
    return mixed


VARIANTS: dict[str, Attend] = {"in pieces": in_pieces, "fused": fused, "fused, float32": fused_wide}
EARNED = 1.1  # another variant must be this many times as fast as the first: the variant decides the last bits


def fastest() -> Attend:
    """Return the variant for this machine, by the time they take for two images in a ViT-S."""
    found = times("attention in bfloat16", _prepared)
    first, best = next(iter(VARIANTS)), min(VARIANTS, key=lambda name: found[name])
    return VARIANTS[best if found[best] * EARNED < found[first] else first]


def _prepared() -> Mapping[str, Callable[[], object]]:
    q, k, v = torch.ones(2, 261, 3, 6, 64, dtype=torch.bfloat16).permute(2, 0, 3, 1, 4)
    return {name: lambda attend=attend: attend(q, k, v, None) for name, attend in VARIANTS.items()}


def faster_attention(module: nn.Module) -> AbstractContextManager[object]:
    """Return a context in which `module` runs faster, or one that does nothing."""
    first = next(module.parameters(), None)
    suits = first is not None and first.device.type == "cpu" and first.dtype == torch.bfloat16
    return _Explicit(fastest()) if suits else nullcontext()


class _Explicit(TorchFunctionMode):
    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self._attend = attend

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return attention_body(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            plain = _plain(*args, **kwargs)
            return func(*args, **kwargs) if plain is None else self._attend(*plain)
        if func is F.linear:
            output = _product_with_bias(*args, **kwargs)
            return func(*args, **kwargs) if output is None else output
        return func(*args, **kwargs)


def _plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor, Tensor, float | None] | None:
    """What the variants need of a call of `scaled_dot_product_attention`, None where it asks for more than they do."""
    plain = attn_mask is None and not is_causal and not enable_gqa and dropout_p == 0.0
    same = query.ndim >= 3 and query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    whole = query.numel() and key.numel() and query.dtype == key.dtype == value.dtype == torch.bfloat16
    return (query, key, value, scale) if plain and same and whole else None


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
