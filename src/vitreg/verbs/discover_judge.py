"""Found boxes against true ones: overlap image by image, CorLoc, controls that look at no image, and the sweep's table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64

from vitreg.data import Unreadable
from vitreg.data.boxes import BoxSet
from vitreg.discovery.boxes import bootstrap_interval, centre_box, iou
from vitreg.results import CorLoc, DiscoverSweep, Table
from vitreg.verbs.discover_model import Photograph
from vitreg.verbs.discover_search import Found
from vitreg.verbs.discover_setting import Setting

HIT = 0.5  # IoU from which a box fits
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the area, of the centre boxes that are tried
WARNING = (
    "Choosing the best row of this table is tuning on these very images: report a row named before looking, such as one "
    "with the automatic bias (marked), or a setting chosen on other images."
)

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One image and what was found in it; boxes are x0, y0, x1, y1 in pixels of the original image.

    Args:
        index: place in the source.
        size: (height, width) of the original.
        patches: how many the first box was drawn around.
        overlaps: for every setting the largest IoU of its first box with a true one; None without true boxes.
        controls: the same for the centre boxes of SHARES and, last, the whole image.
    """

    index: int
    name: str
    size: tuple[int, int]
    boxes: tuple[Box, ...]
    scores: tuple[float, ...]
    patches: int
    true: tuple[Box, ...]
    overlaps: Float32[np.ndarray, "S"] | None
    controls: Float32[np.ndarray, "C"] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """All images together; see `DiscoverResult` for the fields."""

    corloc: CorLoc | None
    controls: dict[str, float]
    without_boxes: int
    sweep: DiscoverSweep | None
    notes: tuple[str, ...]


class Judge:
    """Knows the true boxes, where there are any."""

    def __init__(self, truth: BoxSet | None) -> None:
        self.truth = truth

    def boxes_of(self, name: str, size: tuple[int, int]) -> Float64[np.ndarray, "n 4"] | None:
        """Return the true boxes of an image of (height, width); None if there are none.

        Raises:
            Unreadable: if they were drawn on an image of another size.
        """
        found = None if self.truth is None else self.truth.find(name)
        if found is None or not len(found.boxes):
            return None
        if found.size is not None and found.size != size:
            raise Unreadable(
                f"its boxes are for {found.size[1]}x{found.size[0]} px, the picture has {size[1]}x{size[0]} px"
            )
        return found.boxes

    def __call__(
        self,
        index: int,
        name: str,
        photograph: Photograph,
        found: Sequence[Found],
        true: Float64[np.ndarray, "n 4"] | None,
    ) -> Judged:
        """Compare what every setting found with the true boxes of one image; the first setting's boxes are kept."""
        overlaps = controls = None
        if true is not None:
            overlaps = _best([photograph.to_original(each.boxes[0]) for each in found], true)
            height, width = photograph.original
            fixed = [tuple(centre_box((height, width), share)) for share in SHARES]
            controls = _best([*fixed, (0.0, 0.0, float(width), float(height))], true)
        return Judged(
            index=index,
            name=name,
            size=photograph.original,
            boxes=tuple(_rounded(photograph.to_original(box)) for box in found[0].boxes),
            scores=tuple(round(score, 4) for score in found[0].scores),
            patches=found[0].patches,
            true=() if true is None else tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in true.tolist()),
            overlaps=overlaps,
            controls=controls,
        )

    def verdict(self, judged: Sequence[Judged], settings: Sequence[Setting], seed: int) -> Verdict:
        """Sum up. The first setting is the one whose boxes are kept."""
        scored = [row.overlaps for row in judged if row.overlaps is not None]
        fixed = [row.controls for row in judged if row.controls is not None]
        notes, without = [], len(judged) - len(scored)
        single = sum(row.patches == 1 for row in judged)
        if single > len(judged) / 4:
            notes.append(
                f"In {single} of {len(judged)} images the box is a single patch: these features do not suit this bias; "
                "try another feature or bias"
                + (", or --normalize center+l2." if settings[0].normalize != "center+l2" else ".")
            )
        if self.truth is None:
            return Verdict(corloc=None, controls={}, without_boxes=without, sweep=None, notes=tuple(notes))
        unseen = len(self.truth) - sum(self.truth.find(row.name) is not None for row in judged)
        if without:
            notes.append(f"{without} images have no true boxes and are left out of CorLoc.")
        if unseen > 0:
            notes.append(f"{unseen} annotated images were not looked at.")
        if self.truth.dropped:
            notes.append(f"{self.truth.dropped} annotated objects do not count ({self.truth.convention}).")
        if not scored:
            notes.append("No image that was looked at has true boxes, so there is no CorLoc.")
            return Verdict(corloc=None, controls={}, without_boxes=without, sweep=None, notes=tuple(notes))
        hits = np.stack(scored) >= HIT  # [images, S]
        low = high = None
        if len(hits) > 1:
            low, high = (100 * float(end) for end in bootstrap_interval(torch.from_numpy(hits[:, 0]), seed))
            if low == high:
                notes.append(
                    "All images agree, which leaves the bootstrap nothing to resample: the interval says nothing."
                )
        else:
            notes.append("One image gives no interval.")
        corloc = CorLoc(value=100 * float(hits[:, 0].mean()), low=low, high=high, images=len(hits))
        centre = 100 * (np.stack(fixed) >= HIT).mean(axis=0)  # [C]
        best = int(centre[:-1].argmax())
        controls = {
            f"centre box of {100 * SHARES[best]:g} % of the area (best of {len(SHARES)} shares)": float(centre[best]),
            "whole image": float(centre[-1]),
        }
        if corloc.value <= max(controls.values()):
            notes.append("WARNING: this does not beat a box that looks at no image; it says nothing for the model.")
        elif low is not None and low <= max(controls.values()):
            notes.append("The interval holds the best control: more images are needed to tell the two apart.")
        sweep = _sweep(hits, settings) if len(settings) > 1 else None
        return Verdict(corloc=corloc, controls=controls, without_boxes=without, sweep=sweep, notes=tuple(notes))

    def protocol(self) -> dict[str, object]:
        """What makes the number."""
        if self.truth is None:
            return {}
        return {
            "true boxes": f"{self.truth.source} ({self.truth.convention})",
            "CorLoc": f"one box per image, IoU >= {HIT} with any true box",
        }


