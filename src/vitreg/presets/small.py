"""Runs for two CPU cores, for ten minutes of one GPU, and smoke tests of a few steps.

They show the recipes on a few thousand images, with and without registers; they do not reproduce the paper. Their
residual branches start at full strength: with LayerScale from 1e-4 the blocks would contribute little in runs this
short.
"""

from __future__ import annotations

from dataclasses import replace

from vitreg.data.sets.settings import DataConfig
from vitreg.data.views.settings import DINO_CROPS, AugmentConfig, MixConfig, MultiCropConfig
from vitreg.models.settings import ModelConfig
from vitreg.recipes.settings import ClipConfig, DinoConfig, DinoV2Config, MaeConfig, OptimConfig, SupervisedConfig
from vitreg.training.settings import RunConfig, TrainConfig

IMAGENETTE = 9469  # images of its training side


def deit3_imagenette_cpu() -> TrainConfig:
    """DeiT-III on Imagenette for two CPU cores: 192 channels, 6 blocks, patches of 12 px at 96 px, 48 epochs, an hour of one core.

    Give --data.root imagenette-128 (or imagenette2-160). Augmentation is lighter and batches are smaller than DeiT-III's:
    with its own, ten epochs of a ViT-T/16 reached 39 % top-1; with these but without CutMix, twelve reached 56 %. A
    ViT-T/16 costs as much as this network and learns half as fast. Whole runs: docs/verbs/train.md.
    """
    return TrainConfig(
        model=ModelConfig(
            size="T", depth=6, patch=12, image_size=96, token_init=0.02, register_init=0.02, layer_scale=None
        ),
        data=DataConfig(workers=1),
        recipe=SupervisedConfig(
            loss="ce",
            augment=AugmentConfig(crop="rrc", scale=(0.35, 1.0), three_augment=False, colour_jitter=0.3),
            mix=MixConfig(mixup=0.0, cutmix=1.0, prob=0.25, smoothing=0.1),
            group=64,
        ),
        optim=OptimConfig(lr=7e-4, min_lr=1e-5, warmup="2 epochs", weight_decay=0.05, clip=1.0),
        run=RunConfig(duration="48 epochs", batch=64, evaluate_every="4 epochs", watch_every="4 epochs", log_every=20),
    )


def dinov2_imagenette_cpu() -> TrainConfig:
    """DINOv2 on Imagenette for two CPU cores: 192 channels, 4 blocks, patches of 12 px at 96 px, 8 epochs, 20 to 40 minutes.

    Give --data.root imagenette-128. With few images per step, the official temperatures, number of prototypes and
    bottleneck width make the targets uniform, and so do learned prototypes. Here prototypes stay frozen, and both
    temperatures start at half the official values. Whole runs: docs/verbs/train.md.
    """
    return TrainConfig(
        model=ModelConfig(
            size="T", depth=4, patch=12, image_size=96, layer_scale=None, drop_path=0.1, drop_path_mode="subset"
        ),
        data=DataConfig(workers=1),
        recipe=DinoV2Config(
            crops=MultiCropConfig(local_crops=2, local_size=48, global_scale=(0.4, 1.0), local_scale=(0.15, 0.4)),
            prototypes=1024, hidden=512, bottleneck=48, separate_heads=False, freeze_last_layer=99, centring="sinkhorn",
            student_temp=0.05, teacher_temp_start=0.02, teacher_temp=0.02, momentum=0.98,
            epoch_steps=IMAGENETTE // 32, group=32,
        ),
        optim=OptimConfig(
            lr=4e-3, lr_scaling="sqrt1024", min_lr=1e-6, warmup="1 epochs", weight_decay=0.04, weight_decay_end=0.2,
            clip=3.0, clip_each_module=True,
        ),
        run=RunConfig(duration="8 epochs", batch=32, evaluate_every="1 epochs", watch_every="4 epochs", log_every=20),
    )  # fmt: skip


def dino_imagenette_cpu() -> TrainConfig:
    """DINO on Imagenette for two CPU cores, the same network, crops and length as dinov2-imagenette-cpu."""
    base = dinov2_imagenette_cpu()
    return replace(
        base,
        recipe=DinoConfig(
            crops=replace(DINO_CROPS, local_crops=2, local_size=48, local_scale=(0.15, 0.4)),
            prototypes=1024, hidden=512, bottleneck=48, freeze_last_layer=99, student_temp=0.05, teacher_temp_start=0.02,
            teacher_temp=0.02, momentum=0.98, epoch_steps=IMAGENETTE // 32, group=32,
        ),
    )  # fmt: skip


