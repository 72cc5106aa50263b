"""The options of `repairs`: its flags, its manual and the keywords of `vitreg.repairs`. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from vitreg.errors import UserError
from vitreg.passes.keywords import Listed
from vitreg.passes.options import ImageOptions, at_least
from vitreg.repair.asked import NONE, Wanted, wanted
from vitreg.repair.settings import names

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class RepairsOptions(ImageOptions):
    """Compare repairs on the same images: what each gains, damages and costs, beside controls that must gain nothing.

    Half of the images judge; a third of the others (64 at most) choose settings, and repairs are fitted on the rest. Writes result.json,
    report.html and table.csv into --out. Exit code 0, 2 for a mistake, 4 if no model has anything to repair.

    Example: vitreg repairs -m timm:vit_small_patch14_dinov2.lvd142m photos/ --methods none,test-time
    """

    methods: Annotated[tuple[str, ...], Listed(r"[a-z][\w.-]*(:[^,]+)?")] = (ALL,)
    """Repairs to compare, such as none,test-time; all for every one. none, the model as it is, is always among them. Settings
    follow a colon, named as the flags of vitreg fix: test-time:registers=2:token=mean."""
    controls: bool = True
    """Measure the controls of every repair too: the same number of random neurons, tokens or places, and zero strength."""
    twin: str | None = None
    """Another model measured beside each, such as the same model trained with registers, or without."""
    boxes: Path | None = None
    """True boxes: a folder of VOC annotations (.xml) or a COCO instances file (.json)."""
    masks: Path | None = None
    """Classes of pixels: a folder of masks (.png), each with the stem of its image and a class number at every pixel."""
    ignore: int = 255
    """Label of pixels without a class, in the masks."""
    labels: Path | None = None
    """Classes for the model's own classifier: a JSON object {image, its stem, its folder or the word before "_": index}."""
    names: Path | None = None
    """Names of the classes of --labels, for models with a text tower: a text file, one name a line in the order of the
    indices, or lines of index, tab, name."""
    templates: Literal["openai", "simple"] = "openai"
    """Sentences around the names: OpenAI's 80, or 7."""
    limit: int | None = 500
    """Use at most this many images."""
    seed: int = 0
    """Seed of every random draw."""
    force: bool = False
    """Repair models without outliers all the same."""

    def __post_init__(self) -> None:
        """Refuse values that are wrong for any model. Raises UserError."""
        super().__post_init__()
        at_least(0, "seed", self.seed)
        if self.names is not None and self.labels is None:
            raise UserError("--names are those of the classes in --labels; give these too.")


def methods_of(asked: Sequence[str]) -> list[Wanted]:
    """Return the repairs asked for, each once; all with their defaults for "all".

    Raises:
        UserError: for one that does not exist, a setting that it has not, or a value that does not fit.
    """
    found: dict[str, Wanted] = {}
    for word in asked:
        for each in names() if word == ALL else [] if word == NONE else [word]:
            one = wanted(each, (ALL, NONE))
            found.setdefault(str(one), one)
    return list(found.values())
