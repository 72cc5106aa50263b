"""Answers about tokens: what registers hold, whether several share the work, and where attention goes without artifacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vitreg.experiments.lab.design import is_registers
from vitreg.experiments.lab.statistics.contrasts import Contrast, mean_interval
from vitreg.experiments.lab.statistics.found import BROADCAST, NO_OP, Found, changed, interval
from vitreg.quantities import number, percent
from vitreg.records.lab import Answer, DesignRun, Effect

SINK = 0.3
"""Attention that a sink takes at least, of an average patch; as `vitreg.verbs.scan.taking` has it for single heads."""
SEVERAL = 1.5
"""Effective number of registers from which several share the work: one of two that has 14 % of it."""
MAJORITY = 0.5
UNDECIDED = "undecided between a no-op and a broadcaster"
NAMES = {"marked": "a marked tile", "unmarked": "an unmarked tile", "register": "a register", "cls": "CLS"}
Of = Callable[[DesignRun], float | None]
Numbers = dict[str, float | None]


def holding(found: Found) -> Answer | None:
    """Say what registers hold: their values and norms, in the block that gives them most attention."""
    said, cells, numbers, decided = list[str](), list[int](), Numbers(), list[bool]()
    for row in _with_registers(found):
        runs = found.solved(row.cells[0][0])
        values = _mean(runs, lambda run: run.registers_hold and run.registers_hold.values)
        norms = _mean(runs, lambda run: run.registers_hold and run.registers_hold.norm)
        if values is None:
            continue
        kind = _kind(values)
        norm = "" if norms is None else f" and norms {interval(norms)} times the median patch"
        said.append(
            f"{changed(row)} {'has' if row.level == '1' else 'have'} values {interval(values)} of the mean of all{norm}, {kind}"
        )
        decided.append(kind != UNDECIDED)
        cells += row.cells[0]
        numbers |= _numbers(f"{row.level} values", values) | (_numbers(f"{row.level} norm", norms) if norms else {})
    if not said:
        return None
    return Answer(
        question="What do registers hold?", decided=all(decided), numbers=numbers, cells=cells,
        sentence=f"At the end, in the block that gives them most attention: {'; '.join(said)}.",
    )  # fmt: skip


def _kind(values: Contrast) -> str:
    """Return what values say: an interval below 0.2 is a no-op, above 0.5 a broadcaster."""
    if values.high is not None and values.high < NO_OP:
        return "a no-op: looking at them adds nothing"
    if values.low is not None and values.low > BROADCAST:
        return "a broadcaster: others read them"
    return UNDECIDED


def sharing(found: Found) -> Answer | None:
    """Say whether several registers share the work: the share of the largest, and their effective number."""
    said, cells, numbers, decided = list[str](), list[int](), Numbers(), list[bool]()
    for row in _with_registers(found):
        runs = [run for run in found.solved(row.cells[0][0]) if run.registers > 1]
        number_of = _mean(runs, lambda run: run.registers_share and run.registers_share.effective)
        largest = _mean(runs, lambda run: run.registers_share and run.registers_share.largest)
        in_a_head = _mean(runs, lambda run: run.registers_share and run.registers_share.in_a_head)
        if number_of is None or largest is None:
            continue
        several = number_of.low is not None and number_of.low > SEVERAL
        alone = number_of.high is not None and number_of.high < SEVERAL
        words = "several share the work" if several else "one does it" if alone else "undecided"
        head = "" if in_a_head is None else f", within a head of an image {interval(in_a_head)}"
        said.append(
            f"of {changed(row)} the largest takes {interval(largest)} of what all take, their effective number is "
            f"{interval(number_of)}{head}: {words}"
        )
        decided.append(several or alone)
        cells += row.cells[0]
        numbers |= _numbers(f"{row.level} largest", largest) | _numbers(f"{row.level} effective", number_of)
    if not said:
        return None
    return Answer(
        question="Do several registers share the work?", decided=all(decided), numbers=numbers, cells=cells,
        sentence=f"At the end, in the block that gives them most attention: {'; '.join(said)}.",
    )  # fmt: skip


TAKERS: dict[str, tuple[Of, Of]] = {
    "the background": (
        lambda run: run.background and run.background.attention, lambda run: run.background and run.background.values,
    ),
    "the registers": (
        lambda run: run.registers_hold and run.registers_hold.attention,
        lambda run: run.registers_hold and run.registers_hold.values,
    ),
    "one foreground tile": (
        lambda run: run.foreground and run.foreground.attention, lambda run: run.foreground and run.foreground.values,
    ),
    "CLS": (
        lambda run: run.most and run.most.attention if _is_cls(run) else None,
        lambda run: run.most and run.most.values if _is_cls(run) else None,
    ),
}  # fmt: skip
"""What can be a sink: its attention and its values. CLS where it is the most attended token of most images."""


def _is_cls(run: DesignRun) -> bool:
    return run.most is not None and run.most.kinds.get("cls", 0.0) > MAJORITY


def elsewhere(found: Found) -> Answer | None:
    """Say, of the changes without artifacts other than registers, whether there is a sink all the same, which, and what its values are."""
    said, cells, numbers, decided = list[str](), list[int](), Numbers(), list[bool]()
    for row in found.changes():
        cell = row.cells[0][0]
        share = found.cells[cell].artifacts
        runs = [run for run in found.solved(cell) if run.foreground is not None]
        if share is None or share.hits or len(runs) < 2 or is_registers(row.factor):
            continue
        sinks, below, known = list[str](), True, list[str]()
        for name, (attention, values) in TAKERS.items():
            mean, value = _mean(runs, attention), _mean(runs, values)
            if mean is None:
                continue
            below = below and mean.high is not None and mean.high < SINK
            of = "" if value is None else f", with values {interval(value)} of the mean"
            if mean.low is not None and mean.low > SINK:
                sinks.append(f"{name} ({interval(mean)} of the attention{of})")
            known.append(f"{name} {interval(mean)}")
            numbers |= _numbers(f"{changed(row)}, {name}", mean)
        words = f"a sink in {' and in '.join(sinks)}" if sinks else "no sink" if below else "undecided"
        of_all = "" if sinks else f" ({', '.join(known)})"
        said.append(f"with {changed(row)} {words}{of_all}{_most(runs)}")
        decided.append(bool(sinks) or below)
        cells.append(cell)
    if not said:
        return None
    return Answer(
        question="Is there a sink without artifacts?", decided=all(decided), numbers=numbers, cells=cells,
        sentence=f"In runs without artifacts, at the end, in the block that gives each most: {'; '.join(said)}. "
        f"A sink takes at least {number(SINK)} of an average patch's attention.",
    )  # fmt: skip


def _most(runs: Sequence[DesignRun]) -> str:
    """Return of which kind the most attended token mostly is."""
    kinds: dict[str, float] = {}
    for run in runs:
        for kind, share in (run.most.kinds if run.most else {}).items():
            kinds[kind] = kinds.get(kind, 0.0) + share / len(runs)
    if not kinds:
        return ""
    first = max(kinds, key=lambda kind: kinds[kind])
    return f", the most attended token is {NAMES.get(first, first)} in {percent(kinds[first])} of the images"


def _with_registers(found: Found) -> list[Effect]:
    return [each for each in found.changes() if is_registers(each.factor)]


def _mean(runs: Sequence[DesignRun], of: Of) -> Contrast | None:
    """Return the mean of what runs have, with its interval; None of fewer than two."""
    values = [value for run in runs if (value := of(run)) is not None]
    return mean_interval(values) if len(values) > 1 else None


def _numbers(name: str, mean: Contrast) -> Numbers:
    return {name: mean.value, f"{name}, low": mean.low, f"{name}, high": mean.high}
