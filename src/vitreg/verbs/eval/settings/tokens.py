"""Settings of the tasks on single tokens, which separate outliers from other patches. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vitreg.errors import UserError
from vitreg.passes.options import DETECTORS
from vitreg.verbs.eval.settings.task import TaskSettings

Which = Literal["outliers", "registers", "random"]


@dataclass(frozen=True, kw_only=True)
class OutlierOptions(TaskSettings):
    """Which tokens are probed, and which of them count as outliers."""

    layer: int | None = None
    """Block whose output is probed, such as 7; the last if unset."""
    outlier_layer: int | None = None
    """Block whose norms define outliers; --layer if given, else the peak, where they stand out most."""
    detector: Annotated[str, DETECTORS] = "mixture"
    """What finds the outliers, as in `vitreg scan`."""
    final_norm: bool = True
    """Probe tokens after the model's final norm; outliers are always defined by norms before it."""
    calibration: int = 256
    """Images whose norms the detector sees, spread evenly over those to fit on."""

    def check(self) -> None:
        """Raise UserError for settings out of range, or a detector that does not exist."""
        if self.calibration < 1:
            raise UserError(f"the detector needs images; calibration must be at least 1, not {self.calibration}.")
        from vitreg.analysis.outliers import detector as detector_named

        detector_named(self.detector)


@dataclass(frozen=True, kw_only=True)
class TokensSettings(OutlierOptions):
    """Classify images by one of their tokens: the class token, a random normal patch, a random outlier, a register.

    Logistic regression on one token of each image, on the same images for every kind (the paper, Sec. 2.2, Table 1:
    outliers know more of the image than normal patches). DATA is a folder with classes and two sides (train/, val/).

    Example: vitreg eval timm:vit_large_patch14_dinov2.lvd142m tokens imagenette/
    """

    title = "What one token knows"
    measured = "One token ({name}) tells the class of {value} of the {judged}"

    missing: Literal["skip", "max-norm"] = "skip"
    """Images without an outlier: skip leaves them out of all rows; max-norm takes their patch with the most extreme norm."""


@dataclass(frozen=True, kw_only=True)
class PositionSettings(OutlierOptions):
    """Read the position of patches from their tokens: a linear classifier over the grid's cells, normal and outlier apart.

    Fitted on all patch tokens of the training images, judged on other images (the paper, Sec. 2.2, Fig. 5b: position is
    harder to read from outliers). Outliers that occur in few cells are easy to place: compare their accuracy with always
    guessing the commonest cell of their class. DATA is any images: a folder, files, an archive; every fifth is for
    judging.

    Example: vitreg eval timm:vit_large_patch14_dinov2.lvd142m position photos/
    """

    title = "Where a patch lies"
    measured = "A linear layer tells from the token of a patch where it lies, for {value} of them"

    solver: Literal["ridge", "logistic"] = "ridge"
    """ridge: least squares to one-hot cells, closed form, any number of images; logistic: softmax on some tokens."""
    tokens_per_image: int = 32
    """Tokens of each image that the logistic solver holds in memory, drawn at random."""

    def check(self) -> None:
        """Raise UserError for settings out of range, or a detector that does not exist."""
        OutlierOptions.check(self)
        if self.tokens_per_image < 1:
            raise UserError(f"tokens per image must be at least 1, not {self.tokens_per_image}.")


@dataclass(frozen=True, kw_only=True)
class PixelsSettings(OutlierOptions):
    """Reconstruct the pixels of each patch from its token by linear regression, normal and outlier tokens apart.

    Ridge regression in closed form, fitted on all patch tokens of the training images and judged on other images by the
    L2 error of a patch in normalised pixels (the paper, Sec. 2.2, Fig. 5b: outliers reconstruct worse). Plain patches are
    easier to guess: look at the explained share too. DATA is any images; every fifth is for judging.

    Example: vitreg eval timm:vit_large_patch14_dinov2.lvd142m pixels photos/
    """

    title = "What a patch shows"
    measured = "A linear layer restores the pixels of a patch from its token with an error of {value}"


@dataclass(frozen=True, kw_only=True)
class ControlsSettings(OutlierOptions):
    """Replace a class of tokens at every block's output, and measure what the class token loses.

    Outliers, registers and, for comparison, as many random normal patches are replaced by zeros, by their dataset mean,
    by Gaussian noise of the same mean and deviation in every channel, and by tokens of another image (Parodi et al. 2026;
    Sun et al. 2024). A linear and a kNN readout are fitted once, on class tokens of the untouched model, and judge those
    of the edited one; also the cosine of class tokens before and after. DATA is a folder with classes and two sides.

    Example: vitreg eval timm:vit_small_patch14_reg4_dinov2.lvd142m controls imagenette/ --replace registers random
    """

    title = "Tokens replaced"
    measured = "With no token replaced, a linear classifier is right for {value} of the {judged}"

    replace: tuple[Which, ...] = ("outliers", "registers", "random")
    """Which classes of tokens; those the model does not have are left out."""
