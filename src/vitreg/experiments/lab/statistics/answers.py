"""What a design answers: which changes prevent artifacts, what comes first, what kind of sink they are, what registers change.

An answer is decided only where its interval says so; a question whose runs a design does not have is left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from vitreg.experiments.lab.design import is_registers
from vitreg.experiments.lab.statistics.contrasts import Contrast, mean_interval
from vitreg.experiments.lab.statistics.found import BROADCAST, NO_OP, Found, changed, interval
from vitreg.experiments.lab.statistics.later import later
from vitreg.experiments.lab.statistics.onsets import onsets
from vitreg.experiments.lab.statistics.tokens import elsewhere, holding, sharing
from vitreg.quantities import number, percent
from vitreg.records.lab import Answer, Course, Effect, Estimate


def answers_of(found: Found) -> list[Answer]:
    """Return the answers that there are."""
    ask: tuple[Callable[[Found], Answer | None], ...] = (
        necessary, onsets, order, kind, elsewhere, earlier, taken, holding, sharing, later,
    )  # fmt: skip
    return [answer for each in ask if found.base is not None and (answer := each(found)) is not None]


def necessary(found: Found) -> Answer | None:
    """Say with which changes no artifacts came, and with which they came all the same."""
    rows = found.changes()
    base = found.cells[found.base or 0]
    if base.artifacts is None or not rows:
        return None
    never, still, open_ = list[Effect](), list[Effect](), list[Effect]()
    for each in rows:
        share, ratio = found.cells[each.cells[0][0]].artifacts, each.measures.get("ratio")
        if share and not share.hits and ratio and ratio.decided and ratio.value < 1:
            never.append(each)
        else:
            (still if share and share.hits == share.of else open_).append(each)
    parts = [f"Without a change artifacts came in {base.artifacts.hits} of {base.artifacts.of} runs"]
    parts += [f"in none with {_shares(found, never)}"] if never else []
    parts += [f"in all with {_shares(found, still)}"] if still else []
    parts += [f"undecided: {_shares(found, open_)}"] if open_ else []
    return Answer(
        question="What do artifacts need?", sentence="; ".join(parts) + ".", decided=bool(never or still),
        cells=[found.base or 0, *(each.cells[0][0] for each in rows)],
    )  # fmt: skip


def _shares(found: Found, rows: Sequence[Effect]) -> str:
    """Return changes in words; those with the same share of runs stand together."""
    together: dict[str, list[str]] = {}
    for each in rows:
        share = found.cells[each.cells[0][0]].artifacts
        of = "no run past its onset"
        if share is not None:
            of = f"{share.hits} of {share.of}, {percent(share.low)} to {percent(share.high)}"
        together.setdefault(of, []).append(changed(each))
    return ", ".join(f"{', '.join(names)} ({share}{' each' * (len(names) > 1)})" for share, names in together.items())


def order(found: Found) -> Answer | None:
    """Say which comes first: the norms, the attention, the fall of the error. Each at half of its way."""
    times = [
        times_of(run.course)
        for run in found.of(found.base)
        if run.course and run.onset is not None and run.solved is not None
    ]
    known = [
        (norm, mass, error)
        for norm, mass, error in times
        if norm is not None and mass is not None and error is not None
    ]
    if len(known) < 2:
        return None
    gaps = {
        ("the norms", "the attention"): [norm - mass for norm, mass, _ in known],
        ("the norms", "the error"): [norm - error for norm, _, error in known],
        ("the attention", "the error"): [mass - error for _, mass, error in known],
    }
    # Times of two courses are each known to the step between two looks.
    intervals = {names: mean_interval(each, found.rounding * math.sqrt(2)) for names, each in gaps.items()}
    said = [_first(names, each) for names, each in intervals.items()]
    numbers: dict[str, float | None] = {}
    for (one, other), each in intervals.items():
        numbers |= {f"{one} after {other}, steps": each.value, f"{one} after {other}, low": each.low}
        numbers |= {f"{one} after {other}, high": each.high}
    return Answer(
        question="What comes first?", sentence=f"In {len(known)} runs, at half of the way: {'; '.join(said)}.",
        decided=all(not _around_0(each) for each in intervals.values()), numbers=numbers, cells=[found.base or 0],
    )  # fmt: skip


def times_of(course: Course) -> tuple[float | None, float | None, float | None]:
    """Return the steps at which norms, attention into the background and error are half way from their start to their end.

    Norms and error by their logarithms; the end is the largest norm, the most attention, the least error.
    """
    norms = [math.log(each) if each > 0 else None for each in course.ratio]
    errors = [-math.log(each) if each else None for each in course.error]
    return half_way(course.looks, norms), half_way(course.looks, course.background), half_way(course.evaluated, errors)


def half_way(steps: Sequence[int], values: Sequence[float | None]) -> float | None:
    """Return the step at which a course first is half way from its first value to its largest, between two by a straight line."""
    known = [
        (step, value) for step, value in zip(steps, values, strict=True) if value is not None and math.isfinite(value)
    ]
    if len(known) < 2 or max(value for _, value in known) <= known[0][1]:
        return None
    half = (known[0][1] + max(value for _, value in known)) / 2
    for (step, value), (after, more) in itertools.pairwise(known):
        if more >= half:
            return step + (after - step) * (half - value) / (more - value)
    return None


def _around_0(found: Contrast) -> bool:
    return found.low is None or found.high is None or found.low <= 0 <= found.high


def _first(names: tuple[str, str], found: Contrast) -> str:
    interval = "" if found.low is None or found.high is None else f", {found.low:,.0f} to {found.high:,.0f}"
    if _around_0(found):
        return f"{names[0]} and {names[1]} undecided ({found.value:+,.0f} steps{interval})"
    first, later = names if found.value < 0 else names[::-1]
    return f"{first} before {later} ({found.value:+,.0f} steps{interval})"


def kind(found: Found) -> Answer | None:
    """Say whether the artifacts are no-ops or broadcasters, by their values."""
    runs = [run for run in found.of(found.base) if run.outcome == "artifacts" and run.background]
    values = [run.background.values for run in runs if run.background and run.background.values is not None]
    if len(values) < 2:
        return None
    mean = mean_interval(values)
    words, decided = "undecided between a no-op and a broadcaster", False
    if mean.high is not None and mean.high < NO_OP:
        words, decided = "a no-op: looking at it adds nothing", True
    elif mean.low is not None and mean.low > BROADCAST:
        words, decided = "a broadcaster: others read it", True
    return Answer(
        question="Are artifacts no-ops or broadcasters?", decided=decided, cells=[found.base or 0],
        sentence=f"The background's values are {interval(mean)} of the mean of all at the end of {len(values)} runs: {words}.",
        numbers={"values": mean.value, "low": mean.low, "high": mean.high},
    )  # fmt: skip


def earlier(found: Found) -> Answer | None:
    """Say whether the error falls earlier, and lower, with registers."""
    rows = [each for each in found.changes() if is_registers(each.factor)]
    said, decided, numbers = [], [], dict[str, float | None]()
    for row in rows:
        solved, error = row.measures.get("solved"), row.measures.get("error")
        if solved is None or error is None:
            continue
        steps = f"{abs(solved.value):,.0f} steps {'earlier' if solved.value < 0 else 'later'}{_range(solved, ',.0f')}"
        lower = f"ends at {number(error.value)} times the error{_range(error, '.3g')}"
        said.append(f"with {changed(row)} it falls {steps} and {lower}")
        decided += [solved.decided, error.decided]
        for name, each in (("earlier", solved), ("lower", error)):
            numbers |= {
                f"{row.level} {name}": each.value,
                f"{row.level} {name}, low": each.low,
                f"{row.level} {name}, high": each.high,
            }
    if not said:
        return None
    return Answer(
        question="Does the error fall earlier and lower with registers?", decided=any(decided), numbers=numbers,
        sentence="Against no change, " + "; ".join(said) + ".", cells=[cell for row in rows for cell in row.cells[0]],
    )  # fmt: skip


def _range(each: Estimate, form: str) -> str:
    interval = "" if each.low is None or each.high is None else f"{each.low:{form}} to {each.high:{form}}, "
    return f" ({interval}{'decided' if each.decided else 'undecided'})"


def taken(found: Found) -> Answer | None:
    """Say how much of the attention registers take, in runs that solved the task."""
    said, cells, numbers = [], [], dict[str, float | None]()
    for row in (each for each in found.changes() if is_registers(each.factor)):
        cell = row.cells[0][0]
        runs = [run for run in found.of(cell) if run.solved is not None and run.registers_hold is not None]
        shares = [run.registers_hold.attention for run in runs if run.registers_hold]
        if len(shares) < 2:
            continue
        mean = mean_interval(shares)
        said.append(f"{changed(row)} {interval(mean)}")
        cells.append(cell)
        numbers |= {row.level: mean.value, f"{row.level}, low": mean.low, f"{row.level}, high": mean.high}
    if not said:
        return None
    return Answer(
        question="How much of the attention do registers take?", decided=True, numbers=numbers, cells=cells,
        sentence=f"At the end, in the block that gives them most: {'; '.join(said)}.",
    )  # fmt: skip
