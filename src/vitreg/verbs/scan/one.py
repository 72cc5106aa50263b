"""A scan of one image from one forward, which also holds what a portrait of the image is drawn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.analysis.norms import encode
from vitreg.analysis.outliers import detector
from vitreg.analysis.tally import Tally
from vitreg.backbones import Backbone, Capture, Trace
from vitreg.machine.runtime import Processes
from vitreg.passes.portrait import flagged, portrait_of
from vitreg.records import Example, LayerRecord, ModelRecord, VerdictRecord, reading_block
from vitreg.verbs.scan.measure import Measure
from vitreg.verbs.scan.readout import Readout


@dataclass(frozen=True, slots=True)
class OneScan:
    """What a scan says of one image.

    Args:
        verdict: as of a scan of this image alone: without a resample.
        layers: one record a block.
        peak: the block with the clearest outliers, or else with the longest tail.
        model: as in the record of a scan.
        unread: why attention was not read; empty if it was.
        attention_block: of the maps of attention; None if it was not read.
        group: block → norms of the patches after it, and which of them are outliers.
        draw: (name, image as shown, block of the norms) → its portrait, from the same forward.
        trace: of that forward.
    """

    verdict: VerdictRecord
    layers: list[LayerRecord]
    peak: int
    model: ModelRecord
    unread: str
    attention_block: int | None
    group: Callable[[int], tuple[Float[np.ndarray, "rows cols"], Bool[np.ndarray, "rows cols"]]]
    draw: Callable[[str, np.ndarray, int], Example]
    trace: Trace


def scan_one(backbone: Backbone, pixels: Float[Tensor, "1 3 H W"], also: Capture | None = None) -> OneScan:
    """Scan one image with the default detector.

    Args:
        also: q, k, v and projections to keep beside norms; left out where attention cannot be read. What a scan reads of
            attention is not read then, as the verdict stands without it, and the attention block is the last.
    Raises:
        FloatingPointError: if the model puts out no numbers.
    """
    size, last = (pixels.shape[2], pixels.shape[3]), backbone.depth - 1
    status = backbone.attention_status()
    measure = Measure(backbone, size, attention=status.readable and also is None)
    special = [[*layout.cls, *layout.registers] for layout in backbone.layouts(size)[:-1]]
    capture = replace(measure.capture, hidden=[last])
    if isinstance(capture.rows, dict):
        more = {
            layer: [*queries, *(t for t in special[layer] if t not in queries)]
            for layer, queries in capture.rows.items()
        }
        capture = replace(capture, rows=more)
    if also is not None and status.readable:
        capture = replace(capture, qkv=also.qkv, projected=also.projected if backbone.anatomy.attention else ())
    with torch.inference_mode():
        trace = backbone.trace(pixels, capture)
    statistics = measure.statistics(torch.zeros(1, dtype=torch.long), ("",), trace)
    with Tally(backbone.depth, measure.layout, present=measure.present, heads=measure.heads) as tally:
        tally.add(statistics)
        readout = Readout(tally, tally.sums, Processes(), detector("mixture"), 0, with_power=False)
        layers = readout.layers
    reading = reading_block(layers)
    attended = last if reading is None else reading

    def flags(norms: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
        codes = encode(norms)
        return readout.outliers(codes, block), readout.near(codes, block)

    def draw(name: str, shown: np.ndarray, block: int) -> Example:
        queries = special[attended] if status.readable else None
        return portrait_of(trace, last, name, shown, (block, attended), lambda norms: flags(norms, block), queries)

    return OneScan(
        verdict=readout.verdict, layers=layers, peak=readout.peak, model=readout.model_record(backbone, size, []),
        unread=status.reason, attention_block=attended if status.readable else None,
        group=lambda block: flagged(trace, block, lambda norms: flags(norms, block))[:2], draw=draw, trace=trace,
    )  # fmt: skip
