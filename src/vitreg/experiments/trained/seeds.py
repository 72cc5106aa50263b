"""Differences between two ways of training, over seeds: 95 % intervals by Student's t on the differences of equal seeds.

From fewer than three seeds nothing is claimed: the numbers and their direction are shown, and the claim is not testable here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vitreg.experiments.experiment import Says
from vitreg.experiments.outliers import TENTH, absence
from vitreg.quantities import count, number, percent
from vitreg.records.reproduction import Claim, Measured, TrainedAs

LEVEL = 0.95
FEWEST_SEEDS = 3  # from fewer, of which two always agree or differ, nothing is claimed about trained models


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What is compared, and what must be true of the difference.

    Args:
        name: of the number. unit: as it stands behind the number.
        lower: whether less is better; a gain is then what the number loses.
        least: the gain of which the whole interval must lie above: 0 for better, below 0 for not worse.
        controls: how the names of its controls begin in the numbers; empty for what is no probe. A probe must beat them.
        either: whether it is enough if one of the two models beats them, as for a gain; else the one without the change must.
    """

    name: str
    unit: str = ""
    lower: bool = False
    least: float = 0.0
    controls: str = ""
    either: bool = False


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
        (mine, theirs) for mine, theirs in zip(own, other, strict=True)
        if mine.numbers.get(compared.name) is not None and theirs.numbers.get(compared.name) is not None
    ]  # fmt: skip
    if not pairs:
        return says.outcome(subject, None, failed or "It was not measured.")
    mine, theirs = ([each.numbers[compared.name] or 0.0 for each in side] for side in zip(*pairs, strict=True))
    sign = -1 if compared.lower else 1
    gains = [sign * (one - two) for one, two in zip(mine, theirs, strict=True)]
    unit = f" {compared.unit}" if compared.unit else ""
    knows, control = _beats_control(pairs, compared) if compared.controls else (True, "")
    words = f"{number(float(np.mean(mine)))}{unit} against {number(float(np.mean(theirs)))}{unit}{control}"
    return of_seeds(
        says, subject, gains, words + "; gain {}", above=compared.least, sign=_signed, barred="" if knows else NO_BETTER
    )


NO_BETTER = "The probe is not shown to beat its control, so nothing can be lost or gained"


def of_seeds(
    says: Says, subject: str, values: Sequence[float], words: str, *, above: float | None = None, below: float | None = None,
    sign: Callable[[float], str] = number, barred: str = "",
) -> Claim:  # fmt: skip
    """Judge numbers of seeds by Student's interval of their mean; fewer than three decide nothing.

    Args:
        words: what they are, with {} for mean or interval. sign: writes a number. barred: why they decide nothing all the same.
    """
    mean, few = float(np.mean(values)), len(values) < FEWEST_SEEDS
    if few:
        words = f"{count(len(values), 'seed')}, and from fewer than {FEWEST_SEEDS} nothing is claimed: {words.format(sign(mean))}"
        ends = None
    else:
        ends = student(values)
        words = words.format(f"{sign(ends[0])} to {sign(ends[1])}") + f" over {len(values)} seeds"
    if few or barred:
        reason = f"{words}. {barred}." if barred else f"{words}."
        return says.outcome(subject, None, reason, mean, ends or (None, None), above=above, below=below)
    return says.decided(subject, mean, ends, words, above=above, below=below, write=sign, of="seeds")


def _beats_control(pairs: Sequence[tuple[Measured, Measured]], compared: Compared) -> tuple[bool, str]:
    """Say whether a probe knows more than its best control, over the seeds, and name that control with its number.

    Of fewer than three seeds the mean decides, which then decides nothing else.
    """
    sign = -1 if compared.lower else 1
    sides = [[each[place] for each in pairs] for place in ((0, 1) if compared.either else (1,))]
    if any(best_control(each.numbers, compared) is None for side in sides for each in side):
        return False, " (the record holds no control)"
    beaten, named = [], []
    for side in sides:
        best = [best_control(each.numbers, compared) or ("", 0.0) for each in side]
        over = [
            sign * ((each.numbers[compared.name] or 0.0) - control)
            for each, (_, control) in zip(side, best, strict=True)
        ]
        beaten.append((student(over)[0] if len(over) >= FEWEST_SEEDS else float(np.mean(over))) > 0)
        named.append((float(np.mean([control for _, control in best])), best[0][0]))
    value, name = (min if compared.lower else max)(named)
    unit = f" {compared.unit}" if compared.unit else ""
    return any(beaten), f" (control: {number(value)}{unit}, {name})"


def best_control(numbers: Mapping[str, float | None], compared: Compared) -> tuple[str, float] | None:
    """Return the name and the number of the control that is hardest to beat; None where there is none."""
    held = {
        name.removeprefix(compared.controls): value
        for name, value in numbers.items() if name.startswith(compared.controls) and value is not None
    }  # fmt: skip
    best = (min if compared.lower else max)(held, key=lambda name: held[name], default=None)
    return None if best is None else (best, held[best])


def outliers_gone(says: Says, subject: str, own: Sequence[Measured], other: Sequence[Measured]) -> Claim:
    """Judge whether (almost) no outliers are left, over the seeds in which the other way of training gives some.

    Almost none is a tenth. Where none are found, the scan must have been able to see a tenth of what the other model has.
    """
    failed = next((each.failed for each in (*own, *other) if each.failed), "")
    pairs = [both for both in zip(own, other, strict=True) if not any(each.failed for each in both)]
    if not pairs:
        return says.outcome(subject, None, failed or "It was not measured.")
    having = [both for both in pairs if both[1].numbers["outliers"]]
    absent = [(theirs.subject, *absence(theirs)) for _, theirs in pairs if not theirs.numbers["outliers"]]
    if len(having) < FEWEST_SEEDS <= len(pairs) or not having:
        seen = all(sure for _, sure, _ in absent)
        nothing = not having and seen and len(pairs) >= FEWEST_SEEDS
        found = f"Of {count(len(pairs), 'seed')} {len(having)} have outliers without registers"
        few = "" if len(pairs) >= FEWEST_SEEDS else f", and from fewer than {FEWEST_SEEDS} nothing is claimed"
        return says.outcome(subject, False if nothing else None, f"{found}{few}. {absent[0][0]}: {absent[0][2]}.")
    for mine, theirs in having:
        sure, words = absence(mine, TENTH * (theirs.numbers["outlier_percent"] or 0.0) / 100)
        if not mine.numbers["outliers"] and not sure:
            return says.outcome(subject, None, f"{mine.subject}: {words}.")
    left = [_left(mine) / (theirs.numbers["outlier_percent"] or 1.0) for mine, theirs in having]
    shares = [float(np.mean([each[place].numbers["outlier_percent"] or 0.0 for each in having])) for place in (0, 1)]
    words = f"{number(shares[0])} % of the patches are outliers instead of {number(shares[1])} %; left of them " + "{}"
    return of_seeds(says, subject, left, words, below=TENTH, sign=percent)


def _left(found: Measured) -> float:
    return (found.numbers["outlier_percent"] or 0.0) if found.numbers["outliers"] else 0.0


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
