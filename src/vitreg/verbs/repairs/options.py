"""The options of `repairs`: its flags, its manual and the keywords of `vitreg.repairs`. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vitreg.errors import unknown
from vitreg.passes.keywords import Listed
from vitreg.passes.options import ImageOptions, at_least
from vitreg.repair.settings import names

ALL, NONE = "all", "none"


@dataclass(frozen=True, kw_only=True)
class RepairsOptions(ImageOptions):
    """Compare repairs on the same images: what each gains, damages and costs, beside controls that must gain nothing.

    Half of the images are fitted on, a quarter (64 at most) is chosen with, the rest judges. Writes result.json, report.html
    and table.csv into --out. Exit code 0, 2 for a mistake, 4 if no model has anything to repair.

    Example: vitreg repairs -m timm:vit_small_patch14_dinov2.lvd142m photos/ --methods none,test-time
    """

    methods: Annotated[tuple[str, ...], Listed("[a-z][a-z0-9-]*")] = (ALL,)
    """Repairs to compare, such as none,test-time; all for every one. none, the model as it is, is always among them."""
    controls: bool = True
    """Measure the controls of every repair too: the same number of neurons, tokens or places by lot, and zero strength."""
    twin: str | None = None
    """Another model measured beside each, such as the same model trained with registers, or without."""
    boxes: Path | None = None
    """True boxes: a folder of VOC annotations (.xml) or a COCO instances file (.json)."""
    labels: Path | None = None
    """Classes for the model's own classifier: a JSON object {image, its stem, its folder or the word before "_": index}."""
    limit: int | None = 500
    """Use at most this many images."""
    seed: int = 0
    """Of every draw."""
    force: bool = False
    """Repair models without outliers all the same."""

    def __post_init__(self) -> None:
        """Refuse values that are wrong for any model. Raises UserError."""
        super().__post_init__()
        at_least(0, "seed", self.seed)


def methods_of(asked: Sequence[str]) -> list[str]:
    """Return the methods asked for, `none` first.

    Raises:
        UserError: for one that does not exist.
    """
    known = [NONE, *names()]
    for name in asked:
        if name not in (ALL, *known):
            raise unknown("method", name, (ALL, *known), "vitreg repairs")
    return known if ALL in asked else [NONE, *dict.fromkeys(name for name in asked if name != NONE)]
