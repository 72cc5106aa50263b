"""What a model's own classifier answers with the repair: agreement, accuracy, and McNemar's test of the difference."""

from __future__ import annotations

import torch
from scipy.stats import binomtest

from vitreg.repair.columns.column import Column, PerImage
from vitreg.repair.columns.data import NO_LABEL
from vitreg.repair.columns.reading import Gathered, Reader, Reading
from vitreg.results import RepairCell

HEADLESS = "the model's own module gives no classes for these images"


def agreement(before: Reading, after: Reading) -> PerImage:
    """Return of each image whether both answer with the same class."""
    one, other = before.logits, after.logits
    if one is None or other is None:
        nothing = torch.zeros(len(before.images), dtype=torch.float64)
        return nothing, nothing
    same = (one.argmax(1) == other.argmax(1)).double()
    return same, torch.ones_like(same)


def right(reading: Reading) -> PerImage:
    """Return of each image with a label whether the answer is right."""
    labels, logits = reading.reader.held_out.labels, reading.logits
    if labels is None or logits is None:
        nothing = torch.zeros(len(reading.images), dtype=torch.float64)
        return nothing, nothing
    wanted = labels[reading.place]
    known = (wanted != NO_LABEL).double()
    return (logits.argmax(1).cpu() == wanted).double() * known, known


def mcnemar(only_before: int, only_after: int) -> float:
    """Return the p-value of McNemar's exact test, of images that only one of two models has right; 1 without any."""
    both = only_before + only_after
    return float(binomtest(min(only_before, only_after), both, 0.5).pvalue) if both else 1.0


def _mcnemar(before: Gathered, after: Gathered) -> RepairCell | str:
    if not before.predicted or not after.predicted or before.labels is None:
        return HEADLESS
    known = before.labels != NO_LABEL
    one, other = (torch.cat(each.predicted)[known] == before.labels[known] for each in (before, after))
    return RepairCell(value=mcnemar(int((one & ~other).sum()), int((other & ~one).sum())))


def headless(reader: Reader) -> str:
    """Return why a model's answers cannot be compared; "" for one with a classifier."""
    return "" if reader.classifies else HEADLESS


COLUMNS = (
    Column(
        name="head_agreement", title="head agreement", side="damage", better="larger", unit="%",
        meaning="Share of the images that the model's own classifier gives the same class with and without the repair.",
        compare=agreement, counts="images", least=1.0, lacks=headless,
    ),
    Column(
        name="top1", title="top-1", side="damage", better="larger", unit="%",
        meaning="Share of the labelled images that the model's own classifier gives their class.",
        measure=right, counts="images", least=1.0, needs="labels", lacks=headless,
    ),
    Column(
        name="mcnemar", title="McNemar's p", side="damage", better="neither",
        meaning="Exact p-value that as many images become wrong as become right by chance (McNemar's test).",
        whole=_mcnemar, least=0.0, needs="labels", lacks=headless,
    ),
)  # fmt: skip
