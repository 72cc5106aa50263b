"""Sums, means and gathers over the processes of a run; each is the identity where there is only one.

The losses that compare samples of different processes (CLIP, Sinkhorn-Knopp, centres) go through here, so they read the
same on one process and on many.
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
    """Add up what every process holds under this name; no gradient passes."""
    return _reduce(x, dist.ReduceOp.SUM)


def max_over_processes(x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Take the elementwise maximum of what every process holds under this name; no gradient passes."""
    return _reduce(x, dist.ReduceOp.MAX)


def gather_over_processes(x: Shaped[Tensor, "n *rest"]) -> Shaped[Tensor, "all_n *rest"]:
    """Stack the rows of all processes in the order of their ranks, with the exact gradient.

    Every process must bring as many rows. A row gets the sum of the gradients that the losses of all processes send to
    it. DDP then averages over processes, so weights get the gradient of the mean of these losses.
    """
    return x if processes() == 1 else _Gather.apply(x)  # pyright: ignore[reportReturnType]


def _reduce(x: Tensor, operation: Any) -> Tensor:
    """Reduce a copy, so that the caller keeps what this process holds."""
    x = x.detach()
    if processes() > 1:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, operation)
    return x


class _Gather(torch.autograd.Function):
    """All rows forward; backward the sum over processes of the gradients of the own rows."""

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
