"""The parameters of `synthetic:retrieval`, as they are spelled behind its name. No torch and no numpy here."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from vitreg.errors import UserError, unknown


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
    """

    grid: int = 8
    code: int = 16
    tags: int = 2
    kinds: int = 6
    marked: float = 0.1
    background: float = 0.08
    diversity: float = 0.0
    loss: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("grid", 2, 64), ("code", 1, 256), ("tags", 1, 16), ("kinds", 1, 64), ("loss", 0, 1)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name}={value:g} of synthetic:retrieval must be from {low} to {high}.")
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

    @property
    def features(self) -> int:
        """Numbers that a tile shows: its code, a 0 or 1 for each kind of each tag, and whether it is marked."""
        return self.code + self.tags * self.kinds + 1

    @property
    def side(self) -> int:
        """Side of a tile in pixels: the smallest square whose bytes hold its features."""
        return math.isqrt(-(-self.features // 3) - 1) + 1

    @property
    def channels(self) -> int:
        """Numbers that are asked of a tile: its own code, and for each tag a mean of codes."""
        return self.code * (1 + self.tags)

    @property
    def spelling(self) -> str:
        """The parameters that are not the usual ones, ",background=0.24"; empty where all are."""
        changed = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
        return "".join(f",{name}={getattr(self, name):g}" for name in changed)


USUAL = RetrievalParameters()


def parameters_of(words: str) -> RetrievalParameters:
    """Read "background=0.08,diversity=1".

    Raises:
        UserError: for a parameter that there is not, naming the nearest, and for a value that cannot be.
    """
    known = {each.name: type(each.default) for each in fields(RetrievalParameters)}
    found = {}
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
        if not math.isfinite(found[name]):
            raise UserError(f"{name} of synthetic:retrieval is a finite number, not '{text}'.")
    return replace(USUAL, **found)
