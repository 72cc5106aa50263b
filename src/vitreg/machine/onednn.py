"""oneDNN's kernel for linear layers, which PyTorch calls itself for bfloat16 only, and without the bias.

For float32 PyTorch calls MKL, which runs kernels for AVX2 on processors of other makers than Intel. On a Zen 5 it
multiplies at 107 GFLOP/s where oneDNN, with AVX-512, does 240 (`benchmarks/linear.py`). Where oneDNN is the faster one
is measured (`vitreg.machine.precision`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _found() -> Any:
    """Return the kernel, a private function of PyTorch; None where it is missing or has no bfloat16."""
    try:
        return torch.ops.mkldnn._linear_pointwise if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None
    except (AttributeError, RuntimeError):
        return None


_pointwise = _found()


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` without gradients, for CPU tensors [..., K], [N, K] and [N] of one dtype, with two dimensions or more."""
    return _pointwise(input, weight, bias, "none", [], "")


linear = None if _pointwise is None else _linear
"""The kernel, or None where there is none."""


class LinearWithGradients(torch.autograd.Function):
    """`F.linear` whose three products, of the output and of both gradients, are oneDNN's."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return input weight^T + bias, [..., N]."""
        ctx.save_for_backward(input, weight)
        return _linear(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradients of input [..., K], weight [N, K] and bias [N], those that are wanted.

        Where they are differentiated again (`create_graph`), PyTorch's own products compute them, which have gradients.
        """
        input, weight = ctx.saved_tensors
        of_input, of_weight, of_bias = ctx.needs_input_grad
        product = F.linear if torch.is_grad_enabled() else _linear
        rows = gradient.flatten(0, -2)  # [M, N]
        return (
            product(gradient, weight.t()) if of_input else None,
            product(rows.t(), input.flatten(0, -2).t()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
