"""Linear layers on a CPU by oneDNN (`vitreg.machine.onednn`), where that is faster.

In bfloat16 it adds the bias inside the product; `F.linear` first copies it to every row of the output. 2 to 17 % faster
(`benchmarks/attention.py`). In float32 it replaces MKL on processors where it was measured to be faster: on a Zen 5
1.6 to 2.2 times, forward and backward (`benchmarks/linear.py`). Traced and untraced runs both use it, so they give the
same bits. Weights are neither copied nor cached.

Attention itself uses PyTorch's kernel, which keeps logits and softmax in float32. No alternative of the same accuracy
was faster: products with weights rounded to bfloat16 took 0.8 of its time at up to twice its largest error.
"""

from __future__ import annotations

import types as python_types
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitreg.machine import onednn
from vitreg.machine.precision import fp32_by_onednn


def _without_dispatch(function: Any) -> Any:
    """Return a copy of the code whose own check for function modes is disabled.

    `F.multi_head_attention_forward` first passes itself to any active mode. Calling it again under the mode would
    recurse for ever; calling it without the mode would hide the attention inside. This copy skips only that first
    check.
    """
    names = {**function.__globals__, "has_torch_function": lambda _tensors: False}
    copy = python_types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


attention_body = _without_dispatch(F.multi_head_attention_forward)


def faster_linear(module: nn.Module) -> AbstractContextManager[object]:
    """Return a context in which `module` runs faster, or one that does nothing."""
    first = next(module.parameters(), None)
    if first is None or first.device.type != "cpu" or onednn.linear is None:
        return nullcontext()
    suits = first.dtype == torch.bfloat16 or (first.dtype == torch.float32 and fp32_by_onednn())
    return _ByOneDNN(first.dtype) if suits else nullcontext()


class _ByOneDNN(TorchFunctionMode):
    """Give linear layers of a dtype to oneDNN."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return attention_body(*args, **kwargs)
        if func is F.linear:
            output = _linear(self.dtype, *args, **kwargs)
            return func(*args, **kwargs) if output is None else output
        return func(*args, **kwargs)


def _linear(dtype: torch.dtype, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """`F.linear` by oneDNN, or None where PyTorch should do it."""
    tensors = [input, weight] if bias is None else [input, weight, bias]
    for x in tensors:
        if type(x) not in (Tensor, nn.Parameter) or x.dtype != dtype or x.device.type != "cpu":
            return None
    if not (weight.is_contiguous() and input.numel() and input.ndim > 1) or torch.is_autocast_enabled("cpu"):
        return None
    if dtype == torch.bfloat16 and bias is None:
        return None  # PyTorch gives it to oneDNN itself
    if torch._C._are_functorch_transforms_active():
        return None  # inside torch.func, whose tensors the kernel does not know
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return onednn.LinearWithGradients.apply(input, weight, bias) if dtype == torch.float32 else None
    assert onednn.linear is not None, "there is no mode without it"
    return onednn.linear(input, weight, bias)
