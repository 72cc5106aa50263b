"""Registers relocate sinks: attention leaves a few patches and goes to the registers (Fesser et al.)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.outliers import cured, note_of, of_verdict, too_few
from vitreg.experiments.pictures.judging import (
    MARGIN,
    NO_TWIN,
    TWIN,
    against_twin,
    hundredths,
    known,
    mean_interval,
    twin_of,
)
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured
from vitreg.writing.files import write_text

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

BY = "Fesser et al., arXiv 2606.08105, 2026"
TIMES = 8  # the mean attention, from which a patch is a sink, as in the scan
IMAGES = 64
NUMBERS = "numbers.json"
LEAVES = Says(
    id="leaves-patches",
    says="With registers a smaller share of the attention goes to patches that are sinks.",
    criterion=(
        f"share on patches that get more than {TIMES} times the mean, of the class token and 16 patches, in the later half of the blocks; "
        f"against {TWIN}, on the same images: interval of the difference below -{100 * MARGIN:g} % of the twin's"
    ),
    by=BY,
)
ARRIVES = Says(
    id="goes-to-registers",
    says="Registers get about as much attention as the patches lose: sinks move, they do not vanish.",
    criterion=(
        "the interval of (share on registers - share that patch sinks lost) lies within half of what they lost; not held if it lies outside"
    ),
    by=BY,
)


def measure(setting: Setting, model: str) -> Measured:
    """Read where the attention of some tokens goes."""
    scanned, scan = setting.scan(model)
    limit = min(IMAGES, setting.reading["limit"] or IMAGES)

    def work(folder: Path) -> dict[str, Any]:
        import vitreg
        from vitreg.experiments.critics.shares import shares_of  # needs torch

        backbone = vitreg.load(model, **setting.loads(model))
        reading = {**setting.reading, "limit": limit, "seed": setting.seed}
        series = shares_of(backbone, list(setting.images), TIMES, reading)
        shape = scanned.model
        numbers = {
            "width": float(shape.width),
            "blocks": float(shape.blocks),
            "registers": float(shape.tokens.get("registers", 0)),
        }
        means = {name: float(np.mean(values)) for name, values in series.items()}
        found = Measured(subject=model, note=note_of(model), numbers={**numbers, **means}, series=series)
        write_text(folder / NUMBERS, found.model_dump_json())
        return {}

    asked = {"verb": "attention", "images": setting.data(*setting.images), "first": limit}
    folder, key = setting.done(f"attention of {model}", asked, model, work)
    found = Measured.model_validate_json((folder / NUMBERS).read_bytes())
    numbers = {**found.numbers, **of_verdict(scanned)}
    return found.model_copy(update={"jobs": {"scan": scan, "attention": key}, "numbers": numbers})


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model with registers against its twin without."""
    return [
        *LEAVES.of_each(measured, lambda found: against_twin(LEAVES, found, measured, "on_sinks", "Share", hundredths)),
        *ARRIVES.of_each(measured, lambda found: _arrives(found, measured)),
    ]


def _arrives(found: Measured, everyone: Sequence[Measured]) -> Claim:
    if not found.numbers["registers"]:
        return ARRIVES.untestable(found.subject, "It has no registers.")
    twin = twin_of(found, everyone)
    if twin is None:
        return ARRIVES.untestable(found.subject, NO_TWIN)
    before, after, registers = (
        known(twin.series["on_sinks"]),
        known(found.series["on_sinks"]),
        known(found.series["on_registers"]),
    )
    if len(before) != len(after):
        return ARRIVES.untestable(found.subject, "The two were not measured on the same images.")
    if (few := too_few(ARRIVES, found, len(before), "can be judged")) is not None:
        return few
    lost = before - after
    fall, certain = float(lost.mean()), mean_interval(lost)
    words = f"Patch sinks lost {hundredths(fall)}, registers get {hundredths(float(registers.mean()))}"
    if certain is None or certain[0] <= 0:
        return ARRIVES.untestable(
            found.subject, f"{words}; patches are not shown to lose any, so nothing can be said to move."
        )
    ends = mean_interval(registers - lost)
    words += "" if ends is None else f"; difference {hundredths(ends[0])} to {hundredths(ends[1])}"
    claim = ARRIVES.decided(
        found.subject, float(registers.mean()) - fall, ends, words, above=-fall / 2, below=fall / 2, write=hundredths
    )
    return cured(claim, twin)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """It has no figure."""
    return {}


EXPERIMENT = Experiment(
    id="relocated-sinks", label="After the paper", title="Where attention goes with registers", needs=("images",), measure=measure,
    claims=claims, draw=draw,
    published={"LeJEPA ViT-L, sinks an image": {"baseline": 0.45, "gated": 3.88}},
    protocol="Heads in which 90 % of the queries put half of their attention on one key, in DINOv2 and LeJEPA, without and with registers.",
    ours="Shares of the attention of the class token and 16 patches, mean over heads and the later half of the blocks, of up to 64 images.",
)  # fmt: skip