def mae_imagenette_cpu() -> TrainConfig:
    """MAE on Imagenette for two CPU cores: a ViT of 192 channels and 6 blocks at 96 px, 60 epochs, about half an hour (estimated)."""
    return TrainConfig(
        model=ModelConfig(size="T", depth=6, image_size=96, layer_scale=None, token_init=0.02, register_init=0.02),
        data=DataConfig(workers=1),
        recipe=MaeConfig(decoder_width=128, decoder_depth=2, decoder_heads=4),
        optim=OptimConfig(lr=1e-3, min_lr=0.0, warmup="5 epochs", betas=(0.9, 0.95), weight_decay=0.05),
        run=RunConfig(duration="60 epochs", batch=128, evaluate_every="6 epochs", watch_every="6 epochs", log_every=20),
    )


def clip_flickr8k_cpu() -> TrainConfig:
    """CLIP on a thousand images of Flickr8k for two CPU cores: 60 epochs at 112 px, six minutes.

    Give --data.root flickr8k/captions.json. Expected: see docs/verbs/train.md.
    """
    return TrainConfig(
        model=ModelConfig(
            size="T",
            depth=6,
            image_size=112,
            layer_scale=None,
            pre_norm=True,
            norm_eps=1e-5,
            token_init=0.07,
            register_init=0.07,
        ),
        data=DataConfig(workers=1),
        recipe=ClipConfig(
            crop_scale=(0.5, 1.0), embed_dim=128, text_width=128, text_heads=2, text_layers=4, context=32
        ),
        optim=OptimConfig(
            lr=1e-3, min_lr=0.0, warmup="5 epochs", curve="clip", betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2
        ),
        run=RunConfig(duration="60 epochs", batch=100, evaluate_every="6 epochs", watch_every="6 epochs", log_every=10),
    )


def deit3_lab() -> TrainConfig:
    """DeiT-III ViT-S/16 at 128 px on a set of some ten thousand images, 300 epochs: one GPU, ten minutes (estimated)."""
    base = deit3_imagenette_cpu()
    return replace(
        base,
        model=replace(base.model, size="S", depth=None, patch=16, image_size=128, drop_path=0.05),
        data=DataConfig(),
        optim=replace(base.optim, warmup="20 epochs"),
        run=RunConfig(duration="300 epochs", batch=512, compile=True),
    )


def dinov2_lab() -> TrainConfig:
    """DINOv2 ViT-S/16 at 128 px, 8 local crops of 64 px, 100 epochs: one GPU, ten minutes (estimated).

    Temperatures and prototypes as in dinov2-imagenette-cpu; not run yet.
    """
    base = dinov2_imagenette_cpu()
    return replace(
        base,
        model=replace(base.model, size="S", depth=12, patch=16, image_size=128),
        data=DataConfig(),
        recipe=replace(
            base.recipe,
            crops=MultiCropConfig(local_crops=8, local_size=64, global_scale=(0.4, 1.0), local_scale=(0.1, 0.4)),
            prototypes=2048, hidden=2048, bottleneck=64, momentum=0.992, epoch_steps=IMAGENETTE // 256,
        ),
        run=RunConfig(duration="100 epochs", batch=256, compile=True),
    )  # fmt: skip


def clip_lab() -> TrainConfig:
    """CLIP ViT-S/16 at 128 px on some thousand captioned images, 100 epochs: one GPU, five minutes (estimated)."""
    base = clip_flickr8k_cpu()
    return replace(
        base,
        model=replace(base.model, size="S", depth=12, image_size=128),
        data=DataConfig(),
        recipe=ClipConfig(
            crop_scale=(0.5, 1.0), embed_dim=256, text_width=256, text_heads=4, text_layers=6, context=32
        ),
        run=RunConfig(duration="100 epochs", batch=250, compile=True),
    )


def deit3_smoke() -> TrainConfig:
    """Twenty steps of DeiT-III on a tiny network, any folder of classes: seconds."""
    return _smoke(deit3_imagenette_cpu())


def clip_smoke() -> TrainConfig:
    """Twenty steps of CLIP on a tiny network, any captioned images: seconds."""
    return _smoke(clip_flickr8k_cpu())


def dinov2_smoke() -> TrainConfig:
    """Twenty steps of DINOv2 on a tiny network, any folder of images: seconds."""
    return _smoke(dinov2_imagenette_cpu())


def dino_smoke() -> TrainConfig:
    """Twenty steps of DINO on a tiny network, any folder of images: seconds."""
    return _smoke(dino_imagenette_cpu())


def mae_smoke() -> TrainConfig:
    """Twenty steps of MAE on a tiny network, any folder of images: seconds."""
    return _smoke(mae_imagenette_cpu())


def _smoke(config: TrainConfig) -> TrainConfig:
    return replace(
        config,
        model=replace(config.model, width=64, depth=3, heads=2),
        data=replace(config.data, limit=256, limit_val=64),
        recipe=replace(config.recipe, group=8),
        optim=replace(config.optim, warmup="10%"),
        run=RunConfig(
            duration="20 steps",
            batch=16,
            evaluate_every="10 steps",
            watch_every="10 steps",
            watch_images=16,
            log_every=5,
        ),
    )
