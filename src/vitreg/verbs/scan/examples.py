"""Chooses the images on the page, and draws their maps at the peak layer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from vitreg.analysis.norms import encode
from vitreg.backbones import Backbone
from vitreg.passes.portrait import Images, portrait
from vitreg.records import Example, reading_block
from vitreg.verbs.scan.readout import Readout

Chosen = tuple[int, str, int]  # image number, name, outliers


def choose_examples(table: Sequence[Chosen], count: int) -> list[Chosen]:
    """Choose images: a quarter at random, half of the rest with most outliers, half with fewest; most first, ties by number.

    The draw hashes the names only, so scans of the same images by different models share some images.
    """
    ordered = sorted(table, key=lambda row: (-row[2], row[0]))
    if len(ordered) <= count:
        return ordered
    drawn = set(sorted(ordered, key=lambda row: _lot(row[1]))[: count // 4])
    others = [row for row in ordered if row not in drawn]
    rest = count - len(drawn)
    ends = {*others[: (rest + 1) // 2], *others[len(others) - rest // 2 :]}
    return [row for row in ordered if row in drawn or row in ends]


def _lot(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def build_examples(
    backbone: Backbone, images: Images, chosen: Sequence[Chosen], readout: Readout, *, attention: bool
) -> list[Example]:
    """Run the chosen images again and draw their maps at the peak layer; see `portrait`."""
    reading = reading_block(readout.layers)

    def flags(norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = encode(norms)
        return readout.outliers(codes, readout.peak), readout.near(codes, readout.peak)

    blocks = (readout.peak, backbone.depth - 1 if reading is None else reading)
    return [
        portrait(backbone, name, *images.again(index), blocks, flags, attention=attention) for index, name, _ in chosen
    ]
