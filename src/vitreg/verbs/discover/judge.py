"""Compares found boxes with true ones: overlap per image, CorLoc, controls that ignore the image, and the sweep's table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64

from vitreg.analysis.intervals import wilson
from vitreg.data import Unreadable
from vitreg.data.boxes.truth import BoxSet
from vitreg.data.sources.decode import unsure_which_way
from vitreg.discovery.boxes import centre_box, iou
from vitreg.discovery.chance import PLAIN
from vitreg.quantities import count
from vitreg.results import CorLoc, DiscoverSweep
from vitreg.verbs.discover.model import Photograph
from vitreg.verbs.discover.search import Found
from vitreg.verbs.discover.setting import Setting
from vitreg.verbs.discover.sweep import sweep_table

HIT = 0.5  # IoU from which a box counts as correct
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # area of the centre boxes, as shares of the image
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One image with its boxes, x0, y0, x1, y1 in pixels of the original image.

    Args:
        index: place in the source.
        size: (height, width) of the original.
        patches: number of patches in the first box's object.
        nothing: why there is no box; empty if there is one.
        by_chance: see `Found`.
        overlaps: per setting, the largest IoU of its first box with a true one, 0 without a box; None without true boxes.
        gaps: per setting, the eigengap of its cut, 0 without a box; None for LOST.
        controls: the same IoU for the centre boxes of SHARES and, last, the whole image.
    """

    index: int
    name: str
    size: tuple[int, int]
    boxes: tuple[Box, ...]
    scores: tuple[float, ...]
    patches: int
    true: tuple[Box, ...]
    overlaps: Float32[np.ndarray, "S"] | None
    gaps: Float32[np.ndarray, "S"] | None
    controls: Float32[np.ndarray, "C"] | None
    nothing: str = ""
    by_chance: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The results over all images; see `DiscoverResult` for the fields."""

    corloc: CorLoc | None
    controls: dict[str, float]
    without_boxes: int
    without_box: dict[str, int]
    by_chance: int
    sweep: DiscoverSweep | None
    notes: tuple[str, ...]


class Judge:
    """Compares boxes with the true ones, if there are any."""

    def __init__(self, truth: BoxSet | None) -> None:
        self.truth = truth

    def boxes_of(self, name: str, size: tuple[int, int], orientation: int = 1) -> Float64[np.ndarray, "n 4"] | None:
        """Return the true boxes of an image of (height, width); None if there are none.

        Args:
            orientation: the EXIF orientation by which the image was turned.
        Raises:
            Unreadable: if the boxes are for another image size, or possibly for the image before it was turned.
        """
        found = None if self.truth is None else self.truth.find(name)
        if found is None or not len(found.boxes):
            return None
        if found.size is not None and found.size != size:
            raise Unreadable(
                f"its boxes are for {found.size[1]}x{found.size[0]} px, the picture has {size[1]}x{size[0]} px"
            )
        if unsure := unsure_which_way(orientation, size, found.size):
            raise Unreadable(unsure)
        return found.boxes

    def __call__(
        self,
        index: int,
        name: str,
        photograph: Photograph,
        found: Sequence[Found],
        true: Float64[np.ndarray, "n 4"] | None,
    ) -> Judged:
        """Compare the boxes of every setting with the true boxes of one image; the first setting's boxes are kept."""
        overlaps = controls = None
        if true is not None:
            nothing = (0.0, 0.0, 0.0, 0.0)  # no box overlaps none
            firsts = [photograph.to_original(each.boxes[0]) if each.boxes else nothing for each in found]
            overlaps = _best(firsts, true)
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
            nothing=found[0].nothing,
            by_chance=found[0].by_chance,
            true=() if true is None else tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in true.tolist()),
            overlaps=overlaps,
            gaps=None if found[0].gap is None else np.array([each.gap for each in found], dtype=np.float32),
            controls=controls,
        )

    def verdict(self, judged: Sequence[Judged], settings: Sequence[Setting]) -> Verdict:
        """Summarise all images. The first setting is the one whose boxes are kept."""
        scored = [row.overlaps for row in judged if row.overlaps is not None]
        gaps = [row.gaps for row in judged if row.gaps is not None]
        hits = np.stack(scored) >= HIT if scored else None  # [images, S]
        notes, without = _about_boxes(judged, settings[0]), len(judged) - len(scored)
        corloc, controls = None, {}
        if self.truth is not None:
            notes += self._about_truth(judged, without)
        if hits is not None:
            low, high = wilson(int(hits[:, 0].sum()), len(hits))
            corloc = CorLoc(value=100 * float(hits[:, 0].mean()), low=100 * low, high=100 * high, images=len(hits))
            controls = _controls([row.controls for row in judged if row.controls is not None])
            best = max(controls, key=lambda name: controls[name])
            if corloc.value <= controls[best]:
                notes.append(
                    f"WARNING: the {best} has {controls[best]:.1f} %, and looks at no image; {corloc.value:.1f} % says "
                    "nothing for the model."
                )
            elif 100 * low <= controls[best]:
                notes.append("The interval holds the best control: more images are needed to tell the two apart.")
        sweep = None
        if len(settings) > 1 and (hits is not None or gaps):
            sweep = sweep_table(hits, np.stack(gaps) if gaps else None, settings)
        return Verdict(
            corloc=corloc,
            controls=controls,
            without_boxes=0 if self.truth is None else without,
            without_box=_without_box(judged),
            by_chance=sum(row.by_chance for row in judged),
            sweep=sweep,
            notes=tuple(notes),
        )

    def _about_truth(self, judged: Sequence[Judged], without: int) -> list[str]:
        assert self.truth is not None
        notes = []
        unseen = len(self.truth) - sum(self.truth.find(row.name) is not None for row in judged)
        if without:
            notes.append(
                f"{count(without, 'image has', 'images have')} no true boxes, and CorLoc leaves {'it' if without == 1 else 'them'} out."
            )
        if unseen > 0:
            notes.append(f"{unseen} annotated images were not looked at.")
        if self.truth.dropped:
            notes.append(f"{self.truth.dropped} annotated objects do not count ({self.truth.convention}).")
        if without == len(judged):
            notes.append("No image that was looked at has true boxes, so there is no CorLoc.")
        return notes

    def protocol(self) -> dict[str, object]:
        """The protocol of CorLoc, for the record."""
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


