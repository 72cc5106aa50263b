"""What training for the experiments costs, before anything runs: images, FLOPs, hours and disk, in closed form.

FLOPs are those of the backbones, forward and backward (three forward passes' worth); a teacher runs forward only. Heads and
probes are left out. Hours follow from a stated rate, or from how fast images are drawn, if that is slower. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vitreg.analysis.complexity import Architecture
from vitreg.data.sets.synthetic.naming import named
from vitreg.experiments.options import Scale
from vitreg.experiments.trained.model import RecipeName, Trained
from vitreg.experiments.trained.scales import config_of
from vitreg.models.settings import ModelConfig
from vitreg.schedule import parse_duration
from vitreg.training.settings import TrainConfig

BACKWARD = 3  # forward and backward, in forward passes
IMAGES = {"paper": {"dinov2": 14_197_122, "deit3": 14_197_122, "clip": 400_000_000}}
"""Images of an epoch where the data cannot be counted: ImageNet-22k; LAION-400M for CLIP, whose data the paper does not describe."""


@dataclass(frozen=True)
class Rate:
    """How fast a scale's machine is.

    Args:
        flops: a second. images: drawn and cropped a second; 0 where data are not what it waits for.
        unit: of its hours. words: what this is, and where it comes from.
    """

    flops: float
    images: float
    unit: str
    words: str


RATES: dict[Scale, Rate] = {
    "smoke": Rate(4e10, 180.0, "core hours", "one core at 40 GFLOP/s, the drawing of images included (measured)"),
    "lab": Rate(6e13, 800.0, "GPU hours", "a GPU at 60 TFLOP/s, 800 images a second drawn by 16 cores (calculated, not run)"),
    "paper": Rate(1.25e14, 0.0, "GPU hours", "an A100 at 125 TFLOP/s, 40 % of its peak in bfloat16"),
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What some trainings cost: images seen, FLOPs, hours of the scale's machine, bytes on disk."""

    images: int = 0
    flops: float = 0.0
    hours: float = 0.0
    disk: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.images + other.images, self.flops + other.flops, self.hours + other.hours, self.disk + other.disk
        )


def cost_of(models: Iterable[Trained], scale: Scale, data: str, longer: float = 1.0) -> Cost:
    """Return what training models costs together, each once.

    Args:
        data: DATA to train on; epochs of other than synthetic sets are counted at paper scale only.
        longer: how many times as long as the scale says.
    """
    return sum(
        (_cost(config_of(model, scale, data, longer), model, scale, data) for model in dict.fromkeys(models)), Cost()
    )


def _cost(config: TrainConfig, model: Trained, scale: Scale, data: str) -> Cost:
    rate = RATES[scale]
    drawn = named(data) if data else None
    count = drawn.count if drawn is not None else IMAGES.get(scale, {}).get(model.recipe, config.run.batch)
    steps = parse_duration(config.run.duration).steps(
        epoch_steps=config.recipe.official_epoch() or max(1, count // config.run.batch), batch=config.run.batch
    )
    images = steps * config.run.batch
    flops = images * flops_per_image(model.recipe, config)
    hours = max(flops / rate.flops, images / rate.images if rate.images else 0.0) / 3600
    return Cost(images, flops, hours, _disk(model.recipe, config))


def flops_per_image(recipe: RecipeName, config: TrainConfig) -> float:
    """Count the FLOPs of a training step for one image."""
    network, model = architecture(config.model), config.model
    own = network.macs((model.image_size, model.image_size), model.registers)
    settings: Any = config.recipe  # of the recipe that is named
    if recipe == "dinov2":
        crops = settings.crops
        local = network.macs((crops.local_size, crops.local_size), model.registers)
        return 2.0 * (2 * (BACKWARD + 1) * own + crops.local_crops * BACKWARD * local)
    if recipe == "clip":
        width, length = settings.text_width, settings.context
        text = settings.text_layers * (length * 12 * width**2 + 2 * length**2 * width)
        return 2.0 * BACKWARD * (own + text)
    return 2.0 * BACKWARD * own


def architecture(model: ModelConfig) -> Architecture:
    """Return the dimensions of a configured ViT."""
    held = model.arguments()
    hidden, gated = int(held["width"] * held["mlp_ratio"]), held["mlp"] == "swiglu"
    side = model.image_size // model.patch
    return Architecture(
        width=held["width"], depth=held["depth"], hidden=-(-int(hidden * 2 / 3) // 8) * 8 if gated else hidden, gated=gated,
        patch=(model.patch, model.patch), table=(side, side), layer_scale=model.layer_scale is not None, pre_norm=model.pre_norm,
    )  # fmt: skip


def _disk(recipe: RecipeName, config: TrainConfig) -> int:
    """Count the bytes of a run's folder: weights, and checkpoints of weights, moments and a teacher. Heads are left out."""
    weights = 4 * architecture(config.model).parameters(config.model.registers)
    held = 4 if recipe == "dinov2" else 3
    return weights * (1 + held * (config.run.keep + 1))
