"""Turns the features of one image into boxes, for each setting; settings share their common computations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32, UInt8
from torch import Tensor

from vitreg.discovery.boxes import PixelBox, to_pixels
from vitreg.discovery.chance import LEVEL, PLAIN
from vitreg.discovery.features import automatic_bias, prepare
from vitreg.discovery.lost import lost_batch
from vitreg.discovery.tokencut import maskcut, tokencut
from vitreg.report.sheets.boxes import regions_of
from vitreg.verbs.discover.model import Feature, Photograph
from vitreg.verbs.discover.setting import Setting

POTENTIALS = 100  # patches of lowest degree among which LOST looks for patches similar to the seed
AUTOMATIC = "per image, so that the median patch is linked to half of the others; looks at no label"
CHANCE = f"only where patches in random places would hang together as well in at most {LEVEL:.0%} of draws"
TAU, MASK_TAU, EPS, MASKS = 0.2, 0.15, 1e-5, 3  # of TokenCut and MaskCut, as published
RULES: dict[str, dict[str, object]] = {
    "lost": {"potentials": POTENTIALS, "ties": "the first patch in row-major order"},
    "tokencut": {"tau": TAU, "eps": EPS, "a box": CHANCE},
    "maskcut": {"tau": MASK_TAU, "eps": EPS, "a box": CHANCE, "masks": MASKS, "box of CorLoc": "of the first mask"},
}


def one_blas_thread() -> AbstractContextManager[object]:
    """Keep numpy and scipy to one thread; otherwise their pools and torch's wait for each other, and cuts take twice as long."""
    from threadpoolctl import ThreadpoolController

    pools = ThreadpoolController()
    places = [pool["filepath"] for pool in pools.info() if re.search(r"(numpy|scipy)(\.libs)?[/\\]", pool["filepath"])]
    return pools.select(filepath=places).limit(limits=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The result of one setting in one image.

    Args:
        boxes: x0, y0, x1, y1 in pixels of the model's input without padding; the first is the prediction.
        scores: one for each box.
        patches: number of patches in the first box's object.
        nothing: why there is no box; empty if there is one.
        by_chance: whether the object's patches are no more connected than randomly placed patches.
        gap: eigengap of the cut, 0 without a box; None for LOST.
        maps: steps worth drawing, by title.
        regions: see `report.boxes.Steps`.
    """

    boxes: tuple[PixelBox, ...]
    scores: tuple[float, ...]
    patches: int
    nothing: str = ""
    by_chance: bool = False
    gap: float | None = None
    maps: dict[str, Float32[np.ndarray, "rows cols"]] = field(default_factory=dict)
    regions: UInt8[np.ndarray, "rows cols"] | None = None

    def emptied(self, why: str) -> Found:
        """Return this result without a box."""
        return replace(
            self, boxes=(), scores=(), patches=0, nothing=why, by_chance=False, gap=None if self.gap is None else 0.0
        )


class Search:
    """Applies settings to the features of one image after the other.

    Args:
        settings: settings with blocks counted from 0; the steps of the first are kept.
    """

    def __init__(self, settings: Sequence[Setting]) -> None:
        self.settings = tuple(settings)
        self.wanted: tuple[tuple[Feature, int], ...] = tuple(dict.fromkeys((s.feature, s.layer) for s in settings))

    def protocol(self, chosen: Setting) -> dict[str, object]:
        """The method's constants, for the record."""
        rules = dict(RULES[chosen.method])
        if any(setting.automatic for setting in self.settings):
            rules["automatic bias"] = AUTOMATIC
        return rules

    def __call__(
        self,
        features: Mapping[tuple[Feature, int], Float32[Tensor, "P D"]],
        grid: tuple[int, int],
        photograph: Photograph,
        patch: tuple[int, int],
    ) -> list[Found]:
        """Return the result of each setting, in order. A picture of one colour gives no box, because the features of its
        patches differ by position only.
        """
        prepared: dict[tuple[Feature, int, str], Tensor] = {}
        automatic: dict[tuple[Feature, int, str], float] = {}
        found = []
        for place, setting in enumerate(self.settings):
            key = (setting.feature, setting.layer, setting.normalisation)
            if key not in prepared:
                prepared[key] = prepare(features[setting.feature, setting.layer], setting.normalisation)  # [P, D]
            x = prepared[key]
            if setting.method != "lost":
                found.append(_cut(setting, x, grid, photograph, patch))
                continue
            bias = setting.bias.value
            if bias is None:
                if key not in automatic:
                    automatic[key] = float(automatic_bias(x))
                bias = automatic[key]
            elif setting.bias.relative:
                bias *= float(x.square().sum(-1).mean())
            found.append(_lost(x, grid, bias, photograph, patch, steps=place == 0))
        return [each.emptied(PLAIN) for each in found] if photograph.plain else found


def _lost(
    x: Float32[Tensor, "P D"], grid: tuple[int, int], bias: float, photograph: Photograph, patch: tuple[int, int], *,
    steps: bool,
) -> Found:  # fmt: skip
    """Box of LOST, if there is an object. Its score is the share of the other patches not similar to the seed."""
    one = lost_batch(x[None], grid, bias=bias, k=POTENTIALS)[0]
    apart = 1 - one.degree.float() / max(len(x) - 1, 1)  # [rows, cols]
    score = float(apart.view(-1)[one.seed])
    found = Found(
        boxes=() if one.box is None else (to_pixels(one.box, patch, photograph.seen),),
        scores=() if one.box is None else (score,),
        patches=0 if one.box is None else int(one.mask.sum()),
        nothing=one.nothing,
        by_chance=one.by_chance and one.box is not None,
    )
    if not steps:
        return found
    return replace(
        found,
        maps={"inverse degree": apart.numpy(), "Gram matrix, row of the seed": one.gram_row.numpy()},
        regions=regions_of(one.mask.numpy(), one.similars.tolist(), one.seed),
    )


def _cut(
    setting: Setting, x: Float32[Tensor, "P D"], grid: tuple[int, int], photograph: Photograph, patch: tuple[int, int]
) -> Found:
    """Box of TokenCut or boxes of MaskCut, if there are objects. The score is the object's share of the squared eigenvector."""
    if setting.method == "tokencut":
        cuts = [tokencut(x, grid, tau=TAU, eps=EPS)]
    else:
        cuts = maskcut(x, grid, masks=MASKS, tau=MASK_TAU, eps=EPS)
    boxes, scores = [], []
    for cut in cuts:
        if cut.box is not None:
            squared = cut.eigenvector.square()
            boxes.append(to_pixels(cut.box, patch, photograph.seen))
            scores.append(float(squared[cut.mask].sum() / squared.sum()))
    return Found(
        boxes=tuple(boxes),
        scores=tuple(scores),
        patches=0 if cuts[0].box is None else int(cuts[0].mask.sum()),
        nothing=cuts[0].nothing,
        gap=cuts[0].gap,
        maps={"second eigenvector": cuts[0].eigenvector.float().numpy()},
        regions=regions_of(cuts[0].mask.numpy(), (), cuts[0].seed),
    )
