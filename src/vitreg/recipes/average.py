"""An exponential moving average of a network's weights, kept beside it."""

from __future__ import annotations

import copy

import torch
from torch import nn

from vitreg.recipes.foreign import Network


@torch.no_grad()
def move_towards(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """Set every weight of `target` to momentum * itself + (1 - momentum) * that of `source` (DINOv2: the teacher)."""
    torch._foreach_lerp_(list(target.parameters()), [p.detach() for p in source.parameters()], 1 - momentum)


class Average(nn.Module):
    """The averaged copy of a network, or nothing where no momentum is given.

    Args:
        network: what is averaged; the copy starts equal and is never trained.
        momentum: share of the old average kept at each step; None keeps no copy.
    """

    network: Network | None

    def __init__(self, network: Network, momentum: float | None) -> None:
        super().__init__()
        self.momentum = momentum
        self.network = None if momentum is None else copy.deepcopy(network).requires_grad_(False)
        self.eval()

    def start_at(self, network: Network) -> None:
        """Set the average to the network's present weights."""
        if self.network is not None:
            move_towards(self.network, network, 0.0)

    def follow(self, network: Network) -> None:
        """Move the average a step towards the network."""
        if self.network is not None and self.momentum is not None:
            move_towards(self.network, network, self.momentum)

    def train(self, mode: bool = True) -> Average:
        """Stay in evaluation mode."""
        return super().train(False)
