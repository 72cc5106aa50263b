"""Differences between two ways of training, over seeds: 95 % intervals by Student's t on the differences of equal seeds.

From one seed nothing is claimed: the numbers and their direction are shown, and the claim is not testable here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vitreg.experiments.experiment import Says
from vitreg.experiments.outliers import without_outliers
from vitreg.quantities import number
from vitreg.records.reproduction import Claim, Measured, TrainedAs

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What is compared, and what must be true of the difference.

    Args:
        name: of the number. unit: as it stands behind the number.
        lower: whether less is better; a gain is then what the number loses.
        least: the gain of which the whole interval must lie above: 0 for better, below 0 for not worse.
        expected: the paper's gain; an interval below it that holds `least` says that there is no such gain here.
    """

    name: str
    unit: str = ""
    lower: bool = False
    least: float = 0.0
    expected: float | None = None


def student(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean by Student's t.

    >>> mean(differences) +- t(0.975, n - 1) * std(differences, ddof=1) / sqrt(n)

    Raises:
        ValueError: for fewer than two.
    """
    if len(differences) < 2:
        raise ValueError("one difference has no interval")
    from scipy.stats import t

    values = np.asarray(differences, np.float64)
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def over_seeds(
    says: Says, subject: str, own: Sequence[Measured], other: Sequence[Measured], compared: Compared
) -> Claim:
    """Judge a gain over the seeds that both sides have.

    Args:
        own, other: the same model in two ways, one for each seed.
    """
    failed = next((each.failed for each in (*own, *other) if each.failed), "")
    pairs = [
        (mine, theirs)
        for mine, theirs in zip(_by_seed(own, compared), _by_seed(other, compared), strict=True)
        if mine is not None and theirs is not None
    ]
    if not pairs:
        return says.outcome(subject, None, failed or "It was not measured.")
    sign = -1 if compared.lower else 1
    gains = [sign * (mine - theirs) for mine, theirs in pairs]
    gain = float(np.mean(gains))
    mine, theirs = np.mean(pairs, axis=0)
    unit = f" {compared.unit}" if compared.unit else ""
    words = f"{number(float(mine))}{unit} against {number(float(theirs))}{unit}"
    if len(pairs) == 1:
        return says.outcome(
            subject, None, f"One seed, from which nothing is claimed: {words}, a gain of {_signed(gain)}.", gain
        )
    low, high = student(gains)
    words = f"{words}; gain {_signed(low)} to {_signed(high)} over {len(pairs)} seeds"
    held: bool | None = low > compared.least
    if not held and high > compared.least and (compared.expected is None or high >= compared.expected):
        held, words = None, f"{words}, which is too wide to tell"
    return says.outcome(subject, held, f"{words}.", gain, (low, high))


def fewer_outliers(says: Says, subject: str, own: Sequence[Measured], other: Sequence[Measured]) -> Claim:
    """Judge whether outliers fall, over the seeds; where the other way of training gives none, there is nothing to remove."""
    for each in (found for found in other if not found.failed):
        absent = without_outliers(says, each)
        if absent is not None:
            held = False if absent.outcome == "not held" else None
            return says.outcome(subject, held, f"{each.subject}: {absent.reason}")
    return over_seeds(says, subject, own, other, Compared(name="outlier_percent", unit="%", lower=True))


def _by_seed(measured: Sequence[Measured], compared: Compared) -> list[float | None]:
    return [each.numbers.get(compared.name) for each in measured]


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def chosen(measured: Sequence[Measured], which: Callable[[TrainedAs], bool]) -> dict[int, Measured]:
    """Return what was trained here and is chosen, by its seed."""
    return {each.trained.seed: each for each in measured if each.trained is not None and which(each.trained)}


def paired(
    measured: Sequence[Measured], own: Callable[[TrainedAs], bool], other: Callable[[TrainedAs], bool]
) -> tuple[list[Measured], list[Measured]]:
    """Return two ways of training, of the seeds that both have, in the same order."""
    mine, theirs = chosen(measured, own), chosen(measured, other)
    seeds = sorted(mine.keys() & theirs.keys())
    return [mine[seed] for seed in seeds], [theirs[seed] for seed in seeds]


def with_registers(recipe: str, registers: int) -> Callable[[TrainedAs], bool]:
    """Choose the models of a recipe with so many registers, of the scale's own size and without other changes."""
    return lambda held: (
        (held.recipe, held.registers, held.size, held.decorrelation, held.slots) == (recipe, registers, "", 0.0, False)
    )
