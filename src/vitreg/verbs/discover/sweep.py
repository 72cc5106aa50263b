"""The table of a sweep: the CorLoc of each setting, and the setting chosen without labels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from jaxtyping import Bool, Float32

from vitreg.data import ImageSource, Unreadable
from vitreg.results import Cell, DiscoverSweep, Table
from vitreg.verbs.discover.model import DiscoverModel
from vitreg.verbs.discover.search import Search
from vitreg.verbs.discover.setting import Setting

CALIBRATED_ON = 16  # images, the first ones
WARNING = (
    "Choosing the best row of this table is tuning on these very images: report a row named before looking, such as one "
    "chosen without labels (marked), or a setting chosen on other images."
)
UNLABELLED = (
    "Without true boxes the settings are ranked by how clear their cuts are, which is no proof that these are objects."
)


def sweep_table(
    hits: Bool[np.ndarray, "images S"] | None, gaps: Float32[np.ndarray, "n S"] | None, settings: Sequence[Setting]
) -> DiscoverSweep:
    """Rank all settings by CorLoc if there are true boxes, else by eigengap; ties in the order tried.

    Args:
        gaps: eigengaps of all images, 0 without a cut; None for LOST.
    """
    corloc = None if hits is None else 100 * hits.mean(axis=0)
    by_gap = None if gaps is None else clearest(gaps)
    ranking = np.argsort(-corloc, kind="stable").tolist() if corloc is not None else by_gap or []
    rows: list[list[Cell]] = []
    for place in ranking:
        setting = settings[place]
        marks = ["automatic"] if setting.automatic else ["as published"] if setting.vanilla else []
        marks += ["largest eigengap"] if by_gap is not None and place == by_gap[0] else []
        marks += ["boxes.json"] if place == 0 else []
        row: list[Cell] = [] if corloc is None else [float(corloc[place])]
        row += [setting.feature, setting.layer, setting.normalisation, setting.bias_word]
        if gaps is not None:
            row += [f"{gaps[:, place].mean():.4f}", 100 * float((gaps[:, place] > 0).mean())]
        rows.append([*row, ", ".join(marks)])
    measured = ["mean eigengap", "images with a cut, %"] if gaps is not None else []
    first = [] if corloc is None else ["CorLoc %"]
    table = Table(
        title=f"{'Eigengap' if corloc is None else 'CorLoc'} of {settings[0].method} by setting",
        columns=[*first, "feature", "block", "normalisation", "bias", *measured, "mark"],
        rows=rows,
    )
    return DiscoverSweep(
        warning=UNLABELLED if corloc is None else WARNING,
        table=table,
        halves=None if hits is None else _halves(hits),
        unlabelled=None if by_gap is None or corloc is None else float(corloc[by_gap[0]]),
    )


def clearest(gaps: Float32[np.ndarray, "n S"]) -> list[int]:
    """Rank settings by mean eigengap over the images, then by the share with a cut, then in the order tried.

    The rule was fixed before any true box was looked at.
    """
    return np.lexsort((-(gaps > 0).mean(axis=0), -gaps.mean(axis=0))).tolist()


def choose(source: ImageSource, looking: DiscoverModel, settings: Sequence[Setting]) -> tuple[Setting, int]:
    """Choose the setting with the clearest cuts on the first images. Returns it and the number of images used.

    No label is used. Every process sees the same images and makes the same choice.
    """
    search, gaps = Search(settings), []
    for item in itertools.islice(source.walk(), CALIBRATED_ON):
        with suppress(Unreadable):  # listed in the main pass
            photograph = item.reduce(looking.prepare)
            features, grid = looking.features(photograph, search.wanted)
            gaps.append([found.gap for found in search(features, grid, photograph, looking.patch)])
    if not gaps:
        return settings[0], 0
    return settings[clearest(np.array(gaps, dtype=np.float32))[0]], len(gaps)


def _halves(hits: Bool[np.ndarray, "images S"]) -> float | None:
    """CorLoc of the setting chosen on every other image and judged on the rest, both ways; None below 4 images."""
    if len(hits) < 4:
        return None
    even, odd = hits[0::2], hits[1::2]
    kept = np.concatenate([odd[:, even.mean(axis=0).argmax()], even[:, odd.mean(axis=0).argmax()]])
    return 100 * float(kept.mean())
