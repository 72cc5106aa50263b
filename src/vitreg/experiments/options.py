"""The options of `reproduce`: its flags, its manual and the keywords of `vitreg.reproduce`. No torch here."""

from __future__ import annotations

import math
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
TRAINED_ON = {"smoke": "synthetic:scenes@1:2000", "lab": "synthetic:scenes@1:20000"}
"""What models are trained on where nothing is named: other scenes than those they are judged by."""


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(ImageOptions):
    """Repeat the figures and tables of "Vision Transformers Need Registers", and say of every claim whether it holds here.

    Each model is scanned and probed once for all experiments. Finished parts are kept: after Ctrl-C the same command goes on,
    and several processes on one folder share the work. Writes result.json, claims.json, report.html and figures/ into --out.

    Models run in fp32 unless --precision names another, so that a claim does not depend on what a machine is fast at.

    Example: vitreg reproduce fig3 fig5a -m timm:vit_base_patch14_dinov2.lvd142m --images photos/
    """

    scale: Scale = "smoke"
    """smoke: minutes of two cores, on planted models; lab: one GPU; paper: the paper's models. They differ in the models looked
    at, and in how long models are trained."""
    models: Suppress[tuple[str, ...]] = ()
    """SPECs to look at in place of the scale's; on the command line -m SPEC for each."""
    images: tuple[str, ...] = ()
    """Images to look at; the photographs that scikit-image ships if unset, but at paper scale."""
    classes: str = ""
    """DATA with classes and two sides (train/, val/), for Tables 1 and 2 and Fig. 8; synthetic scenes if unset, but at paper scale."""
    boxes: str = ""
    """A named set with true boxes, such as voc2007:VOCdevkit/VOC2007, for Table 3; else as --classes."""
    masks: str = ""
    """DATA with a class for every pixel, such as ade20k:ADEChallengeData2016, for Table 2 and Fig. 8; else as --classes."""
    depths: str = ""
    """DATA with a distance for every pixel, such as nyud:NYU, for Table 2 and Fig. 8; else as --classes."""
    train: str = ""
    """DATA to train DINOv2 and DeiT-III on, with classes; else as --classes, from another seed."""
    captions: str = ""
    """DATA with captions to train CLIP on; else as --classes, from another seed."""
    seeds: int = 1
    """How often each model is trained. From fewer than three seeds nothing is claimed."""
    limit: int | None = 500
    """Use at most this many images."""
    seed: int = 0
    """Seed of every random draw."""

    longer: float = 1.0
    """Train this many times as long as the scale does."""
    processes: int | None = None
    """How many processes share the work, each with its part of the threads; on a CPU 2 at smoke scale without -m, else 1, if
    unset."""

    def __post_init__(self) -> None:
        """Refuse values that are wrong for any model. Raises UserError."""
        super().__post_init__()
        at_least(0, "seed", self.seed)
        at_least(1, "seeds", self.seeds)
        at_least(1, "processes", self.processes)
        if not 0 < self.longer < math.inf:
            raise UserError(f"--longer must be a number above 0, not {self.longer:g}.")

    @property
    def data(self) -> dict[str, str]:
        """The data with truth, and those to train on, by the names of the options; empty where there are none."""
        drawn, trained_on = ("", "") if self.scale == "paper" else (SCENES, TRAINED_ON[self.scale])
        return {
            "classes": self.classes or drawn, "boxes": self.boxes or drawn, "masks": self.masks or drawn,
            "depths": self.depths or drawn, "train": self.train or trained_on, "captions": self.captions or trained_on,
        }  # fmt: skip

    @property
    def subjects(self) -> tuple[str, ...]:
        """The models looked at."""
        return self.models or MODELS[self.scale]
