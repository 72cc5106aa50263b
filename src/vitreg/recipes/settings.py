"""The settings of every recipe and of the optimiser. No torch here: a mistake in a setting is said before it loads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vitreg.data.views.settings import DINO_CROPS, AugmentConfig, MixConfig, MultiCropConfig, check_scale
from vitreg.errors import UserError
from vitreg.schedule import RateCurve


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """How weights are updated. Learning rates and decay are schedules of the step, set at every step."""

    name: Literal["adamw", "lamb"] = "adamw"
    """AdamW, or LAMB as DeiT-III uses it (it clips the global gradient norm to 1 by itself)."""
    lr: float = 1e-3
    """Peak learning rate, before lr_scaling."""
    lr_scaling: Literal["none", "linear512", "sqrt1024"] = "none"
    """Multiply lr by batch / 512 (DeiT) or by the root of batch / 1024 (DINOv2); min_lr and warmup_lr stay."""
    min_lr: float = 1e-6
    """Learning rate at the end of the run."""
    warmup: str = "5%"
    """Duration of the linear warm-up, such as "10 epochs", "5000 steps" or "5%" of the run."""
    warmup_lr: float = 0.0
    """Learning rate at which the warm-up starts."""
    curve: RateCurve = "dinov2"
    """Whose warm-up and cosine, to the step: deit's cosine begins under the warm-up, clip's first step is not at 0."""
    per_epoch: bool = False
    """Move the learning rate once per epoch and one epoch late, as official DeiT does."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.05
    """Decoupled weight decay at the start, times the learning rate at every step."""
    weight_decay_end: float | None = None
    """Weight decay at the end, reached along a cosine; constant if unset."""
    layer_decay: float = 1.0
    """Multiplies the learning rate once per block counted from the output; tokens and patch projection learn slowest."""
    patch_embed_lr: float = 1.0
    """Multiplies the learning rate of the patch projection (0.2 in DINOv2)."""
    clip: float | None = None
    """Largest gradient norm; larger gradients are scaled down to it."""
    clip_each_module: bool = False
    """Clip the backbone and each head by their own norm, as DINOv2 does, instead of all by one."""
    decay_tokens: bool = False
    """Decay registers, CLS, mask token and positions too, as official DINOv2 does; DeiT-III and OpenCLIP do not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisedConfig:
    """DeiT-III. The defaults are its ImageNet-21k pre-training, which the paper uses."""

    kind: Literal["supervised"] = "supervised"
    """Names this recipe in configuration files."""
    loss: Literal["ce", "bce"] = "ce"
    """Cross-entropy on soft targets (ImageNet-21k), or BCE on targets above 0 (ImageNet-1k)."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """From picture to crop."""
    mix: MixConfig = field(default_factory=lambda: MixConfig(mixup=0.0, cutmix=1.0, smoothing=0.1))
    """Mixup, CutMix and label smoothing."""
    repeats: int = 1
    """Copies of a sample in a step, differently augmented (repeated augmentation; 3 on ImageNet-1k)."""
    ema: float | None = None
    """Also keep averaged weights, with this momentum, and evaluate those (DeiT keeps 0.99996 and evaluates the raw)."""
    group: int = 64
    """Consecutive samples that share the lambda of Mixup; officially the images of one GPU."""

    def __post_init__(self) -> None:
        if self.loss == "bce" and self.mix.smoothing:
            raise UserError(
                "loss bce takes every target above 0 as present, and smoothing makes all of them so; set one."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    """OpenCLIP. The defaults are its ViT-B/16; the paper publishes no hyper-parameters of its own."""

    kind: Literal["clip"] = "clip"
    """Names this recipe in configuration files."""
    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Smallest and largest share of the picture's area that the crop covers; there is no flip (texts say left and right)."""
    embed_dim: int = 512
    """Width in which images and texts are compared."""
    text_width: int = 512
    """Channels of a token of the text tower."""
    text_heads: int = 8
    """Attention heads of the text tower."""
    text_layers: int = 12
    """Blocks of the text tower."""
    context: int = 77
    """Tokens of a text, start and end included; what is longer is cut."""
    scale_start: float = 1 / 0.07
    """Factor on the cosine similarities at the start; its logarithm is learned."""
    scale_max: float = 100.0
    """Largest factor on the cosine similarities; the smallest is 1."""
    group: int = 1
    """Consecutive samples that share draws of stochastic depth; drop_path_mode = subset needs more than one."""

    def __post_init__(self) -> None:
        check_scale("crop_scale", self.crop_scale)
        if self.text_width % self.text_heads:
            raise UserError(
                f"a text tower of {self.text_width} channels cannot be shared by {self.text_heads} heads; "
                "make text_width a multiple of text_heads."
            )
        if not 1 <= self.scale_start <= self.scale_max:
            raise UserError(
                f"scale_start is {self.scale_start:g}, but training keeps the scale from 1 to scale_max, "
                f"{self.scale_max:g}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskConfig:
    """How much of the student's global crops is hidden (iBOT, DINOv2)."""

    share: float = 0.5
    """Of the global crops that have hidden patches."""
    ratio: tuple[float, float] = (0.1, 0.5)
    """Of the patches of such a crop, smallest and largest; stratified over the crops of a group."""

    def __post_init__(self) -> None:
        low, high = self.ratio
        if not 0 < self.share <= 1 or not 0 <= low <= high <= 1:
            raise UserError(
                f"masks need a share above 0 and up to 1, and a ratio from small to large within 0 and 1, "
                f"not share {self.share:g} and ratio {low:g} to {high:g}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class DinoV2Config:
    """DINOv2. The defaults are the ViT-L/14 from scratch on ImageNet-22k, which the paper uses."""

    kind: Literal["dinov2"] = "dinov2"
    """Names this recipe in configuration files."""
    crops: MultiCropConfig = field(default_factory=MultiCropConfig)
    """From picture to two global and several local crops."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """Which patches of the student's global crops are hidden."""
    prototypes: int = 131072
    """Logits of the head on CLS."""
    hidden: int = 2048
    """Width of the hidden layers of both heads."""
    bottleneck: int = 384
    """Width in which the head on CLS compares features with prototypes."""
    separate_heads: bool = True
    """Give patches a head of their own; otherwise the head on CLS serves both (the official short recipe)."""
    ibot_prototypes: int = 131072
    """Logits of the separate head on patches."""
    ibot_bottleneck: int = 256
    """Bottleneck of the separate head on patches."""
    norm_last_layer: bool = False
    """Keep the prototypes at length 1 (DINO); DINOv2 trains their length too."""
    student_temp: float = 0.1
    """Temperature of the student's softmax."""
    teacher_temp_start: float = 0.04
    """Temperature of the teacher's targets at the first step."""
    teacher_temp: float = 0.07
    """Temperature of the teacher's targets after the warm-up."""
    teacher_temp_epochs: float = 30.0
    """Length of the linear warm-up of the teacher's temperature."""
    centring: Literal["sinkhorn", "softmax"] = "sinkhorn"
    """Spread the targets over the prototypes by Sinkhorn-Knopp, or subtract a running mean (the short recipe)."""
    centre_momentum: float = 0.9
    """Share of the old centre kept at each step; for centring = softmax."""
    dino_weight: float = 1.0
    """Weight of the loss on CLS, local and global."""
    ibot_weight: float = 1.0
    """Weight of the loss on hidden patches, a mean over all global crops, with hidden patches or not (as officially)."""
    koleo_weight: float = 0.1
    """Weight of the spreading of CLS features, for each of the two global crops."""
    momentum: float = 0.994
    """Share of the old teacher kept at the first step."""
    momentum_end: float = 1.0
    """Share of the old teacher kept at the end, reached along a cosine."""
    freeze_last_layer: float = 1.0
    """Epochs during which the prototypes do not learn."""
    epoch_steps: int = 1250
    """Optimiser steps that count as an epoch, whatever the size of the data (official: 1250)."""
    group: int = 32
    """Consecutive samples that share masks, stochastic depth and KoLeo's neighbours; officially the images of one GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DinoConfig:
    """DINO. The defaults are those of its official code."""

    kind: Literal["dino"] = "dino"
    """Names this recipe in configuration files."""
    crops: MultiCropConfig = DINO_CROPS
    """From picture to two global and several local crops."""
    prototypes: int = 65536
    """Logits of the head."""
    hidden: int = 2048
    """Width of the hidden layers of the head."""
    bottleneck: int = 256
    """Width in which the head compares features with prototypes."""
    norm_last_layer: bool = True
    """Keep the prototypes at length 1."""
    student_temp: float = 0.1
    """Temperature of the student's softmax."""
    teacher_temp_start: float = 0.04
    """Temperature of the teacher's targets at the first step."""
    teacher_temp: float = 0.04
    """Temperature of the teacher's targets after the warm-up (ViT-B: 0.07)."""
    teacher_temp_epochs: float = 0.0
    """Length of the linear warm-up of the teacher's temperature (ViT-B: 50)."""
    centre_momentum: float = 0.9
    """Share of the old centre kept at each step."""
    momentum: float = 0.996
    """Share of the old teacher kept at the first step."""
    momentum_end: float = 1.0
    """Share of the old teacher kept at the end, reached along a cosine."""
    freeze_last_layer: float = 1.0
    """Epochs during which the prototypes do not learn."""
    epoch_steps: int = 1251
    """Optimiser steps that count as an epoch, whatever the size of the data (ImageNet-1k at 1024 images a step: 1251)."""
    group: int = 64
    """Consecutive samples that share draws of stochastic depth; nothing else depends on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaeConfig:
    """MAE. The defaults are those of its official pre-training on ImageNet-1k."""

    kind: Literal["mae"] = "mae"
    """Names this recipe in configuration files."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of the picture's area that the crop covers, before a random flip."""
    mask_ratio: float = 0.75
    """Share of the patches that are hidden from the encoder."""
    norm_pixels: bool = True
    """Predict the pixels of a patch after subtracting their mean and dividing by their standard deviation."""
    decoder_width: int = 512
    """Channels of a token of the decoder."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""
    group: int = 1
    """Consecutive samples that share draws of masks and stochastic depth; drop_path_mode = subset needs more than one."""

    def __post_init__(self) -> None:
        check_scale("crop_scale", self.crop_scale)
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"mask_ratio must lie between 0 and 1 to leave something to see, not {self.mask_ratio:g}.")
        if self.decoder_width % 4 or self.decoder_width % self.decoder_heads:
            raise UserError(
                f"a decoder of {self.decoder_width} channels and {self.decoder_heads} heads cannot be built; "
                "make decoder_width a multiple of decoder_heads and of 4."
            )
