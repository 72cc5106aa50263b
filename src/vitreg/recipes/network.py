"""The network that a recipe trains, and the recipe that trains one network and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from vitreg.recipes.foreign import Network, network_of
from vitreg.recipes.parameters import ParamGroup, group_parameters
from vitreg.recipes.recipe import Progress, StepOutput
from vitreg.recipes.settings.optim import OptimConfig

__all__ = ["Network", "OneNetwork", "network_of"]


class OneNetwork(nn.Module):
    """A recipe without its loss: it trains and publishes one network, and samples do not interact.

    Subclasses set other trained modules (a head, a decoder) as attributes.

    Args:
        network: what is trained.
        group: consecutive samples that share draws.
    """

    def __init__(self, network: Network, group: int) -> None:
        super().__init__()
        self.network, self.group = network, group

    def forward(self, batch: Any, progress: Progress) -> StepOutput:
        """Return the loss of a batch."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def after_step(self, progress: Progress) -> None:
        """Nothing follows a step."""

    def parameter_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """Sort all that is trained."""
        return group_parameters(self, optim)

    def begin_with(self, fill: Callable[[Any], list[str]]) -> list[str]:
        """Start from other weights."""
        return fill(self.network)

    def backbone(self) -> Network:
        """The network."""
        return self.network

    def why_whole_batch(self) -> str | None:
        """Samples do not interact: any split is exact."""
        return None

    def shards(self) -> list[nn.Module]:
        """The blocks of the network."""
        return [*self.network.blocks]
