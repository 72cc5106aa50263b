"""Sums, means and gathers over the processes of a run; each is the identity where there is only one.

Losses that compare samples of different processes (CLIP, Sinkhorn-Knopp, centres) use these, so their code is the same
on one process and on many.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable


def processes() -> int:
    """Return how many processes share the batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, 0 for the first."""
    return dist.get_rank() if dist.is_initialized() else 0


def sum_over_processes(x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Sum a tensor over processes; no gradient passes."""
    return _reduce(x, dist.ReduceOp.SUM)


def max_over_processes(x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Take the elementwise maximum over processes; no gradient passes."""
    return _reduce(x, dist.ReduceOp.MAX)


def gather_over_processes(x: Shaped[Tensor, "n *rest"]) -> Shaped[Tensor, "all_n *rest"]:
    """Stack the rows of all processes in the order of their ranks, with the exact gradient.

    Every process must have the same number of rows. A row's gradient is the sum over the losses of all processes. DDP
    then averages over processes, so weights get the gradient of the mean loss.
    """
    return x if processes() == 1 else _Gather.apply(x)  # pyright: ignore[reportReturnType]


def _reduce(x: Tensor, operation: Any) -> Tensor:
    """Reduce a copy; the caller's tensor stays."""
    x = x.detach()
    if processes() > 1:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, operation)
    return x


class _Gather(torch.autograd.Function):
    """Forward: all rows. Backward: the gradients of this process's rows, summed over processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return [processes * n, ...]."""
        ctx.rows = len(x)
        gathered = x.new_empty(processes() * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(gathered, x.contiguous())  # pyright: ignore[reportDeprecated]  # only in the types of newer versions
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return [n, ...]."""
        # A sum and a cut instead of a reduce-scatter, which gloo did not always have; these are features, not weights.
        total = sum_over_processes(gradient)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]
