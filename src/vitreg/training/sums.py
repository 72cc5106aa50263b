"""The sums of the training loop between two lines of its journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(slots=True)
class Sums:
    """Metrics of the steps since the last line of the journal, and the seconds they took, part of them for data."""

    steps: int = 0
    waited: float = 0.0
    spent: float = 0.0
    values: dict[str, float] = field(default_factory=dict)

    def add(self, metrics: Mapping[str, Tensor], waited: float, spent: float) -> None:
        """Count a step."""
        self.steps += 1
        self.waited += waited
        self.spent += spent
        for key, value in metrics.items():
            self.values[key] = self.values.get(key, 0.0) + float(value)

    def means(self) -> dict[str, float]:
        """Return the mean of each metric."""
        return {key: value / self.steps for key, value in self.values.items()}

    @property
    def wait_share(self) -> float:
        """Share of the time spent waiting for data; 0 where the clock stood still."""
        return self.waited / self.spent if self.spent > 0 else 0.0

    def rate(self, batch: int) -> float | None:
        """Images per second, None where the clock stood still."""
        return self.steps * batch / self.spent if self.spent > 0 else None


def mean_of(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average over the processes."""
    return {key: sum(part[key] for part in parts) / len(parts) for key in parts[0]}
