"""Settings of the dense tasks (a map per image) and of `complexity`. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vitreg.data.sets.settings import IGNORE
from vitreg.errors import UserError
from vitreg.verbs.eval.settings.task import TaskSettings

NEAREST = 1e-3  # metres, the nearest bin of depth


@dataclass(frozen=True, kw_only=True)
class SegmentationSettings(TaskSettings):
    """Train a linear layer on frozen patch tokens to predict the class of every pixel: mIoU.

    The head is DINOv2's for ADE20k (batch norm, then linear, logits interpolated; the paper, Tab. 2a). Intersections and
    unions are summed over all images; a class predicted but never true counts as 0. DATA is voc2012:ROOT,
    ade20k:ROOT, or a folder with train/ and val/, each with images/ and masks/.

    The short protocol squashes images to one size and passes each once, with its mirror image; ade20k trains on random
    crops for 40 000 steps and judges by sliding windows, as published. Controls: the commonest class everywhere, and the
    same head trained with the masks of other images, which knows what masks look like but nothing of the image.

    Example: vitreg eval timm:vit_small_patch14_reg4_dinov2.lvd142m segmentation voc2012:VOCdevkit/VOC2012 --size 448
    """

    title = "Segmentation"
    measured = "A linear layer on the patch tokens tells the classes of pixels with a mean IoU of {value}"

    protocol: Literal["short", "ade20k"] = "short"
    """short, or the published one: crops of 512 px, scale 0.5 to 2, flips, colours; hours on a GPU."""
    steps: int | None = None
    """Steps of the optimiser; 1000 (short) or 40 000 (ade20k) if unset. The warm-up keeps its share of them."""
    lr: float = 1e-3
    """Learning rate of AdamW."""
    batch: int = 16
    """Images that each step trains the head on. It changes the result; --batch-size changes speed and memory."""
    final_norm: bool = True
    """Read the patch tokens after the model's final norm."""
    masks: str | None = None
    """Name of the folder of masks, for a plain folder; common names are found automatically."""
    classes: int | None = None
    """Number of classes, for a plain folder; found in the training masks if unset."""
    ignore: int = IGNORE
    """Label of pixels without a class, for a plain folder."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        if self.batch < 2 or not self.lr > 0 or not _positive(self.steps):
            raise UserError(
                f"batch must be at least 2, lr above 0 and steps above 0, not {self.batch}, {self.lr:g} and "
                f"{_said(self.steps)}."
            )


@dataclass(frozen=True, kw_only=True)
class DepthSettings(TaskSettings):
    """Train a linear layer on frozen tokens to predict the distance of every pixel: RMSE in metres, lower is better.

    The head is DINOv2's for NYUd (patch and class token side by side, 256 bins of distance; the paper, Tab. 2a), trained
    with the scale-invariant loss. Errors are averaged over images. DATA is nyud:ROOT (the lists of BTS) or a folder with
    train/ and test/, each with image/ and depth/.

    The short protocol squashes images to one size and passes each once, with its mirror image; nyud trains on random
    crops for 38 400 steps, as published. Both average over the mirror image when judging. Controls: the mean depth at
    each place of the image, and one mean depth everywhere.

    Example: vitreg eval timm:vit_small_patch14_reg4_dinov2.lvd142m depth nyuv2/ --depth-scale 0.0392157
    """

    title = "Depth"
    measured = "A linear layer on the tokens tells distances with an RMSE of {value}"

    protocol: Literal["short", "nyud"] = "short"
    """short, or the published one: crops of 416x544 px, turned, mirrored, coloured; hours on a GPU."""
    layers: Literal["1", "4"] = "1"
    """Read the last block (lin. 1), or four blocks spread over the depth (lin. 4)."""
    cls: bool = True
    """Put the class token beside every patch token, as published."""
    final_norm: bool = False
    """Read tokens after the model's final norm; published heads read them before."""
    steps: int | None = None
    """Steps of the optimiser; 1000 (short) or 38 400 (nyud) if unset. The warm-up keeps its share of them."""
    lr: float | None = None
    """Learning rate of AdamW; 1e-3 (short) or 1e-4 (nyud) if unset."""
    batch: int | None = None
    """Images that each step trains the head on; 8 (short) or 16 (nyud) if unset. It changes the result; --batch-size
    changes speed and memory."""
    max_depth: float = 10.0
    """The farthest bin in metres; pixels beyond it are not judged."""
    depth_scale: float | None = None
    """Metres per unit in the depth files; 0.001 for 16-bit files and 1 for floats if unset; 8-bit files need it."""
    gradient_loss: bool = False
    """Add half of the loss of slopes. The published heads were trained without, since it was always 0 there."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        if not all(map(_positive, (self.batch, self.steps, self.lr))) or not NEAREST < self.max_depth < math.inf:
            raise UserError(
                "batch, steps, lr and max-depth must lie above 0 and be finite, not "
                f"{_said(self.batch)}, {_said(self.steps)}, {_said(self.lr)} and {self.max_depth:g}."
            )


@dataclass(frozen=True, kw_only=True)
class ComplexitySettings(TaskSettings):
    """Count what registers cost: parameters and multiply-adds of a ViT of this shape with 0, 1, 2, 4, 8 and 16 of them.

    Everything is counted twice, in closed form and by PyTorch's FLOP counter with attention in plain products (Darcet et
    al. 2024, App. B, Fig. 12). Also: the stripes that small crops leave in the gradient of the position table (App. A,
    Figs. 10 and 11). Weights do not matter, so --random will do; there is no DATA.

    Example: vitreg eval timm:vit_large_patch14_dinov2 complexity --random --size 224
    """

    title = "Cost of registers"
    measured = "{registers} more multiply-adds: {value}"

    registers: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    """How many registers; everything is compared with none."""
    local_size: int = 98
    """Side in pixels of the small crops whose gradient reaches a position table for --size; rounded to whole patches."""
    measure: bool = False
    """Also time forward passes with and without registers, on this machine; only ratios are worth anything."""
    rounds: int = 10
    """Timed rounds of --measure; a round runs every number of registers once."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        if not self.registers or min(self.registers) < 0 or self.rounds < 1:
            raise UserError("name at least one number of registers, none below 0, and at least one round.")
        if self.local_size < 1:
            raise UserError(f"the size of small crops must be at least 1, not {self.local_size}.")


def _positive(value: float | None) -> bool:
    """Whether a setting is unset, or positive and finite."""
    return value is None or 0 < value < math.inf


def _said(value: float | None) -> str:
    return "unset" if value is None else f"{value:g}"
