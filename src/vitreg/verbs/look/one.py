"""One photo by several models: what each shows, as a record, as a row of the picture, and the forward behind both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image

from vitreg.analysis.tally import OWN_FACTOR
from vitreg.backbones import Backbone, Capture
from vitreg.errors import UserError
from vitreg.models.shipped import card_of, note_of
from vitreg.passes.view import View
from vitreg.records import Heatmap
from vitreg.records.look import BlockLook, ModelLook
from vitreg.records.scan import Side
from vitreg.report.look.picture import PANEL, Row
from vitreg.verbs.look.models import Looker
from vitreg.verbs.look.places import place_of
from vitreg.verbs.look.words import following, sentence_of
from vitreg.verbs.scan.one import OneScan, scan_one


@dataclass(frozen=True, slots=True)
class Seen:
    """What one model shows on one photo.

    Args:
        photo: the area that the patches cover.
        row: draws the maps of the picture, which takes longer than all the rest but the forward.
    """

    record: ModelLook
    photo: UInt8[np.ndarray, "H W 3"]
    scan: OneScan
    row: Callable[[], Row]


def see(picture: Image.Image, subjects: Sequence[Looker], also: Capture | None = None) -> Iterator[Seen]:
    """Run the models one by one over a photo.

    Args:
        also: what to keep of each forward beside what a look needs.
    Raises:
        UserError: for a model that puts out no numbers.
    """
    peaks: list[tuple[int, bool]] = []
    for looker in subjects:
        pixels = looker.view.fit(looker.view.pictures(picture)[None])
        scan = _scanned(looker.backbone, pixels, also)
        peaks.append((scan.peak, scan.verdict.peak_layer is not None))
        # Where a repair leaves no group, its norms are shown after the block where the model's own stand apart.
        peak = scan.peak if looker.base is None or peaks[-1][1] else peaks[looker.base][0]
        yield _of_model(looker, scan, peak, pixels, picture)


def _scanned(backbone: Backbone, pixels: Any, also: Capture | None) -> OneScan:
    try:
        return scan_one(backbone, pixels, also)
    except FloatingPointError as error:
        full = backbone.dtype == torch.float32
        remedy = "its weights hold NaN or infinite values" if full else "try --precision fp32"
        raise UserError(f"{error} in {backbone.spec} at {backbone.dtype}; {remedy}.") from error


def _of_model(looker: Looker, scan: OneScan, block: int, pixels: Any, picture: Image.Image) -> Seen:
    """Return what one model shows; norms after `block`."""
    verdict, layer, (norms, outliers) = scan.verdict, scan.layers[block], scan.group(block)
    patches = [(int(row), int(col)) for row, col in np.argwhere(outliers)]
    place = place_of(outliers)
    there = int((~np.isnan(norms)).sum())
    single = single_from(scan, outliers, verdict.first_layer, layer.side)
    card = card_of(looker.backbone.spec)
    before = (note_of(card) if card else "", looker.backbone.untrained)
    said = following(before, sentence_of(verdict, scan.layers, len(patches), there, place, single))
    missing = _missing(scan)
    rows, cols = norms.shape
    values = [[float(f"{value:.6g}") for value in row] for row in np.nan_to_num(norms).tolist()]
    record = ModelLook(
        name=looker.name, model=scan.model, found=verdict.peak_layer is not None, side=layer.side,
        share=layer.outlier_fraction, ratio=layer.ratio, first=verdict.first_layer, single=single, peak=block,
        threshold=layer.threshold, patches=patches, place=place, norms=Heatmap(rows=rows, cols=cols, values=values),
        blocks=[
            BlockLook(index=each.index, median=each.median, max=each.max, ratio=each.ratio, share=each.outlier_fraction)
            for each in scan.layers
        ],
        attention_block=scan.attention_block, missing=missing, sentence=said,
    )  # fmt: skip
    shown = looker.view.shown(pixels)[0]
    photo = _photo(looker.view, picture, shown)

    def row() -> Row:
        return Row(
            name=looker.name, sentence=said[0].upper() + said[1:], example=scan.draw("", shown, block), photo=photo,
            median=layer.median, missing=missing,
        )  # fmt: skip

    return Seen(record, photo, scan, row)


def single_from(
    scan: OneScan, group: Bool[np.ndarray, "rows cols"], first: int | None, side: Side | None
) -> int | None:
    """Return the block from which on, up to `first`, some patch of the group stands out from the photo's median norm.

    The detector tells a group from a tail of norms, so a patch can stand out before a group is found. None if no patch does
    before block `first`.
    """
    found = None
    for block in reversed(range(first or 0)):
        norms, _ = scan.group(block)
        own, middle = norms[group], np.nanmedian(norms)
        own = own[~np.isnan(own)]
        if not (own <= middle / OWN_FACTOR if side == "low" else own >= middle * OWN_FACTOR).any():
            break
        found = block
    return found


def _missing(scan: OneScan) -> dict[str, str]:
    """Return which maps there are not, and why."""
    if scan.unread:
        return {"cls": scan.unread, "registers": scan.unread}
    tokens = scan.model.tokens
    without = {"cls": "no class token", "registers": "no registers"}
    return {role: f"this model has {why}" for role, why in without.items() if not tokens[role]}


def _photo(view: View, picture: Image.Image, shown: np.ndarray) -> np.ndarray:
    """Return the area that the patches cover, in the resolution of the page where the photo has it."""
    preprocess, (height, width) = view.pictures, view.size
    times = math.ceil(PANEL / max(height, width))
    if times < 2 or preprocess.size != view.size or shown.shape[:2] != view.size:
        return shown
    large = preprocess.with_size((height * times, width * times))
    return large.pixels(picture)
