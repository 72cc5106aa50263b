"""What the claims of the picture experiments share: numbers of each image, their interval, and the twin without registers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vitreg.analysis.paired import Sums, interval, resamples
from vitreg.experiments.experiment import Says
from vitreg.experiments.maps.seen import CLS, Seen
from vitreg.experiments.outliers import FEWEST, note_of, of_verdict
from vitreg.quantities import count, number
from vitreg.records import ScanResult
from vitreg.records.reproduction import Claim, Measured

Values = Sequence[float]
NOT_READ = "Its attention cannot be read."
TWIN = "the last model named before it with its width and depth and no registers"


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
    ends = mean_interval(values)
    if ends is None:
        return says.outcome(
            found.subject,
            None,
            f"Only {count(len(values), 'image')} can be judged; {FEWEST} are the fewest from which anything is said.",
        )
    mean = float(values.mean())
    text = words.format(value=write(mean), interval=f"{write(ends[0])} to {write(ends[1])}")
    return says.outcome(found.subject, ends[0] > least if above else ends[1] < least, text, mean, ends)


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
    """Judge a model with registers against its twin: the mean over images must be smaller, on the same images.

    Args:
        everyone: all subjects, in the order in which they were named.
        name: of the series. what: the quantity in words. write: a value of it.
    """
    if not found.numbers["registers"]:
        return says.outcome(found.subject, None, "It has no registers.")
    twin = twin_of(found, everyone)
    if twin is None:
        return says.outcome(
            found.subject, None, "No model of its width and depth without registers was named before it."
        )
    ours, theirs = (np.asarray(each.series.get(name, ()), dtype=np.float64) for each in (found, twin))
    if not len(ours) or len(ours) != len(theirs):
        return says.outcome(found.subject, None, "The two were not measured on the same images.")
    both = (ours >= 0) & (theirs >= 0)
    means = [write(float(each[both].mean())) if both.any() else "" for each in (ours, theirs)]
    twins = twin.subject.replace("{", "{{").replace("}", "}}")
    words = f"{what} {means[0]} against {means[1]} of {twins}; difference " + "{interval}."
    return by_images(says, found, ours[both] - theirs[both], 0.0, words, above=False, write=write)


def twin_of(found: Measured, everyone: Sequence[Measured]) -> Measured | None:
    """Return the last model before this one with its width and depth and no registers."""
    shape = (found.numbers["width"], found.numbers["blocks"])
    place = next(place for place, each in enumerate(everyone) if each is found)
    alike = [
        each for each in everyone[:place]
        if not each.failed and not each.numbers["registers"] and (each.numbers["width"], each.numbers["blocks"]) == shape
    ]  # fmt: skip
    return alike[-1] if alike else None