def _best(boxes: Sequence[Sequence[float]], true: Float64[np.ndarray, "n 4"]) -> Float32[np.ndarray, "B"]:
    overlaps = iou(torch.tensor(boxes, dtype=torch.float64), torch.from_numpy(true))
    return overlaps.amax(dim=1).numpy().astype(np.float32)


def _rounded(box: Box) -> Box:
    x0, y0, x1, y1 = (round(v, 2) for v in box)
    return x0, y0, x1, y1


def _sweep(hits: np.ndarray, settings: Sequence[Setting]) -> DiscoverSweep:
    """Table of all settings, best first; ties in the order they were tried.

    Args:
        hits: bool [images, S].
    """
    corloc = 100 * hits.mean(axis=0)
    rows = []
    for place in np.argsort(-corloc, kind="stable").tolist():
        setting = settings[place]
        marks = ["automatic"] if setting.automatic else ["as published"] if setting.vanilla else []
        marks += ["boxes.json"] if place == 0 else []
        rows.append(
            [
                float(corloc[place]),
                setting.feature,
                setting.layer,
                setting.normalisation,
                setting.bias_word,
                ", ".join(marks),
            ]
        )
    table = Table(
        title=f"CorLoc of {settings[0].method} by setting",
        columns=["CorLoc %", "feature", "block", "normalisation", "bias", "mark"],
        rows=rows,
    )
    return DiscoverSweep(warning=WARNING, table=table, halves=_halves(hits))


def _halves(hits: np.ndarray) -> float | None:
    """Choose the best setting on every other image, judge it on the rest, and the other way round; None below 4."""
    if len(hits) < 4:
        return None
    even, odd = hits[0::2], hits[1::2]
    kept = np.concatenate([odd[:, even.mean(axis=0).argmax()], even[:, odd.mean(axis=0).argmax()]])
    return 100 * float(kept.mean())
