"""Fig. 4a: the norms of the tokens over the blocks. Outliers part from the others around the middle of the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.outliers import ends_of, note_of, of_verdict, over_images, without_outliers
from vitreg.experiments.records import scans_drawn
from vitreg.quantities import percent
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

MIDDLE = Says(
    id="middle",
    says="Outliers appear around the middle blocks of the network.",
    criterion=(
        "the first block after which the detector separates them lies between a quarter and three quarters of the depth, interval over "
        "images included"
    ),
    paper="block 15 of 40, counted from 1",
)
FROM, TO = 0.25, 0.75


def measure(setting: Setting, model: str) -> Measured:
    """Scan, and look for the first block with outliers."""
    result, job = setting.scan(model)
    first, blocks = result.verdict.first_layer, result.model.blocks
    numbers = {
        **of_verdict(result), **over_images(result), "blocks": float(blocks), "first": None if first is None else float(first + 1),
        "part": None if first is None else (first + 1) / blocks,
    }  # fmt: skip
    ratios = [layer.max_ratio or 0.0 for layer in result.layers]
    return Measured(
        subject=model, note=note_of(model), numbers=numbers, series={"max_over_median": ratios}, jobs={"scan": job}
    )


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model by the first block with outliers."""
    return MIDDLE.of_each(measured, _middle)


def _middle(found: Measured) -> Claim:
    absent, part = without_outliers(MIDDLE, found), found.numbers["part"]
    if absent is not None or part is None:
        return absent or MIDDLE.outcome(found.subject, None, "The scan names no first block.")
    blocks, ends = found.numbers["blocks"] or 1.0, ends_of(found, "first")
    words = f"From block {part * blocks - 1:.0f}"
    if ends is not None:
        words += f" ({ends[0]:.0f} to {ends[1]:.0f})"
        ends = ((ends[0] + 1) / blocks, (ends[1] + 1) / blocks)
    words += f" of {blocks:.0f}, counted from 0"
    return MIDDLE.decided(found.subject, part, ends, words, above=FROM, below=TO, write=percent)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The norms of each model over its blocks."""
    from vitreg.report.scan.charts import norms

    return scans_drawn(record, jobs, norms.figure)


EXPERIMENT = Experiment(
    id="fig4a", label="Fig. 4a", title="Norms over the blocks", needs=("images",), measure=measure, claims=claims, draw=draw,
    published={"model": "DINOv2 ViT-g/14", "first_block": 15, "blocks": 40},
    protocol="Distribution of the norms of patch tokens after every block of DINOv2 ViT-g/14.",
    ours="Norms after every block, of all images; the first block is the scan's, from which on outliers are found.",
)  # fmt: skip
