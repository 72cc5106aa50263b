"""The runs of the paper (Sec. 3.1), and the official recipes behind them on ImageNet-1k, each as published."""

from __future__ import annotations

from dataclasses import replace

from vitreg.data.views.settings import DINO_CROPS, AugmentConfig, MixConfig, MultiCropConfig
from vitreg.models.settings import ModelConfig
from vitreg.recipes.settings import ClipConfig, DinoConfig, DinoV2Config, MaeConfig, OptimConfig, SupervisedConfig
from vitreg.training.settings import RunConfig, TrainConfig


def deit3_b16_in22k() -> TrainConfig:
    """DeiT-III ViT-B/16 on ImageNet-22k with labels, as in Sec. 3.1 of the paper.

    32 GPUs, 240 epochs of 14 million images. Published (after linear probing): 84.7 top-1 with 0 and with 4 registers.
    """
    return TrainConfig(
        model=ModelConfig(size="B", token_init=0.02, register_init=0.02, layer_scale=1e-4, drop_path=0.1),
        recipe=_deit3_in22k(),
        optim=_lamb(lr=1e-3, weight_decay=0.02),
        run=RunConfig(duration="240 epochs", batch=2048),
    )


def deit3_b16_in22k_finetune() -> TrainConfig:
    """The 50 epochs of ImageNet-1k after deit3-b16-in22k; give --run.start-from run:DIR of that one.

    32 GPUs. Published: lr 3e-4, weight decay 0.02 and stochastic depth 0.15, all else as before.
    """
    return TrainConfig(
        model=ModelConfig(size="B", token_init=0.02, register_init=0.02, layer_scale=1e-4, drop_path=0.15),
        recipe=_deit3_in22k(),
        optim=_lamb(lr=3e-4, weight_decay=0.02),
        run=RunConfig(duration="50 epochs", batch=2048),
    )


def deit3_b16_in1k() -> TrainConfig:
    """DeiT-III ViT-B/16 on ImageNet-1k at 192 px, the 800-epoch recipe; finish with deit3-b16-in1k-finetune.

    8 GPUs, 800 epochs. Published after the 20 epochs at 224 px: 83.8 top-1 without registers.
    """
    return TrainConfig(
        model=ModelConfig(
            size="B", image_size=192, token_init=0.02, register_init=0.02, layer_scale=1e-4, drop_path=0.2
        ),
        recipe=_deit3_in1k(),
        optim=_lamb(lr=3e-3, weight_decay=0.05),
        run=RunConfig(duration="800 epochs", batch=2048),
    )


def deit3_s16_in1k() -> TrainConfig:
    """DeiT-III ViT-S/16 on ImageNet-1k at 224 px, 800 epochs. Published: 81.4 top-1 without registers."""
    return TrainConfig(
        model=ModelConfig(size="S", token_init=0.02, register_init=0.02, layer_scale=1e-4, drop_path=0.05),
        recipe=_deit3_in1k(),
        optim=_lamb(lr=4e-3, weight_decay=0.05),
        run=RunConfig(duration="800 epochs", batch=2048),
    )


def deit3_b16_in1k_finetune() -> TrainConfig:
    """The 20 epochs at 224 px that end DeiT-III's ImageNet-1k recipe; give --run.start-from run:DIR of the first part."""
    return TrainConfig(
        model=ModelConfig(size="B", token_init=0.02, register_init=0.02, layer_scale=1e-4, drop_path=0.2),
        recipe=SupervisedConfig(
            loss="ce",
            augment=AugmentConfig(crop="rrc", three_augment=False, rand_augment="rand-m9-mstd0.5-inc1"),
            mix=MixConfig(mixup=0.8, cutmix=1.0, smoothing=0.1),
            group=64,
        ),
        optim=replace(_lamb(lr=1e-5, weight_decay=0.1), name="adamw", min_lr=1e-6),
        run=RunConfig(duration="20 epochs", batch=512),
    )


def clip_b16() -> TrainConfig:
    """CLIP with a ViT-B/16 image tower, by OpenCLIP's defaults: the paper publishes no hyper-parameters of its own.

    Published zero-shot ImageNet top-1 on the paper's licensed data: 59.9 without, 60.1 with 4 registers. OpenCLIP's
    reference on LAION-400M (batch 33 792) has 67.1.
    """
    return TrainConfig(
        model=ModelConfig(
            size="B", layer_scale=None, pre_norm=True, norm_eps=1e-5, token_init=0.036, register_init=0.036
        ),
        recipe=ClipConfig(),
        optim=OptimConfig(
            lr=5e-4, min_lr=0.0, warmup="2000 steps", curve="clip", betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2
        ),
        run=RunConfig(duration="32 epochs", batch=32768, precision="bf16"),
    )


