"""The settings of the optimiser, the same for every recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    """Warm-up and cosine exactly as in whose code: deit's cosine begins during the warm-up, clip's first rate is above 0."""
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
