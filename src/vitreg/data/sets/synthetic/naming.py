"""How synthetic sets are named, `synthetic:scenes[@SEED][:COUNT][,canvas=WORD]` and `synthetic:retrieval[@SEED][:COUNT][,NAME=VALUE...]`,
in every verb. No torch and no numpy here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from vitreg.data.sets.synthetic.parameters import USUAL, RetrievalParameters, parameters_of
from vitreg.errors import UserError, nearest, unknown

PREFIX = "synthetic:"
SETS = ("scenes", "retrieval")
CANVASES = ("letterbox", "flat", "blurred")
"""What scenes may lie on: between black bars, or before one colour or a blurred copy."""
COUNT = 400
"""Images of the training side where none is named; the validation side has a fourth of them."""
MOST = 10_000_000
_EXAMPLE = "synthetic:scenes@7:500"

Side = Literal["train", "val"]
DRAWN_SIDES: tuple[Side, Side] = ("train", "val")


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A synthetic set: which, its seed, how many images its training side has, and what they are made of (retrieval), or
    what they lie on (scenes)."""

    name: str = "scenes"
    seed: int = 0
    count: int = COUNT
    parameters: RetrievalParameters = USUAL
    canvas: str = ""

    @property
    def title(self) -> str:
        """The name without the number of images, on which no image depends."""
        canvas = f",canvas={self.canvas}" if self.canvas else ""
        return f"{PREFIX}{self.name}@{self.seed}{self.parameters.spelling}{canvas}"

    def length(self, side: Side) -> int:
        """How many images a side has."""
        return self.count if side == "train" else -(-self.count // 4)


def named(text: str) -> Synthetic | None:
    """Read the name of a synthetic set; None for any other text.

    Raises:
        UserError: for a name that is not known, a seed or a count that is no whole number, or parameters that cannot be.
    """
    if not text.startswith(PREFIX):
        return _refuse_misspelt(text)
    place, comma, parameters = text.removeprefix(PREFIX).partition(",")
    words, colon, count = place.partition(":")
    name, at, seed = words.partition("@")
    if name not in SETS:
        raise unknown("synthetic set", name, SETS)
    if (at and not _whole(seed)) or (colon and not _whole(count)):
        wrong, what = (count, "number of images") if not at or _whole(seed) else (seed, "seed")
        raise UserError(f"the {what} of a synthetic set is a whole number, not '{wrong}', as in '{_EXAMPLE}'.")
    canvas = _canvas(parameters) if comma and name == "scenes" else ""
    made_of = parameters_of(parameters) if name == "retrieval" else USUAL
    found = Synthetic(name, int(seed or 0), int(count or COUNT), made_of, canvas)
    if not 1 <= found.count <= MOST:
        raise UserError(f"'{text}' asks for {found.count} images; 1 to {MOST} can be drawn.")
    return found


def _canvas(text: str) -> str:
    name, _, word = text.partition("=")
    if name != "canvas":
        raise UserError(
            f"synthetic:scenes has no parameters but canvas, and '{text}' looks like some; retrieval has others."
        )
    if word not in CANVASES:
        raise unknown("canvas", word, CANVASES, "synthetic:scenes")
    return word


def _whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


def _refuse_misspelt(text: str) -> None:
    """Suggest the prefix if something like sinthetic:scenes is no path."""
    prefix, colon, words = text.partition(":")
    sets = words.partition("@")[0].partition(":")[0].partition(",")[0]
    if colon and sets in SETS and nearest(prefix, (PREFIX[:-1],), 1) and not os.path.lexists(text):
        raise UserError(f"no data '{text}'. Did you mean '{PREFIX}{words}'?")
