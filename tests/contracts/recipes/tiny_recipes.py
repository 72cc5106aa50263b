"""Every recipe so small that a step takes milliseconds, built as the product builds them, with batches that suit them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from vitreg.data.batches.batch import TrainBatch
from vitreg.data.views.settings import MixConfig, MultiCropConfig
from vitreg.models.settings import ModelConfig
from vitreg.recipes.clip import VOCABULARY
from vitreg.recipes.settings import (
    ClipConfig,
    DinoConfig,
    DinoV2Config,
    MaeConfig,
    MaskConfig,
    RegressionConfig,
    SupervisedConfig,
)
from vitreg.testing.recipe_case import own_randomness
from vitreg.training.settings import RecipeConfig, RunConfig, TrainConfig
from vitreg.verbs.train.build import build_recipe

CLASSES, CONTEXT, LOCAL, NUMBERS = 5, 8, 16, 6

MODEL = ModelConfig(
    width=32,
    depth=2,
    heads=2,
    patch=8,
    image_size=32,
    registers=2,
    layer_scale=None,
    token_init=0.02,
    register_init=0.02,
)
ALL_KNOBS = {
    "registers": 3, "register_positions": True, "register_depth": 1, "register_dropout": 0.3,
    "register_decorrelation": 0.1, "drop_path": 0.3, "drop_path_mode": "subset",
}  # fmt: skip

_MIX = MixConfig(mixup=0.8, cutmix=1.0, smoothing=0.1)
_HEAD = {
    "crops": MultiCropConfig(local_crops=2, local_size=LOCAL),
    "prototypes": 48, "hidden": 24, "bottleneck": 16, "group": 2, "epoch_steps": 2,
}  # fmt: skip
_V2 = DinoV2Config(
    **_HEAD,
    ibot_prototypes=40,
    ibot_bottleneck=12,
    masks=MaskConfig(share=0.5, ratio=(0.2, 0.5)),
    teacher_temp_epochs=2.0,
)

RECIPES: dict[str, RecipeConfig] = {
    "supervised ce": SupervisedConfig(loss="ce", mix=_MIX, group=2),
    "supervised bce": SupervisedConfig(loss="bce", mix=replace(_MIX, smoothing=0.0), group=2),
    "supervised ema": SupervisedConfig(loss="ce", mix=_MIX, group=2, ema=0.9),
    "clip": ClipConfig(embed_dim=12, text_width=16, text_heads=2, text_layers=2, context=CONTEXT, group=2),
    "mae": MaeConfig(decoder_width=24, decoder_depth=1, decoder_heads=2, group=2),
    "dinov2 sinkhorn": _V2,
    "dinov2 softmax": replace(_V2, centring="softmax"),
    "dinov2 shared head": replace(_V2, separate_heads=False),
    "dino": DinoConfig(**_HEAD),
    "regression": RegressionConfig(channels=NUMBERS, own=2, group=2),
}


def build(recipe: RecipeConfig, model: ModelConfig = MODEL, seed: int | None = None) -> Any:
    """A recipe whose weights follow from the seed, or from torch's global generator."""
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    return build_recipe(TrainConfig(model=model, recipe=recipe, run=RunConfig(seed=seed)), CLASSES)


def batch_of(recipe: RecipeConfig, step: int, samples: int = 4) -> TrainBatch:
    """The global batch of a step: noise of the shapes that the recipe's view cuts, with what it `needs` beside it."""
    draw = torch.Generator().manual_seed(100 + step)
    stacks, target = cut_by(recipe)
    views = tuple(torch.randn(stack.shape[0], samples, *stack.shape[1:], generator=draw) for stack in stacks)
    match recipe.needs:
        case "none":
            return TrainBatch(views)
        case "label":
            return TrainBatch(views, torch.randint(CLASSES, (samples,), generator=draw))
        case "caption":
            texts = torch.randint(1, 1000, (samples, CONTEXT), generator=draw)
            texts[:, 0], texts[:, -1] = VOCABULARY - 2, VOCABULARY - 1
            return TrainBatch(views, texts)
        case "mask":
            classes = torch.randint(CLASSES, (samples, *target.shape), generator=draw)
            return TrainBatch(views, classes.to(torch.uint8))
        case "numbers":
            return TrainBatch(views, torch.randn(samples, *target.shape, generator=draw))


def cut_by(recipe: RecipeConfig) -> tuple[tuple[torch.Tensor, ...], Any]:
    """What the view cuts of a grey picture, and of its map where the recipe needs one: `NUMBERS` for each of 4 x 4 cells."""
    size = MODEL.image_size
    picture, view = Image.new("RGB", (size, size)), recipe.view(size)
    known = {"mask": np.zeros((size, size), np.uint8), "numbers": np.zeros((4, 4, NUMBERS), np.float32)}.get(
        recipe.needs
    )
    with own_randomness():
        return (view(picture), None) if known is None else view(picture, known)
