"""The options of `discover`: its flags, its manual and the keywords of `vitreg.discover`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Suppress

from vitreg.passes.keywords import Also, Fitted, Listed, Size
from vitreg.passes.options import BLOCKS, at_least, check_size
from vitreg.verbs.discover.setting import Setting, Sweep, read_settings


@dataclass(frozen=True, kw_only=True)
class DiscoverOptions(Fitted):
    """Find an object in every image without labels (LOST, TokenCut, MaskCut), and measure how often it is one (CorLoc).

    Every image is seen at its own resolution. Writes result.json, boxes.json (COCO format) and pictures/ into --out. Exit
    code 0, 2 for a mistake, 130 after Ctrl-C (what was found is kept). The paper takes keys for DINOv2 and values for
    DeiT-III and OpenCLIP, and adds a bias to LOST's Gram matrix that it does not publish.

    Example: vitreg discover timm:vit_base_patch14_reg4_dinov2.lvd142m voc2012:VOCdevkit/VOC2012 --sweep

    Own images: vitreg discover SPEC images/ --boxes instances.json
    """

    method: str = "lost"
    """lost, tokencut or maskcut."""
    feature: Annotated[str, Listed("k|q|v|output")] | None = None
    """k, q, v (as their projection wrote them) or output of a block. Unset: k for lost; the cuts choose. With --sweep several, as k,v."""
    layer: Annotated[str, BLOCKS] | None = None
    """Block, such as 7. Unset: the last for lost; the cuts choose. With --sweep several, as 8,9,10,11."""
    normalize: Annotated[str, Listed(r"none|l2|center(\+l2)?")] | None = None
    """Of the features, image by image: none, l2, center or center+l2. Unset: center+l2 for lost; the cuts choose."""
    bias: Annotated[str, Listed(r"auto|[+-]?[\d.]+%?")] | None = None
    """Added to every entry of LOST's Gram matrix: auto (if unset), a number, or a share of its diagonal as --bias=-20%."""
    sweep: Annotated[bool, Also(Sweep)] = False
    """Compare features, blocks, normalisations and biases in one pass; lost needs true boxes for it."""
    size: Size | None = None
    """Short side in pixels, such as 480, or 384x512 (height x width, aspect not kept); the images' own size if unset."""
    hard: bool = True
    """Count objects that VOC marks difficult or truncated."""
    limit: int | None = None
    """Use at most this many images."""
    pictures: int = 30
    """How many images are shown with their boxes: the first ones."""
    steps: int = 6
    """How many images are shown with the steps of the method, as in the paper's Fig. 13: the first ones."""
    setting: Suppress[Setting | None] = None
    """In Python, in place of method, feature, layer, normalize and bias."""
    grid: Suppress[Sweep | None] = None
    """In Python: the settings that a sweep compares."""

    def __post_init__(self) -> None:
        """Refuse values that are wrong for any model. Raises UserError."""
        super().__post_init__()
        check_size(self.size)
        at_least(1, "limit", self.limit)
        at_least(0, "pictures", self.pictures)
        at_least(0, "steps", self.steps)
        if isinstance(self.sweep, Sweep):  # its name before it was a flag
            object.__setattr__(self, "grid", self.sweep)
        object.__setattr__(self, "sweep", self.grid is not None or bool(self.sweep))
        for name in ("feature", "layer", "normalize", "bias"):
            object.__setattr__(self, name, _words(getattr(self, name)))
        self.chosen()

    def chosen(self) -> tuple[Setting, Sweep | None]:
        """Return the setting whose boxes are kept, and the grid of a sweep. Raises UserError for a word that is not known."""
        if self.setting is not None:
            return self.setting, self.grid or (Sweep() if self.sweep else None)
        chosen, grid = read_settings(
            self.method,
            feature=self.feature,
            layer=self.layer,
            normalize=self.normalize,
            bias=self.bias,
            sweep=self.sweep,
        )
        return chosen, self.grid or grid


def _words(value: object) -> str | None:
    """Write what Python may give as numbers or in a tuple as on the command line."""
    if value is None or isinstance(value, str):
        return value
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
