"""Table 1: an outlier tells the class of the image better than another patch token, and nearly as well as the class token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.analysis.intervals import difference_of_shares
from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.outliers import ends_of, note_of, of_verdict, too_few, without_outliers
from vitreg.quantities import number
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

GLOBAL = Says(
    id="global",
    says="Outliers hold more of the whole image than other patch tokens.",
    criterion="logistic regression is right more often on outliers than on other tokens of the same images; interval of the difference "
    "above 0; the better of the two beats its controls (majority class, fitted to shuffled labels)",
    paper="ImageNet 69.0 % against 65.8 %; Aircraft 79.1 % against 17.1 %",
)

PUBLISHED = {
    "ImageNet-1k": (86.0, 65.8, 69.0), "Places205": (66.4, 53.1, 55.1), "Aircraft": (87.3, 17.1, 79.1), "CIFAR-10": (99.4, 97.1, 99.3),
    "CIFAR-100": (94.5, 81.3, 93.7), "CUB": (91.3, 18.6, 84.9), "Caltech-101": (96.9, 73.2, 97.6), "Cars": (91.5, 10.8, 85.2),
    "DTD": (85.2, 63.1, 84.9), "Flowers": (99.7, 59.5, 99.6), "Food": (94.7, 74.2, 93.5), "Pets": (96.9, 47.8, 94.1),
    "SUN": (78.6, 37.7, 78.5), "VOC": (89.1, 70.8, 89.7),
}  # fmt: skip
"""Accuracy by set: of the class token, of a normal and of an outlier patch."""


def measure(setting: Setting, model: str) -> Measured:
    """Classify images by one of their tokens, for each kind of token, on the same images."""
    scanned, job = setting.scan(model)
    numbers: dict[str, float | None] = of_verdict(scanned)
    jobs = {"scan": job}
    if numbers["outliers"]:
        result, jobs["tokens"] = setting.evaluate(model, "tokens", setting.classes)
        numbers |= dict(result.metrics)
        numbers |= {"images": float(result.data.counts["test"]), "control": max(result.controls.values())}
    return Measured(subject=model, note=note_of(model), numbers=numbers, jobs=jobs)


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model by the difference of the two accuracies."""
    return GLOBAL.of_each(measured, _global)


def _global(found: Measured) -> Claim:
    absent = without_outliers(GLOBAL, found)
    if absent is not None:
        return absent
    own, other, images = (found.numbers.get(name) for name in ("outlier_patch", "normal_patch", "images"))
    if own is None or other is None:
        return GLOBAL.untestable(found.subject, "Too few images hold outliers.")
    if (few := too_few(GLOBAL, found, images, "that were judged hold both kinds")) is not None:
        return few
    control = found.numbers.get("control")
    low, _ = difference_of_shares(max(own, other) / 100, images or 0, (control or 0.0) / 100, images or 0)
    words = f"{number(own)} % against {number(other)} %"
    if control is None or low <= 0:
        known = "the record holds none" if control is None else f"{number(control)} %"
        return GLOBAL.untestable(
            found.subject,
            f"{words}. Neither kind of token is better than the control for certain ({known}), so neither is seen to know anything.",
        )
    ends = ends_of(found, "outlier_minus_normal")
    words += f", control {number(control)} %" + (
        "" if ends is None else f"; difference {number(ends[0])} to {number(ends[1])}"
    )
    return GLOBAL.decided(found.subject, own - other, ends, words, above=0.0)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """A table has no figure."""
    return {}


EXPERIMENT = Experiment(
    id="table1", label="Table 1", title="What one token knows of the image", needs=("images", "classes"), measure=measure,
    claims=claims, draw=draw,
    published={name: dict(zip(("cls", "normal", "outlier"), held, strict=True)) for name, held in PUBLISHED.items()},
    protocol="Logistic regression on one random token of each image (class token, normal, outlier) of DINOv2 ViT-g/14.",
    ours="`eval tokens`: the same, on images that hold both kinds.",
)  # fmt: skip
