"""What the claims of the picture experiments share: numbers of each image, their interval, and the twin without registers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vitreg.analysis.paired import Sums, interval, resamples
from vitreg.experiments.experiment import Says
from vitreg.experiments.maps.seen import CLS, Seen
from vitreg.experiments.outliers import FEWEST, cured, note_of, of_verdict, too_few
from vitreg.quantities import number
from vitreg.records import ScanResult
from vitreg.records.reproduction import Claim, Measured

Values = Sequence[float]
NOT_READ = "Its attention cannot be read."
TWIN = "the last model named before it with its width and depth and no registers"
NO_TWIN = "No network of its width and depth without registers was named before it."
MARGIN = 0.02  # of what the twin has: a smaller difference counts as none (ours)


def measured(
    model: str, scanned: ScanResult, maps: Seen, jobs: Mapping[str, str], series: Mapping[str, np.ndarray]
) -> Measured:
    """Return the numbers of a model: its verdict and shape, and one value for each image.

    Args:
        series: values by name; NaN for an image that says nothing, which the record holds as -1.
    """
    numbers: dict[str, float | None] = {
        **of_verdict(scanned), "registers": float(scanned.model.tokens.get("registers", 0)),
        "width": float(scanned.model.width), "blocks": float(scanned.model.blocks), "images": float(len(maps.names)),
        "cls": float(scanned.model.tokens.get("cls", 0)), "attention": float(CLS in maps.attention),
    }  # fmt: skip
    for name, values in series.items():
        known = values[np.isfinite(values)]
        numbers[name] = float(known.mean()) if len(known) else None
    held = {name: [float(v) if np.isfinite(v) else -1.0 for v in values] for name, values in series.items()}
    note = "; ".join(each for each in (note_of(model), maps.unread.rstrip(".")) if each)
    return Measured(subject=model, note=note, numbers=numbers, series=held, jobs=dict(jobs))


def known(values: Values) -> np.ndarray:
    """Return the values of images that say something: all are at least 0."""
    array = np.asarray(values, dtype=np.float64)
    return array[array >= 0]


def hundredths(share: float) -> str:
    """Write a share, or a difference of two, in percent."""
    return f"{number(100 * share)} %"


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean over images, by resampling images; None where it says nothing."""
    if len(values) < FEWEST:
        return None
    return interval(Sums(values, np.ones(len(values))).over(resamples(len(values))))


def by_images(
    says: Says, found: Measured, values: np.ndarray, least: float, words: str, *, above: bool = True,
    write: Callable[[float], str] = number,
) -> Claim:  # fmt: skip
    """Judge a mean over images: its interval must lie above (or below) a number.

    Args:
        words: what the mean is, with {value} and {interval}. write: a number in words.
    """
    if (few := too_few(says, found, len(values), "can be judged")) is not None:
        return few
    ends, mean = mean_interval(values), float(values.mean())
    interval = "" if ends is None else f"{write(ends[0])} to {write(ends[1])}"
    words = words.format(value=write(mean), interval=interval)
    sides = (least, None) if above else (None, least)
    return says.decided(found.subject, mean, ends, words, above=sides[0], below=sides[1], write=write)


def not_attended(says: Says, found: Measured) -> Claim | None:
    """Judge a model without an attention map of the class token; None for one that has it."""
    if found.numbers["attention"]:
        return None
    return says.outcome(found.subject, None, NOT_READ if found.numbers["cls"] else "It has no class token.")


def of_others(says: Says, found: Measured) -> Claim | None:
    """Judge a model with registers by a claim about models without; None for one without."""
    if not found.numbers["registers"]:
        return None
    return says.outcome(found.subject, None, "It has registers, and the claim is about models without.")


def against_twin(
    says: Says, found: Measured, everyone: Sequence[Measured], name: str, what: str, write: Callable[[float], str] = number
) -> Claim:  # fmt: skip
    """Judge a model with registers against its twin: the mean over images must be smaller, on the same images, by more than 2 %.

    Against a twin without outliers nothing is held: there was nothing to cure.

    Args:
        everyone: all subjects, in the order in which they were named.
        name: of the series. what: the quantity in words. write: a value of it.
    """
    if not found.numbers["registers"]:
        return says.untestable(found.subject, "It has no registers.")
    twin = twin_of(found, everyone)
    if twin is None:
        return says.untestable(found.subject, NO_TWIN)
    ours, theirs = (np.asarray(each.series.get(name, ()), dtype=np.float64) for each in (found, twin))
    if not len(ours) or len(ours) != len(theirs):
        return says.untestable(found.subject, "The two were not measured on the same images.")
    both = (ours >= 0) & (theirs >= 0)
    if (few := too_few(says, found, int(both.sum()), "can be judged")) is not None:
        return few
    means = [float(each[both].mean()) for each in (ours, theirs)]
    twins = twin.subject.replace("{", "{{").replace("}", "}}")
    words = f"{what} {write(means[0])} against {write(means[1])} of {twins}; difference " + "{interval}"
    claim = by_images(says, found, ours[both] - theirs[both], -MARGIN * means[1], words, above=False, write=write)
    return cured(claim, twin)


def twin_of(found: Measured, everyone: Sequence[Measured]) -> Measured | None:
    """Return the last model before this one with its width and depth and no registers; None too where a record lacks them."""
    shape = (found.numbers.get("width"), found.numbers.get("blocks"))
    if None in shape:
        return None
    place = next(place for place, each in enumerate(everyone) if each is found)
    alike = [
        each for each in everyone[:place]
        if not each.failed and not each.numbers["registers"] and (each.numbers.get("width"), each.numbers.get("blocks")) == shape
    ]  # fmt: skip
    return alike[-1] if alike else None
