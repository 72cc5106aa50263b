"""Fig. 1: with registers attention maps can be read: no lone patches that take the attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.maps.seen import seen
from vitreg.experiments.pictures.drawing import ATTENTION, attention_scale, of_class_token, pairs, rows_of_models
from vitreg.experiments.pictures.judging import (
    NO_TWIN,
    TWIN,
    by_images,
    hundredths,
    known,
    measured,
    not_attended,
    twin_of,
)
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

MOST = 0.05
READABLE = Says(
    id="readable",
    says="With registers the attention maps can be read: they have no peaky outliers, like those of DINO.",
    criterion=(
        f"in the last block less than {100 * MOST:.0f} % of the class token's attention to patches lies on lone peaks (at least twice the "
        "mean, and at most a quarter of the 24 patches around get a quarter as much), mean over images, interval included; and "
        f"more does in {TWIN}"
    ),
)


def measure(setting: Setting, model: str) -> Measured:
    """Find the lone peaks of the attention maps."""
    maps, scanned, jobs = seen(setting, model)
    share = maps.on_peaks()
    return measured(model, scanned, maps, jobs, {} if share is None else {"on_peaks": share})


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model that has registers."""
    return READABLE.of_each(measured, lambda found: _readable(found, measured))


def _readable(found: Measured, everyone: Sequence[Measured]) -> Claim:
    if not found.numbers["registers"]:
        return READABLE.outcome(found.subject, None, "It has no registers.")
    if (absent := not_attended(READABLE, found)) is not None:
        return absent
    own, twin = _even(found), twin_of(found, everyone)
    if own.outcome != "held":
        return own
    if twin is None:
        return READABLE.untestable(found.subject, f"{own.reason} {NO_TWIN} So nothing shows that registers did it.")
    if twin.numbers["attention"] and (theirs := _even(twin)).outcome == "not held":
        return own.model_copy(update={"reason": f"{own.reason} {twin.subject}: {theirs.reason}"})
    return READABLE.untestable(
        found.subject, f"{own.reason} {twin.subject}, which has no registers, does not have more for certain."
    )


def _even(found: Measured) -> Claim:
    words = "{value} ({interval}) of the attention to patches lies on lone peaks"
    return by_images(READABLE, found, known(found.series["on_peaks"]), MOST, words, above=False, write=hundredths)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The attention maps of models with registers, each below its twin without; of all models where there is no pair."""
    return rows_of_models(pairs(record), jobs, of_class_token, attention_scale, ATTENTION, most=4)


EXPERIMENT = Experiment(
    id="fig1", label="Fig. 1", title="Attention maps without and with registers", needs=("images",), measure=measure, claims=claims,
    draw=draw,
    published={"models": "DeiT-III, OpenCLIP, DINOv2, without and with registers", "with registers": "no artifacts visible"},
    protocol="Attention of the class token in the last block at a high resolution, drawn for three photographs. Nothing was counted.",
    ours="The same map, mean over heads, at the size of the run (--size). A peak is a patch that towers above its surroundings.",
)  # fmt: skip
