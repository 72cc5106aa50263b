"""The options of `reproduce`: its flags, its manual and the keywords of `vitreg.reproduce`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Suppress

from vitreg.errors import UserError
from vitreg.passes.options import ImageOptions, at_least

Scale = Literal["smoke", "lab", "paper"]
MODELS: dict[str, tuple[str, ...]] = {
    "smoke": (
        "planted:high-norm",
        "planted:position-locked",
        "planted:global",
        "planted:global-registers",
        "planted:clean",
    ),
    "lab": (
        "timm:vit_base_patch14_dinov2.lvd142m",
        "timm:vit_base_patch14_reg4_dinov2.lvd142m",
        "timm:vit_base_patch16_224.dino",
    ),
    "paper": (
        "timm:vit_giant_patch14_dinov2.lvd142m",
        "timm:vit_giant_patch14_reg4_dinov2.lvd142m",
        "timm:vit_base_patch16_224.dino",
    ),
}
"""What each scale looks at: planted models, which need no download; models of one GPU; those of the paper."""
SCENES = "synthetic:scenes@0:1200"
"""Data with truth that needs no download."""


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(ImageOptions):
    """Repeat the figures and tables of "Vision Transformers Need Registers", and say of every claim whether it holds here.

    Each model is scanned and probed once for all experiments. Finished parts are kept: after Ctrl-C the same command goes on,
    and several processes on one folder share the work. Writes result.json, claims.json, report.html and figures/ into --out.

    Models run in fp32 unless --precision names another, so that a claim does not depend on what a machine is fast at.

    Example: vitreg reproduce fig3 fig5a -m timm:vit_base_patch14_dinov2.lvd142m --images photos/
    """

    scale: Scale = "smoke"
    """smoke: minutes of two cores, on planted models; lab: one GPU; paper: the paper's models. They differ in the models looked at."""
    models: Suppress[tuple[str, ...]] = ()
    """SPECs to look at in place of the scale's; on the command line -m SPEC for each."""
    images: tuple[str, ...] = ()
    """Images to look at; at smoke scale the photographs that scikit-image ships."""
    classes: str = ""
    """DATA with classes and two sides (train/, val/), for Table 1; at smoke scale synthetic scenes."""
    boxes: str = ""
    """A named set with true boxes, such as voc2007:VOCdevkit/VOC2007, for Table 3; at smoke scale synthetic scenes."""
    limit: int | None = 500
    """Use at most this many images."""
    seed: int = 0
    """Of every draw."""

    def __post_init__(self) -> None:
        """Refuse values that are wrong for any model. Raises UserError."""
        super().__post_init__()
        at_least(0, "seed", self.seed)
        if not self.images and self.scale != "smoke":
            raise UserError(f"--scale {self.scale} looks at your images; name them with --images.")

        for name in ("classes", "boxes"):
            if self.scale == "smoke" and not getattr(self, name):
                object.__setattr__(self, name, SCENES)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The models looked at."""
        return self.models or MODELS[self.scale]
