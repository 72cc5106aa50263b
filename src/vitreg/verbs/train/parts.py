"""What a run is made of, built from its configuration: the data, the view of it, the recipe, and what judges it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vitreg.data.batches.order import Order
from vitreg.data.batches.training import TrainingLoader, evaluation_loader, training_loader
from vitreg.data.batches.workers import View
from vitreg.data.sets.datasets import TrainingSet, concerns, open_training_set
from vitreg.data.views.augment import clip_view, deit3_view, mae_view
from vitreg.data.views.multicrop import multicrop_view
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.recipes.clip import Clip
from vitreg.recipes.dino import Dino
from vitreg.recipes.dinov2 import DinoV2
from vitreg.recipes.mae import Mae
from vitreg.recipes.settings import ClipConfig, DinoConfig, DinoV2Config, MaeConfig, SupervisedConfig
from vitreg.recipes.supervised import Supervised
from vitreg.training.plan import Plan, plan
from vitreg.training.settings import TrainConfig

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Both sides of the data of a run, and how its pictures are looked at.

    Args:
        train: what is learned from.
        val: what the run is judged by; None where there is no such side.
        view: from picture to crops.
        preprocess: how pictures are prepared for evaluation; its mean and std are those of training.
        order: which sample stands where.
        notes: what a person should know about the data.
    """

    train: TrainingSet
    val: TrainingSet | None
    view: View
    preprocess: Preprocess
    order: Order
    notes: tuple[str, ...]


def open_data(config: TrainConfig) -> Data:
    """Open the data of a run.

    Raises:
        UserError: for data that do not exist, or do not suit the recipe.
    """
    recipe, size = config.recipe, config.model.image_size
    captions = isinstance(recipe, ClipConfig)
    supervised = isinstance(recipe, SupervisedConfig)
    train = open_training_set(config.data, "train", captions=captions)
    repeats = recipe.repeats if isinstance(recipe, SupervisedConfig) else 1
    _check_enough(len(train), config.run.batch, repeats)
    val = open_training_set(config.data, "val", captions=captions, classes=train.classes)
    notes = tuple(concerns(train, supervised=supervised))
    preprocess = replace(IMAGENET, size=(size, size), resize=size)
    if captions:
        preprocess = replace(preprocess, mean=CLIP_MEAN, std=CLIP_STD)
    return Data(
        train=train, val=val, view=view_of(config), preprocess=preprocess,
        order=Order(len(train), config.run.seed, repeats), notes=notes,
    )  # fmt: skip


def _check_enough(images: int, batch: int, repeats: int) -> None:
    """Refuse a batch that holds an image more often than repeated augmentation wants it."""
    if batch > images * repeats:
        times = "more than once" if repeats == 1 else f"more often than --recipe.repeats {repeats}"
        raise UserError(
            f"--run.batch {batch} is larger than the training set of {images} images, so a step would see every image "
            f"{times}; choose a smaller batch."
        )


def view_of(config: TrainConfig) -> View:
    """Return what a recipe makes of a picture."""
    size = config.model.image_size
    match config.recipe:
        case SupervisedConfig() as recipe:
            return deit3_view(size, recipe.augment)
        case ClipConfig() as recipe:
            return clip_view(size, recipe.crop_scale)
        case MaeConfig() as recipe:
            return mae_view(size, recipe.crop_scale)
        case DinoV2Config() | DinoConfig() as recipe:
            return multicrop_view(size, recipe.crops)


def build_recipe(config: TrainConfig, classes: int) -> Any:
    """Build the module that is trained, its weights drawn from the run's seed.

    Args:
        classes: of the labels; only supervised training has a use for them.
    """
    kept = torch.get_rng_state()
    torch.default_generator.manual_seed(config.run.seed)
    try:
        match config.recipe:
            case SupervisedConfig() as recipe:
                return Supervised(config.model, recipe, classes)
            case ClipConfig() as recipe:
                return Clip(config.model, recipe)
            case MaeConfig() as recipe:
                return Mae(config.model, recipe)
            case DinoV2Config() as recipe:
                return DinoV2(config.model, recipe)
            case DinoConfig() as recipe:
                return Dino(config.model, recipe)
    finally:
        torch.set_rng_state(kept)


def check_batch(config: TrainConfig, world: int) -> None:
    """Refuse a batch that the processes, and the micro-batches of each, cannot share in whole groups.

    Raises:
        UserError: naming the nearest batch that would do.
    """
    batch, micro, group = config.run.batch, config.run.micro_batch, config.recipe.group
    unit = group * world
    if batch < 1 or batch % unit:
        near = max(1, round(batch / unit)) * unit
        raise UserError(
            f"--run.batch {batch} is no multiple of {unit}: {world} processes, and --recipe.group {group} images that "
            f"share their draws; the nearest batch is {near}."
        )
    if micro is None:
        return
    if micro < 1 or micro % group or (batch // world) % micro:
        raise UserError(
            f"--run.micro-batch {micro} must divide the {batch // world} images of a process and hold whole groups of "
            f"{group} (--recipe.group)."
        )


def check_split(config: TrainConfig, world: int, why_whole: str | None) -> None:
    """Refuse micro-batches that would change the loss. Raises UserError."""
    micro = config.run.micro_batch
    if why_whole is not None and micro is not None and micro != config.run.batch // world:
        raise UserError(f"--run.micro-batch {micro} would change the loss: {why_whole}")


def plan_of(config: TrainConfig, data: Data) -> Plan:
    """Convert the durations of a run; DINO counts epochs of a fixed number of steps where its recipe says so."""
    official = config.recipe.epoch_steps if isinstance(config.recipe, DinoV2Config | DinoConfig) else None
    return plan(config, data.order.epoch_length, official)


def loader_of(config: TrainConfig, data: Data, steps: int, start: int, group: Processes, recipe: Any) -> TrainingLoader:
    """Make the batches of this process from a step on."""
    return training_loader(
        data.train, data.view, data.order, batch=config.run.batch, rank=group.rank, world=group.world,
        start_step=start, steps=steps, seed=config.run.seed, workers=config.data.workers,
        tokenize=recipe.tokenizer() if isinstance(recipe, Clip) else None,
    )  # fmt: skip


def probes_of(data: Data, count: int) -> Tensor | None:
    """Return the first images of the validation side, or of the training side, prepared for the model [n, 3, H, W]."""
    if not count:
        return None
    source = data.val if data.val is not None else data.train
    from vitreg.data.sets.example import Portion

    loader = evaluation_loader(Portion(source, min(count, len(source))), data.preprocess, batch=count, workers=0)
    return torch.cat([batch.pixels for batch in loader])
