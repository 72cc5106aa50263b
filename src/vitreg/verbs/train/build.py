"""Builds the components of a run from its configuration: data, view, recipe, loaders and probe images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from vitreg.data.batches.order import Order
from vitreg.data.batches.training import TrainingLoader, evaluation_loader, training_loader
from vitreg.data.batches.workers import View
from vitreg.data.sets.datasets import TrainingSet, concerns, open_training_set
from vitreg.data.sets.pairs import open_mapped
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.recipes.foreign import ForeignNetwork
from vitreg.recipes.recipe import Recipe
from vitreg.training.plan import Plan, plan
from vitreg.training.settings import TrainConfig
from vitreg.verbs.scan.look import Probes


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Both sides of the data of a run, and the views of its pictures.

    Args:
        train: the training side.
        val: the validation side; None if there is none.
        view: picture -> crops.
        preprocess: preprocessing for evaluation; its mean and std are also those of training.
        order: the order of the samples.
        notes: sentences about the data, for the user.
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
    train, val = _sides(config)
    _check_enough(len(train), config.run.batch, recipe.copies())
    notes = tuple(concerns(train, supervised=recipe.needs == "label"))
    return Data(
        train=train, val=val, view=recipe.view(size), preprocess=recipe.preprocess(size),
        order=Order(len(train), config.run.seed, recipe.copies()), notes=notes,
    )  # fmt: skip


def _sides(config: TrainConfig) -> tuple[TrainingSet, TrainingSet | None]:
    """Open the data with the recipe's supervision: the training side, and the validation side if there is one."""
    needs = config.recipe.needs
    if needs in ("mask", "numbers"):
        return open_mapped(config.data, needs)
    captions = needs == "caption"
    train = open_training_set(config.data, "train", captions=captions)
    return train, open_training_set(config.data, "val", captions=captions, classes=train.classes)


def _check_enough(images: int, batch: int, repeats: int) -> None:
    """Refuse a batch that would repeat an image more often than repeated augmentation does."""
    if batch > images * repeats:
        times = "more than once" if repeats == 1 else f"more often than --recipe.repeats {repeats}"
        raise UserError(
            f"--run.batch {batch} is larger than the training set of {images} images, so a step would see every image "
            f"{times}; choose a smaller batch."
        )


def build_recipe(config: TrainConfig, classes: int) -> Recipe:
    """Build the module to train, with weights drawn from the run's seed.

    Args:
        classes: number of classes; 0 without labels.
    Raises:
        UserError: for a base that cannot be loaded, or that the recipe cannot train.
    """
    kept = torch.get_rng_state()
    torch.default_generator.manual_seed(config.run.seed)
    try:
        recipe = config.recipe.build(config.model, classes)
    finally:
        torch.set_rng_state(kept)
    if config.model.base is not None and not isinstance(recipe.backbone(), ForeignNetwork):
        raise UserError(
            f"--recipe.kind {config.recipe.kind} builds vitreg's own ViT whatever --model.base says; leave it out."
        )
    return recipe


def prepared_for(data: Data, recipe: Recipe) -> Data:
    """Return the data with the preprocessing of the recipe's network, if that is of another library."""
    network = recipe.backbone()
    if not isinstance(network, ForeignNetwork) or network.preprocess is None:
        return data
    return replace(data, preprocess=network.preprocess.with_size(network.image_size))


def check_batch(config: TrainConfig, world: int) -> None:
    """Refuse a batch that does not split into whole groups over the processes and their micro-batches.

    Raises:
        UserError: names the nearest valid batch.
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
    """Convert the durations of a run to steps; some recipes have epochs of a fixed number of steps."""
    return plan(config, data.order.epoch_length, config.recipe.official_epoch())


def loader_of(config: TrainConfig, data: Data, steps: int, start: int, group: Processes) -> TrainingLoader:
    """Return this process's batches, starting at a step."""
    return training_loader(
        data.train, data.view, data.order, batch=config.run.batch, rank=group.rank, world=group.world,
        start_step=start, steps=steps, seed=config.run.seed, workers=config.data.workers,
        tokenize=config.recipe.tokenizer(),
    )  # fmt: skip


def probes_of(data: Data, count: int, maps: int = 0) -> Probes | None:
    """Return the first images of the validation side, or of the training side, prepared for the model; None for a count of 0.

    Args:
        maps: of how many of them norm maps are kept.
    """
    if not count:
        return None
    source = data.val if data.val is not None else data.train
    from vitreg.data.sets.example import Portion, backgrounds, marks

    chosen = Portion(source, min(count, len(source)))
    loader = evaluation_loader(chosen, data.preprocess, batch=count, workers=0)
    pixels = torch.cat([batch.pixels for batch in loader])
    said = [backgrounds(chosen), marks(chosen)]  # an unreadable image is left out of the pixels
    background, marked = (
        None if each is None or len(each) != len(pixels) else torch.from_numpy(np.stack(each)) for each in said
    )
    return Probes(pixels, background, maps, marked)
