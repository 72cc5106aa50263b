"""How each scale trains and probes its models. A protocol shrinks with the scale, and every record says by how much.

`smoke` is minutes of two cores: a model sees a few thousand images, so it shows that an experiment runs and which way the
numbers point. `lab` is one GPU. `paper` has the paper's presets. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitreg.data.views.settings import MultiCropConfig
from vitreg.errors import UserError
from vitreg.experiments.options import Scale
from vitreg.experiments.trained.model import RECIPES, RecipeName, Trained
from vitreg.presets import preset
from vitreg.schedule import parse_duration
from vitreg.training.settings import TrainConfig, changed

Tables = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a scale trains and probes.

    Args:
        presets: of each recipe, the preset it starts from.
        changes: of each recipe, tables of settings over those of its preset.
        sizes: the sizes of Fig. 4c, smallest first: the name of each, empty for the scale's own, and its model settings.
        sized: the recipe of Fig. 4c.
        probes: settings of the tasks of `eval`, by task.
        words: what the scale does, for the page.
    """

    presets: Mapping[RecipeName, str]
    changes: Mapping[RecipeName, Tables] = field(default_factory=dict)
    sizes: Mapping[str, Mapping[str, Any]]
    sized: RecipeName = "dinov2"
    probes: Mapping[str, Mapping[str, Any]]
    words: str


# Small patches rather than large images: 64 patches of 8 pixels. Registers that start at DINOv2's 1e-6 would not part in a
# run this short.
_SMALL = {"width": 96, "depth": 6, "heads": 3, "patch": 8, "image_size": 64, "register_init": 0.02}
_QUIET = {
    "precision": "fp32",
    "save_every": "10%",
    "watch_every": "10%",
    "watch_images": 32,
    "log_every": 10,
    "keep": 1,
}
SMOKE = Protocol(
    presets={"dinov2": "dinov2-imagenette-cpu", "deit3": "deit3-imagenette-cpu", "clip": "clip-flickr8k-cpu"},
    changes={
        "dinov2": {
            "model": _SMALL, "optim": {"warmup": "10%", "lr": 8e-3},
            "recipe": {
                "crops": MultiCropConfig(local_crops=2, local_size=32, global_scale=(0.4, 1.0), local_scale=(0.15, 0.4)),
                "prototypes": 256, "hidden": 256, "group": 16, "epoch_steps": 100, "momentum": 0.96,
            },
            "run": _QUIET | {"duration": "260 steps", "batch": 16},
        },
        "deit3": {
            "model": _SMALL, "optim": {"warmup": "10%", "lr": 1e-3}, "recipe": {"group": 32},
            "run": _QUIET | {"duration": "220 steps", "batch": 32},
        },
        "clip": {
            "model": _SMALL, "optim": {"warmup": "10%"}, "run": _QUIET | {"duration": "160 steps", "batch": 64},
            "recipe": {"text_width": 96, "text_layers": 3, "embed_dim": 64, "context": 24},
        },
    },
    sizes={"small": {"width": 48, "depth": 4, "heads": 2}, "": {}, "large": {"width": 144, "depth": 8, "heads": 4}},
    sized="deit3",
    probes={
        "linear": {"steps": 300, "batch": 128}, "knn": {}, "segmentation": {"steps": 150, "batch": 16},
        "depth": {"steps": 150, "batch": 16}, "zeroshot": {"templates": "simple"},
    },
    words="networks of 96 channels, 6 blocks and 64 patches, a minute of training each; linear heads of some hundred steps",
)  # fmt: skip
_LAB = {"duration": "400 steps", "watch_every": "5%", "keep": 1}
LAB = Protocol(
    presets={"dinov2": "dinov2-lab", "deit3": "deit3-lab", "clip": "clip-lab"},
    changes={
        "dinov2": {"model": {"register_init": 0.02}, "run": _LAB | {"duration": "500 steps"}, "optim": {"warmup": "10%"}},
        "deit3": {"run": _LAB, "optim": {"warmup": "10%"}},
        "clip": {"run": _LAB, "optim": {"warmup": "10%"}},
    },
    sizes={"T": {"size": "T"}, "": {}, "B": {"size": "B"}},
    sized="deit3",
    probes={
        "linear": {"steps": 1250, "batch": 256}, "knn": {}, "segmentation": {"steps": 500}, "depth": {"steps": 500},
        "zeroshot": {},
    },
    words="ViT-S/16 at 128 px, some minutes of one GPU each; linear heads of a thousand steps",
)  # fmt: skip
PAPER = Protocol(
    presets={"dinov2": "dinov2-l14-in22k", "deit3": "deit3-b16-in22k", "clip": "clip-b16"},
    sizes={size: {"size": size} if size else {} for size in ("T", "S", "B", "", "H", "g")},
    probes={
        "linear": {"augmented": True}, "knn": {}, "segmentation": {"protocol": "ade20k"}, "depth": {"protocol": "nyud"},
        "zeroshot": {},
    },
    words="the paper's presets and protocols; DINOv2's sizes beside ViT-L have its own settings, which the paper does not give",
)  # fmt: skip
PROTOCOLS: dict[Scale, Protocol] = {"smoke": SMOKE, "lab": LAB, "paper": PAPER}


def sized(scale: Scale) -> tuple[Trained, ...]:
    """Return the models of Fig. 4c, smallest first."""
    protocol = PROTOCOLS[scale]
    return tuple(Trained(recipe=protocol.sized, registers=0, size=size) for size in protocol.sizes)


def config_of(model: Trained, scale: Scale, data: str, longer: float = 1.0) -> TrainConfig:
    """Return the complete run that trains a model.

    Args:
        data: DATA to train on. longer: how many times as long as the scale says.
    Raises:
        UserError: for a size that the scale does not have.
    """
    protocol = PROTOCOLS[scale]
    if model.size not in protocol.sizes:
        known = ", ".join(filter(None, protocol.sizes))
        raise UserError(f"--scale {scale} trains no {RECIPES[model.recipe]} of size '{model.size}'; it has {known}.")
    own = {
        "registers": model.registers, "register_decorrelation": model.decorrelation,
        "register_attention": "slots" if model.slots else "softmax", **protocol.sizes[model.size],
    }  # fmt: skip
    config = changed(preset(protocol.presets[model.recipe]), protocol.changes.get(model.recipe, {}))
    lasts = parse_duration(config.run.duration)
    run = {"seed": model.seed, "duration": f"{max(1, round(lasts.amount * longer))} {lasts.unit}"}
    return changed(config, {"model": own, "data": {"root": data}, "run": run})
