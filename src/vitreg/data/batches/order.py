"""Which sample stands at which position of a run: a pure function of the seed.

A run is one sequence of positions over all its epochs, cut into steps. Nothing here stores a run's progress.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

# Official DeiT drops what its repeated augmentation leaves over 256 samples.
_WHOLE = 256


class Place(NamedTuple):
    """The sample at a position, its epoch, and the number of its repeat (`draw`)."""

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # a place has no use for tuple.index
    epoch: int
    draw: int


@dataclass(slots=True)
class Order:
    """An endless order of epochs, each of them a new permutation.

    With `repeats` above 1 this is DeiT's repeated augmentation (Hoffer et al. 2020): each sample occurs `repeats` times
    in a row, and an epoch has as many positions as there are samples, so it shows only some of them. Like DeiT's
    sampler, it then has floor(length / 256) * 256 positions; a set below 256 keeps its length. DeiT deals positions to
    processes in turn, so copies of a sample are on different processes; here they are adjacent in the global batch.

    Args:
        length: samples in the set.
        seed: of the permutations.
        repeats: copies in a row.
        shuffle: without it every epoch goes through the set from its start.
    """

    length: int
    seed: int
    repeats: int = 1
    shuffle: bool = True
    _permutations: dict[int, Int64[np.ndarray, " n"]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.length < 1 or self.repeats < 1 or self.seed < 0:
            raise ValueError(f"length {self.length} and repeats {self.repeats} start at 1, seed {self.seed} at 0")

    @property
    def epoch_length(self) -> int:
        """Positions of one epoch."""
        if self.repeats == 1 or self.length < _WHOLE:
            return self.length
        return self.length // _WHOLE * _WHOLE

    def at(self, position: int) -> Place:
        """Return what stands at a position of the run.

        Raises:
            ValueError: for a negative position.
        """
        if position < 0:
            raise ValueError(f"position {position} lies before the run")
        epoch, offset = divmod(position, self.epoch_length)
        rank, draw = divmod(offset, self.repeats)
        return Place(int(self._permutation(epoch)[rank]) if self.shuffle else rank, epoch, draw)

    def _permutation(self, epoch: int) -> Int64[np.ndarray, " n"]:
        """Sort random keys: numpy guarantees the bits of Philox across versions, but not its shuffles."""
        if epoch not in self._permutations:
            keys = np.random.Philox(np.random.SeedSequence([self.seed, epoch])).random_raw(self.length)
            while len(self._permutations) > 1:  # a batch may span two epochs
                del self._permutations[min(self._permutations)]
            self._permutations[epoch] = np.argsort(keys, kind="stable")
        return self._permutations[epoch]