def dinov2_l14_in22k() -> TrainConfig:
    """DINOv2 ViT-L/14 from scratch on ImageNet-22k, as in Sec. 3.1 of the paper, with antialiased positions.

    96 GPUs of 80 GB, 3.3 days, 625 000 steps. Published without registers: 82.0 kNN, 84.5 linear; the paper's Table 2a
    has 84.3 linear without and 84.8 with 4 registers.
    """
    return TrainConfig(
        model=ModelConfig(
            size="L", patch=14, mlp="swiglu", layer_scale=1e-5, drop_path=0.4, drop_path_mode="subset"
        ),
        recipe=DinoV2Config(),
        optim=OptimConfig(
            lr=2e-4, lr_scaling="sqrt1024", min_lr=1e-6, warmup="80 epochs", weight_decay=0.04, weight_decay_end=0.2,
            patch_embed_lr=0.2, clip=3.0, clip_each_module=True, decay_tokens=True,
        ),
        run=RunConfig(duration="500 epochs", batch=3072),
    )  # fmt: skip


def dinov2_l16_in1k() -> TrainConfig:
    """DINOv2 ViT-L/16 on ImageNet-1k, the official short recipe. 32 GPUs, a day; published 81.6 kNN, 82.9 linear."""
    return TrainConfig(
        model=ModelConfig(size="L", patch=16, layer_scale=1e-5, drop_path=0.3, drop_path_mode="subset"),
        recipe=DinoV2Config(
            crops=MultiCropConfig(local_size=96),
            prototypes=65536, bottleneck=256, separate_heads=False, centring="softmax", momentum=0.992, group=64,
        ),
        optim=OptimConfig(
            lr=4e-3, lr_scaling="sqrt1024", min_lr=1e-6, warmup="10 epochs", weight_decay=0.04, weight_decay_end=0.4,
            layer_decay=0.9, patch_embed_lr=0.2, clip=3.0, clip_each_module=True, decay_tokens=True,
        ),
        run=RunConfig(duration="100 epochs", batch=2048),
    )  # fmt: skip


def dino_b16_in1k() -> TrainConfig:
    """DINO ViT-B/16 on ImageNet-1k, the paper's example without artifacts. 400 epochs; published 76.1 kNN, 78.2 linear.

    The arguments published beside the weights: lr 7.5e-4 for every 256 images, so 3e-3 at 1024; ten local crops of 5 to
    25 %, global ones of 25 % and more; prototypes frozen for three epochs. The official code clips each parameter's
    gradient to a norm of 0.3; here the norm of all together is clipped to 0.3.
    """
    return TrainConfig(
        model=ModelConfig(size="B", layer_scale=None, token_init=0.02, register_init=0.02, drop_path=0.1),
        recipe=DinoConfig(
            crops=replace(DINO_CROPS, local_crops=10, global_scale=(0.25, 1.0), local_scale=(0.05, 0.25)),
            teacher_temp=0.07, teacher_temp_epochs=50, freeze_last_layer=3,
        ),
        optim=OptimConfig(
            lr=1.5e-3, lr_scaling="linear512", min_lr=2e-6, warmup="10 epochs", weight_decay=0.04,
            weight_decay_end=0.4, clip=0.3, decay_tokens=True,
        ),
        run=RunConfig(duration="400 epochs", batch=1024),
    )  # fmt: skip


def mae_b16_in1k() -> TrainConfig:
    """MAE ViT-B/16 on ImageNet-1k, 800 epochs; published 68.0 linear after 1600."""
    return TrainConfig(
        model=ModelConfig(size="B", layer_scale=None, token_init=0.02, register_init=0.02),
        recipe=MaeConfig(),
        optim=OptimConfig(
            lr=3e-4, lr_scaling="linear512", min_lr=0.0, warmup="40 epochs", betas=(0.9, 0.95), weight_decay=0.05,
            decay_tokens=True,
        ),
        run=RunConfig(duration="800 epochs", batch=4096),
    )  # fmt: skip


def _deit3_in22k() -> SupervisedConfig:
    return SupervisedConfig(
        loss="ce",
        augment=AugmentConfig(crop="src", three_augment=True, colour_jitter=0.3),
        mix=MixConfig(mixup=0.0, cutmix=1.0, smoothing=0.1),
        group=64,
    )


def _deit3_in1k() -> SupervisedConfig:
    return SupervisedConfig(
        loss="bce",
        augment=AugmentConfig(crop="rrc", three_augment=True, colour_jitter=0.3),
        mix=MixConfig(mixup=0.8, cutmix=1.0, smoothing=0.0),
        repeats=3,
        group=256,
    )


def _lamb(lr: float, weight_decay: float) -> OptimConfig:
    return OptimConfig(
        name="lamb", lr=lr, min_lr=1e-5, warmup="5 epochs", warmup_lr=1e-6, curve="deit", weight_decay=weight_decay
    )
