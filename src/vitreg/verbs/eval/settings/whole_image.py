"""Settings of the tasks on one feature of each image, or on its texts. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vitreg.errors import UserError
from vitreg.probes.defaults import KS, RATES, TEMPERATURE, grid
from vitreg.verbs.eval.settings.task import TaskSettings, some

Token = Literal["cls", "mean", "cls+mean"]


@dataclass(frozen=True, kw_only=True)
class KnnSettings(TaskSettings):
    """Classify images by the votes of their nearest training images, without training anything.

    DINOv2's protocol: cosine similarity of class tokens after the final norm, votes weighted by softmax(similarity /
    0.07) over the most neighbours asked for; short side 256, centre crop 224. The headline is 20 neighbours (or the
    first number given), not the best of them. DATA is a folder with classes in train/ and val/, shards, a set by name.

    Controls: the same votes with shuffled training labels, and always answering the commonest class.

    Example: vitreg eval timm:vit_small_patch14_reg4_dinov2.lvd142m knn imagenette/ --k 10 20
    """

    title = "Nearest neighbours"
    measured = "The vote of the nearest training images is right for {value} of the {judged}"

    k: tuple[int, ...] = KS
    """Numbers of neighbours."""
    temperature: float = TEMPERATURE
    """Temperature of the softmax that weights the votes."""
    token: Token = "cls"
    """The class token, the mean of the patch tokens, or both side by side."""
    n_per_class: tuple[int, ...] = ()
    """Also vote with only this many training images of each class (few-shot)."""
    n_tries: int = 5
    """Number of random draws of the few images, with seeds 0, 1, ..."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        if not self.k or min(self.k) < 1 or not 0 < self.temperature < math.inf:
            raise UserError(
                f"k must be at least 1, temperature above 0 and finite, not {some(self.k)} and {self.temperature:g}."
            )
        if min(self.n_per_class, default=1) < 1 or self.n_tries < 1:
            raise UserError(
                f"n_per_class and n_tries must be at least 1, not {some(self.n_per_class)} and {self.n_tries}."
            )


@dataclass(frozen=True, kw_only=True)
class LinearSettings(TaskSettings):
    """Train linear classifiers on frozen features, many learning rates and inputs side by side, and report the best.

    DINOv2's protocol: 13 learning rates times 4 inputs (class tokens of the last 1 or 4 blocks, with and without the
    mean of the last patch tokens; all after the final norm), SGD with momentum 0.9, no weight decay, cosine to 0. As
    published, the best head is picked on the side it is judged on, so its number is a little too good. DATA is a folder
    with classes in train/ and val/, shards, or a set by name.

    By default features are stored once and learned from without augmentation. --augmented trains on random crops, as
    published: the model then runs on every image of every step. 12 500 steps of 1024 images are ten epochs of ImageNet;
    they take minutes on a CPU however few the images are, and --steps 500 is enough for a first look at a small set.

    Controls: the best of as many heads, trained with shuffled labels; and the commonest class.

    Example: vitreg eval timm:vit_small_patch14_reg4_dinov2.lvd142m linear imagenette/ --batch 256 --steps 1000
    """

    title = "Linear classifier"
    measured = "A linear classifier on the features is right for {value} of the {judged}"

    augmented: bool = False
    """Train on random resized crops and mirror images, computing features anew in each step."""
    steps: int = 12_500
    """Of the optimiser."""
    batch: int = 1024
    """Images that each step trains the heads on, over all processes; learning rates are scaled by batch / 256. It
    changes the result; --batch-size changes speed and memory."""
    lr: tuple[float, ...] = RATES
    """Learning rates, for a batch of 256."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        if self.steps < 1 or self.batch < 1 or not self.lr or not all(0 < lr < math.inf for lr in self.lr):
            raise UserError(
                "steps, batch and learning rates must be above 0 and finite, not "
                f"{self.steps}, {self.batch} and {some(self.lr)}."
            )


@dataclass(frozen=True, kw_only=True)
class LogisticSettings(TaskSettings):
    """Logistic regression on one feature per image, with the best of 45 penalties on held-out images.

    DINOv2's protocol for transfer sets (the paper, Table 1): class token after the final norm, not L2-normalised; short
    side 224, centre crop 224; C in 10^-6 ... 10^5 chosen on the set's validation side, or else on a random tenth of the
    training images; then learned from both. The metric is the one customary on the set: top-1, mean over classes, or
    mean average precision where images have several labels. DATA is a folder with classes in train/ and val/ or test/,
    shards, or a set by name.

    Controls: the same with shuffled training labels, at the chosen C; and always answering the commonest class.

    Example: vitreg eval timm:vit_small_patch14_reg4_dinov2.lvd142m logistic cifar10:data/
    """

    title = "Logistic regression"
    measured = "Logistic regression on the features is right for {value} of the {judged}"

    token: Token = "cls"
    """The class token, the mean of the patch tokens, or both side by side."""
    c: tuple[float, ...] = field(default_factory=grid)
    """Values of C to choose from: the inverse strength of the penalty, as in scikit-learn."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        if not self.c or not all(0 < c < math.inf for c in self.c):
            raise UserError(f"C must be above 0 and finite, not {some(self.c)}.")


@dataclass(frozen=True, kw_only=True)
class ZeroShotSettings(TaskSettings):
    """Classify images by sentences about their classes, with a CLIP model: openclip:ARCH[@TAG], or run:DIR of one.

    80 templates of OpenAI per class, features normalised, averaged and normalised again; images with the short side
    resized to the input size, bicubic, and cropped to the centre (Radford et al. 2021, as in open_clip). DATA is a folder
    with class folders, shards, or a named set such as imagenet:FOLDER; only the side to judge on is read. Folders named
    by WordNet ids have open_clip's names of ImageNet's classes, others are read as words.

    Example: vitreg eval openclip:ViT-B-16@laion2b_s34b_b88k zeroshot imagenet:/data/imagenet
    """

    title = "Zero-shot classification"
    measured = "The nearest sentence names the class of {value} of the {judged}"

    templates: Literal["openai", "simple"] = "openai"
    """80 templates of OpenAI, or the 7 that were found to do nearly as well."""
    names: Path | None = None
    """Names of the classes: a text file, one name a line in the order of the classes, or lines of CLASS, tab, NAME."""


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings(TaskSettings):
    """Find captions for images and images for captions, with a CLIP model: openclip:ARCH[@TAG], or run:DIR of one.

    Recall at 1, 5 and 10 of all against all; an image is found if any of its captions is (Karpathy & Fei-Fei 2015, as CLIP
    reports it). DATA is a table (.json, .csv, .tsv) or shards with captions; of rows with a split, those of the
    validation or test side. Compare only numbers on equally many images: fewer are easier.

    Example: vitreg eval openclip:ViT-B-16@laion2b_s34b_b88k retrieval flickr8k/captions.json
    """

    title = "Retrieval"
    measured = "Between images and captions the mean recall at 1, 5 and 10 is {value}"

    captions_per_image: int | None = None
    """Use the first captions of each image only; 5 is usual for COCO. All if unset."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        if self.captions_per_image is not None and self.captions_per_image < 1:
            raise UserError(f"captions per image must be at least 1, not {self.captions_per_image}.")
