"""The published presets against the numbers that were published, as they come out after scaling and warm-up."""

from dataclasses import replace

import pytest

from vitreg.presets import preset
from vitreg.recipes.recipe import Progress
from vitreg.recipes.settings import DinoConfig, DinoV2Config
from vitreg.training.optim import rates
from vitreg.training.plan import plan

IN1K, IN22K, LAION = 1_281_167, 14_197_122, 400_000_000  # images of an epoch, where the recipe has no epochs of its own


def at_the_end_of_warm_up(name, images):
    """The steps of the warm-up, and the learning rate of the step after them."""
    config = preset(name)
    official = config.recipe.epoch_steps if isinstance(config.recipe, DinoV2Config | DinoConfig) else None
    steps = plan(config, images, official)
    progress = Progress(step=steps.warmup, total=steps.total, epoch_steps=steps.epoch_steps)
    return steps.warmup, rates(config.optim, progress, steps.warmup, config.run.batch).lr


@pytest.mark.parametrize(
    ("name", "images", "warmup", "peak"),
    [
        # DeiT-III names its rate for the whole batch; timm's cosine has begun under the warm-up: 5 epochs of 240, 50,
        # 800 or 20 are over.
        ("deit3-b16-in22k", IN22K, 5 * 6932, 1e-3 - 1.06e-6),
        ("deit3-b16-in22k-finetune", IN1K, 5 * 625, 2.92903e-4),
        ("deit3-b16-in1k", IN1K, 5 * 625, 3e-3 - 2.9e-7),
        ("deit3-s16-in1k", IN1K, 5 * 625, 4e-3 - 3.8e-7),
        ("deit3-b16-in1k-finetune", IN1K, 5 * 2502, 8.682e-6),
        ("clip-b16", LAION, 2000, 5e-4),
        ("dinov2-l14-in22k", IN22K, 100_000, 2e-4 * (3072 / 1024) ** 0.5),  # 3.464e-4
        ("dinov2-l16-in1k", IN1K, 12_500, 4e-3 * (2048 / 1024) ** 0.5),  # 5.657e-3
        ("dino-b16-in1k", IN1K, 12_510, 7.5e-4 * 1024 / 256),  # 3e-3
        ("mae-b16-in1k", IN1K, 40 * 312, 1.5e-4 * 4096 / 256),  # 2.4e-3
    ],
)
def test_golden_rates_at_the_end_of_warm_up(name, images, warmup, peak):
    steps, rate = at_the_end_of_warm_up(name, images)
    assert steps == warmup
    assert rate == pytest.approx(peak, rel=1e-5)


def test_dino_has_the_arguments_published_beside_its_weights():
    config = preset("dino-b16-in1k")
    recipe, optim = config.recipe, config.optim
    assert (recipe.crops.local_crops, recipe.crops.global_scale, recipe.crops.local_scale) == (
        10, (0.25, 1.0), (0.05, 0.25),
    )  # fmt: skip
    assert (recipe.crops.local_size, recipe.crops.blur, recipe.crops.blur_filter) == (96, "intended", "pillow")
    assert (recipe.freeze_last_layer, recipe.norm_last_layer, recipe.prototypes) == (3, True, 65536)
    assert (recipe.teacher_temp_start, recipe.teacher_temp, recipe.teacher_temp_epochs) == (0.04, 0.07, 50)
    assert (recipe.momentum, recipe.momentum_end, config.model.drop_path) == (0.996, 1.0, 0.1)
    assert (optim.min_lr, optim.weight_decay, optim.weight_decay_end, optim.clip) == (2e-6, 0.04, 0.4, 0.3)
    assert (config.run.duration, config.run.batch) == ("400 epochs", 1024)


def test_the_end_of_deit_iii_on_imagenet_22k_differs_from_its_beginning_as_published():
    first, last = preset("deit3-b16-in22k"), preset("deit3-b16-in22k-finetune")
    assert (last.optim.lr, last.optim.weight_decay, last.model.drop_path) == (3e-4, 0.02, 0.15)
    assert last.run.duration == "50 epochs"
    same = replace(
        last,
        optim=replace(last.optim, lr=first.optim.lr),
        model=replace(last.model, drop_path=first.model.drop_path),
        run=replace(last.run, duration=first.run.duration),
    )
    assert same == first