def _about_boxes(judged: Sequence[Judged], setting: Setting) -> list[str]:
    """Report problems of the boxes that show without true boxes."""
    notes = []
    single = sum(row.patches == 1 for row in judged)
    centred = "" if setting.normalisation.startswith("center") else ", or --normalize center"
    for why, many in _without_box(judged).items():
        where = "every image" if many == len(judged) else f"{many} of {len(judged)} images"
        remedy = "" if why == PLAIN else f" Try another feature or block{centred}."
        notes.append(f"In {where} there is no box: {why}.{remedy}")
    by_chance = sum(row.by_chance for row in judged)
    if by_chance:
        notes.append(
            f"In {by_chance} of {len(judged)} images the box is of patches strewn as by chance; LOST gives one for noise too."
        )
    if single > len(judged) / 4:
        notes.append(
            f"In {single} of {len(judged)} images the box is a single patch: these features do not suit this "
            f"{'bias' if setting.method == 'lost' else 'method'}; try another feature or "
            + ("bias" if setting.method == "lost" else "block")
            + (", or --normalize center+l2." if setting.method == "lost" and setting.normalize != "center+l2" else ".")
        )
    return notes


def _without_box(judged: Sequence[Judged]) -> dict[str, int]:
    """Count the images without a box by reason, most common first."""
    return dict(Counter(row.nothing for row in judged if not row.boxes).most_common())


def _controls(fixed: Sequence[Float32[np.ndarray, "C"]]) -> dict[str, float]:
    """CorLoc of boxes that ignore the image; the best centre box is picked on the same images, which favours it."""
    centre = 100 * (np.stack(fixed) >= HIT).mean(axis=0)  # [C]
    best = int(centre[:-1].argmax())
    return {
        f"centre box of {100 * SHARES[best]:g} % of the area (best of {len(SHARES)} shares)": float(centre[best]),
        "whole image": float(centre[-1]),
    }
