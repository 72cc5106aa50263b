"""The teacher's logits as targets: by Sinkhorn-Knopp, or by subtracting a running centre (DINO, iBOT, DINOv2).

Both prevent collapse to one output, and both use the samples of all processes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.machine.reduce import max_over_processes, sum_over_processes
from vitreg.recipes.losses import full_precision


@torch.no_grad()
@full_precision
def sinkhorn(logits: Float[Tensor, "N K"], temperature: float, iterations: int = 3) -> Float[Tensor, "N K"]:
    """Spread N samples, of all processes together, evenly over K prototypes (Caron et al. 2020, SwAV; DINOv2).

    >>> Q = exp(logits / temperature)
    >>> Q = Q / Q.sum()
    >>> for _ in range(iterations):
    ...     for k in range(K): Q[:, k] = Q[:, k] / Q[:, k].sum() / K     # every prototype weighs the same
    ...     for n in range(N): Q[n] = Q[n] / Q[n].sum() / N              # every sample weighs the same
    >>> return N * Q

    The loop's total, K and N cancel, since each row or column is divided by its sum right after. So the number of
    samples is not needed, and processes may have different numbers of them, or none.

    Returns:
        targets of this process's samples, each of sum 1; prototypes weigh the same only approximately.
    """
    scores = logits / temperature  # [N, K]
    # A prototype's largest score cancels in the first division by its sum, and without it exp could overflow. One
    # number for all prototypes would cancel too, but lets a prototype far below the others vanish and divide by 0.
    top = scores.amax(0) if len(scores) else scores.new_full(scores.shape[1:], -torch.inf)  # [K]
    q = scores.sub_(max_over_processes(top)).exp_()  # [N, K]
    smallest = torch.finfo(q.dtype).tiny  # no sample's sum is smaller unless all its scores are hopeless
    for _ in range(iterations):
        q /= sum_over_processes(q.sum(0))
        q /= q.sum(1, keepdim=True).clamp(min=smallest)
    return q


@torch.no_grad()
@full_precision
def softmax_centring(
    logits: Float[Tensor, "N K"], centre: Float[Tensor, "K"], temperature: float
) -> Float[Tensor, "N K"]:
    """Subtract the running mean of the logits and sharpen (Caron et al. 2021, DINO).

    >>> for n in range(N):
    ...     targets[n] = softmax((logits[n] - centre) / temperature)
    """
    return torch.softmax((logits - centre) / temperature, dim=-1)


@torch.no_grad()
def update_centre(
    centre: Float[Tensor, "K"], total: Float[Tensor, "K"], weight: Float[Tensor, ""], momentum: float = 0.9
) -> Float[Tensor, "K"]:
    """Return the centre moved towards the mean logits of all processes; it stays where there were none.

    >>> mean = sum(total over processes) / sum(weight over processes)
    >>> return momentum * centre + (1 - momentum) * mean

    If a process passes the sum and number of its rows, each row counts the same. Official iBOT averages the masked
    patches per GPU and then over GPUs, although their numbers differ, so its mean depends on the number of processes.
    To reproduce it independently of processes, weigh each row by 1 / (rows of its group).

    Args:
        total: weighted sum of the logits that this process saw since the last time.
        weight: sum of the weights of these.
        momentum: share of the old centre that stays.
    """
    both = sum_over_processes(torch.cat([total, weight.to(total).reshape(1)]))  # [K + 1], in one exchange
    total, weight = both[:-1], both[-1]
    # No comparison in Python: it would synchronise with the device.
    mean = torch.where(weight > 0, total / weight, centre)
    return torch.lerp(mean, centre, momentum)
