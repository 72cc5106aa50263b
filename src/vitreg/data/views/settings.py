"""How training pictures become crops, as settings: single crops, mixed images, multi-crop. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vitreg.errors import UserError

_RAND_AUGMENT = re.compile(r"rand(-(m|n|mmax|inc)\d+|-(p|mstd)\d+(\.\d+)?|-t(weights|3a|3aw))*")


BLUR_RADIUS = 4  # of a kernel of 9 pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """From picture to training crop with labels. The defaults are DeiT-III's on ImageNet-21k."""

    crop: Literal["src", "rrc"] = "src"
    """Simple random crop (short side resized, padded by 4, cut at a random place), or random resized crop."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the picture's area that a random resized crop has; for crop = rrc."""
    flip: float = 0.5
    """Chance to mirror left and right."""
    three_augment: bool = True
    """3-Augment: one of grey, solarised and blurred."""
    colour_jitter: float = 0.3
    """Strongest change of brightness, contrast and saturation; 0 changes nothing."""
    rand_augment: str | None = None
    """Policy of timm's RandAugment such as rand-m9-mstd0.5-inc1, in place of 3-Augment and the colour jitter."""

    def __post_init__(self) -> None:
        check_scale("scale", self.scale)
        check_share("flip", self.flip)
        if self.colour_jitter < 0:
            raise UserError(f"colour_jitter must not be negative, not {self.colour_jitter}.")
        if self.rand_augment is not None and not _RAND_AUGMENT.fullmatch(self.rand_augment):
            raise UserError(f"rand_augment '{self.rand_augment}' is no policy; one is rand-m9-mstd0.5-inc1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class MixConfig:
    """How images and their labels are mixed with those of another image. The defaults are DeiT-III's on ImageNet-1k."""

    mixup: float = 0.8
    """Shape of the Beta distribution of Mixup's shares; 0 never adds images up."""
    cutmix: float = 1.0
    """Shape of the Beta distribution of CutMix's shares; 0 never pastes rectangles."""
    prob: float = 1.0
    """Chance to mix at all."""
    switch_prob: float = 0.5
    """Chance of CutMix where both are on."""
    mode: Literal["batch", "pair", "elem"] = "batch"
    """What shares a draw: a whole group, the two images of a pair, or one image."""
    smoothing: float = 0.0
    """Part of a label that is spread evenly over all classes."""

    def __post_init__(self) -> None:
        for name, value in (("prob", self.prob), ("switch_prob", self.switch_prob), ("smoothing", self.smoothing)):
            check_share(name, value)
        if min(self.mixup, self.cutmix) < 0:
            raise UserError(f"mixup {self.mixup} and cutmix {self.cutmix} must not be negative; 0 switches one off.")


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiCropConfig:
    """From picture to crops. The defaults are DINOv2's with patches of 14 pixels; see also `DINO_CROPS`."""

    local_crops: int = 8
    """Small crops of each picture."""
    local_size: int = 98
    """Side of a small crop in pixels, a multiple of the patch: 98 for 14, 96 for 16."""
    global_scale: tuple[float, float] = (0.32, 1.0)
    """Share of the picture's area that a large crop shows."""
    local_scale: tuple[float, float] = (0.05, 0.32)
    """Share of the picture's area that a small crop shows."""
    flip: float = 0.5
    """Chance to mirror a crop left and right."""
    colour_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Strongest change of brightness, contrast, saturation and hue."""
    jitter: float = 0.8
    """Chance of the colour jitter."""
    grey: float = 0.2
    """Chance to lose the colours."""
    solarize: float = 0.2
    """Chance to invert the bright half of the range, second large crop only."""
    blur: Literal["official", "intended"] = "official"
    """Chances to blur the two large crops and a small one: 0, 0.9, 0.5 as DINOv2 trained, or 1, 0.1, 0.5 as it meant to."""
    blur_filter: Literal["gauss9", "pillow"] = "gauss9"
    """A Gaussian cut to 9 pixels (DINOv2), or Pillow's GaussianBlur (DINO)."""

    def __post_init__(self) -> None:
        check_scale("global_scale", self.global_scale)
        check_scale("local_scale", self.local_scale)
        check_share("flip", self.flip)
        check_share("jitter", self.jitter)
        check_share("grey", self.grey)
        check_share("solarize", self.solarize)
        if self.local_crops < 0 or self.local_size <= BLUR_RADIUS:
            raise UserError(
                f"{self.local_crops} local crops of {self.local_size} px are not possible; DINOv2 uses 8 of 98 px."
            )
        if min(self.colour_jitter) < 0 or self.colour_jitter[3] > 0.5:
            raise UserError(f"colour_jitter {tuple(self.colour_jitter)} must not be negative, hue at most 0.5.")


def check_scale(name: str, scale: tuple[float, float]) -> None:
    """Refuse what is no range of shares of a picture's area. Raises UserError."""
    if not 0 < scale[0] <= scale[1] <= 1:
        raise UserError(f"{name} {tuple(scale)} is no range of shares; one is (0.08, 1.0).")


def check_share(name: str, value: float) -> None:
    """Refuse what is no probability. Raises UserError."""
    if not 0 <= value <= 1:
        raise UserError(f"{name} must lie between 0 and 1, not {value}.")


DINO_CROPS = MultiCropConfig(
    local_size=96, global_scale=(0.4, 1.0), local_scale=(0.05, 0.4), blur="intended", blur_filter="pillow"
)
"""What DINO trained with."""
