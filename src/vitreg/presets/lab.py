"""Runs in which artifacts grow: a few minutes of one CPU core."""

from __future__ import annotations

from vitreg.data.sets.settings import DataConfig
from vitreg.models.settings import ModelConfig
from vitreg.recipes.settings import OptimConfig, RegressionConfig
from vitreg.training.settings import RunConfig, TrainConfig


def lab_retrieval() -> TrainConfig:
    """Tiles that look for the tiles they share a tag with; no registers (-reg1, -reg4 ... for some), 5000 steps of one core.

    The data are drawn, and no image comes twice.
    """
    return TrainConfig(
        model=ModelConfig(
            width=64, depth=4, heads=2, patch=4, image_size=32, registers=0, register_init=0.02, mlp="swiglu",
            layer_scale=None, cls_token=False, positions="none", norm="rmsnorm", bias=False, frozen_patch_embed=True,
        ),
        data=DataConfig(root="synthetic:retrieval@0:160000", limit_val=256, workers=0),
        recipe=RegressionConfig(mean=(128 / 255, 128 / 255, 128 / 255), std=(32 / 255, 32 / 255, 32 / 255)),
        optim=OptimConfig(
            lr=5e-3, min_lr=5e-3, warmup="200 steps", curve="clip", betas=(0.9, 0.95), weight_decay=0.1, decay_tokens=True
        ),
        run=RunConfig(
            duration="5000 steps", batch=16, precision="fp32", evaluate_every="250 steps", watch_every="250 steps",
            watch_images=256, watch_maps=4, log_every=50, save_every="1000 steps",
        ),
    )  # fmt: skip
