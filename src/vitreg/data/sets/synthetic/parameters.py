"""The parameters of `synthetic:retrieval`, as they are spelled behind its name. No torch and no numpy here."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from vitreg.errors import UserError, unknown

SHIPPED = "scikit-image"
"""What `photos` calls the photographs that need no folder."""
PATCH = 16
"""Side of a patch of a photograph in pixels."""
MOST_PATCHES = 32
"""Patches along a side of a photograph, at most: it is 512 pixels wide then."""
BOUNDS = {
    "grid": (2, 64),
    "code": (1, 256),
    "tags": (1, 16),
    "kinds": (1, 64),
    "loss": (0, 1),
    "flat": (0, 1),
    "pixels": (0, 1),
}
WORDS = {
    "task": ("tags", "left", "marked"), "mark": ("bit", "content"), "shown": ("foreground", "all", "none"),
    "answer": ("tiles", "image"), "tagged": ("drawn", "content", "segments"),
}  # fmt: skip
"""Parameters that are one of some words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalParameters:
    """What an image of `synthetic:retrieval` is made of.

    Args:
        grid: tiles along a side.
        code: numbers in the code of a tile.
        tags: tags of a tile.
        kinds: values that a tag can have.
        marked: share of the foreground tiles that are asked what they share.
        background: share of the tiles that are background; at least one tile is, unless it is 0.
        diversity: of the codes of background tiles, from one code an image (0) to independent ones (1).
        loss: whether background tiles must give their code too (1), or nothing is asked of them (0).
        task: what is asked of others: of marked tiles the mean code for each tag ("tags") or the code of the tile to the left
            ("left"), or of all tiles the mean code of the marked ones ("marked").
        mark: how a tile shows that it is marked: by a number of its own ("bit"), or by the last number of its code, the
            highest `marked` share of which is marked ("content").
        shown: which tiles show their tags: "foreground", "all" of them, or "none".
        answer: of whom it is asked: each of the "tiles", or the whole "image", which must give what its only marked tile must.
        photos: what codes are made of: nothing (they are drawn), "scikit-image" for the photographs that come with it, or a
            folder of photographs.
        flat: 1: the background is the flattest patches of a photograph, as they are; 0: tiles with codes of their own.
        tagged: where tags come from: "drawn", "content" (clusters of codes) or "segments" (of the masks beside photographs).
        pixels: 1: tiles show the pixels of the photograph, not codes.
    """

    grid: int = 8
    code: int = 16
    tags: int = 2
    kinds: int = 6
    marked: float = 0.1
    background: float = 0.08
    diversity: float = 0.0
    loss: int = 0
    task: str = "tags"
    mark: str = "bit"
    shown: str = "foreground"
    answer: str = "tiles"
    photos: str = ""
    flat: int = 0
    tagged: str = "drawn"
    pixels: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name}={value:g} of synthetic:retrieval must be from {low} to {high}.")
        for name, words in WORDS.items():
            if getattr(self, name) not in words:
                raise unknown(f"choice of {name}", getattr(self, name), words, "synthetic:retrieval")
        if not 0 <= self.background < 1:
            raise UserError(
                f"background={self.background:g} of synthetic:retrieval is a share of the tiles and leaves others; it goes "
                "from 0 to below 1."
            )
        if not 0 <= self.marked <= 1:
            raise UserError(
                f"marked={self.marked:g} of synthetic:retrieval would be more tiles than there are; it is a share, from 0 to 1."
            )
        if not 0 <= self.diversity <= 1:
            raise UserError(f"diversity={self.diversity:g} of synthetic:retrieval must be from 0 to 1.")
        self._refuse_what_does_not_go_together()

    def _refuse_what_does_not_go_together(self) -> None:
        for word, wanted in (
            ("flat=1", self.flat == 1), ("pixels=1", self.pixels == 1), (f"tagged={self.tagged}", self.tagged != "drawn"),
        ):  # fmt: skip
            if wanted and not self.photos:
                raise UserError(
                    f"{word} of synthetic:retrieval needs photographs; add photos={SHIPPED}, or photos=FOLDER."
                )
        if self.tagged == "segments" and self.photos == SHIPPED:
            raise UserError(
                f"tagged=segments of synthetic:retrieval needs masks, and the photographs of {SHIPPED} have none; add "
                "photos=FOLDER, where FOLDER holds JPEGImages and SegmentationClass as VOC does, or images and masks."
            )
        if self.tagged == "segments" and self.tags != 1:
            raise UserError(
                f"tagged=segments of synthetic:retrieval gives each tile one tag, its segment; add tags=1, not {self.tags}."
            )
        if self.tagged == "content" and self.tags > self.code:
            raise UserError(
                f"tagged=content of synthetic:retrieval takes a part of the code for each tag, and {self.code} numbers "
                f"have no {self.tags} parts; choose tags={self.code} or fewer."
            )
        if self.photos and self.grid > MOST_PATCHES:
            raise UserError(
                f"grid={self.grid} of synthetic:retrieval is too fine for photographs; it goes to {MOST_PATCHES}."
            )
        if self.photos and self.diversity:
            raise UserError("diversity of synthetic:retrieval is of drawn codes; leave it out with photos.")

    @property
    def extras(self) -> int:
        """Numbers that a tile shows beside its code: a 0 or 1 for each kind of each tag, and whether it is marked."""
        return self.tags * self.kinds * (self.shown != "none") + (self.mark == "bit")

    @property
    def features(self) -> int:
        """Bytes that a tile shows: those of its code or of its pixels, and the extras."""
        return (3 * PATCH**2 if self.pixels else self.code) + self.extras

    @property
    def side(self) -> int:
        """Side of a tile in pixels: the smallest square whose bytes hold its features."""
        return math.isqrt(-(-self.features // 3) - 1) + 1

    @property
    def channels(self) -> int:
        """Numbers that are asked of a tile: its own code, and what is asked of others."""
        return self.code * (1 + (self.tags if self.task == "tags" else 1))

    @property
    def spelling(self) -> str:
        """The parameters that are not the usual ones, ",background=0.24"; empty where all are."""
        changed = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
        return "".join(f",{name}={spelt(getattr(self, name))}" for name in changed)


USUAL = RetrievalParameters()


def spelt(value: float | str) -> str:
    """Spell a value as it stands behind a name."""
    return value if isinstance(value, str) else f"{value:g}"


def parameters_of(words: str) -> RetrievalParameters:
    """Read "background=0.08,diversity=1".

    Raises:
        UserError: for a parameter that there is not, naming the nearest, and for a value that cannot be.
    """
    known = {each.name: type(each.default) for each in fields(RetrievalParameters)}
    found: dict[str, Any] = {}
    for word in filter(None, words.split(",")):
        name, _, text = word.partition("=")
        if name not in known:
            raise unknown("parameter", name, known, "synthetic:retrieval")
        try:
            found[name] = known[name](text)
        except ValueError:
            kind = "a whole number" if known[name] is int else "a number"
            raise UserError(
                f"{name} of synthetic:retrieval is {kind}, not '{text}', as in '{name}={getattr(USUAL, name):g}'."
            ) from None
        if known[name] is not str and not math.isfinite(found[name]):
            raise UserError(f"{name} of synthetic:retrieval is a finite number, not '{text}'.")
    return replace(USUAL, **found)
