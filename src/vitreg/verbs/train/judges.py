"""Judges of a run while it trains: top-1 of its head, kNN of its features, recall of its captions, its loss.

A judge takes the recipe in training and returns numbers; the images are split over the processes. The recipe names its
judge (`RecipeConfig.judged_by`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.data.batches.order import Order
from vitreg.data.batches.training import EvaluationLoader, evaluation_loader, training_loader
from vitreg.data.sets.example import TrainingSet
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError, unknown
from vitreg.machine.runtime import Processes
from vitreg.probes.neighbours import knn_votes
from vitreg.probes.retrieval import recall
from vitreg.recipes.recipe import Progress
from vitreg.training.settings import TrainConfig
from vitreg.verbs.train.build import Data

BATCH = 128  # images at a time
NEIGHBOURS = (10, 20)


@contextmanager
def _looking(module: nn.Module) -> Generator[None, None, None]:
    """Run the block in evaluation mode, then restore the previous mode."""
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        module.train(training)


def _share(data: TrainingSet, preprocess: Preprocess, group: Processes, workers: int | None) -> EvaluationLoader:
    """Return this process's share of one side of the data."""
    return evaluation_loader(data, preprocess, batch=BATCH, rank=group.rank, world=group.world, workers=workers)


class Top1:
    """Share of validation images whose largest logit is their class, in percent."""

    def __init__(self, val: TrainingSet, preprocess: Preprocess, group: Processes, workers: int | None) -> None:
        self.loader = _share(val, preprocess, group, workers)
        self.group = group

    def __call__(self, recipe: Any) -> dict[str, float]:
        """Classify every image with the backbone's head."""
        network = recipe.backbone()
        device = next(network.parameters()).device
        right = total = 0
        with _looking(network):
            for batch in self.loader:
                assert batch.labels is not None
                found = network(batch.pixels.to(device)).argmax(-1).cpu()
                right += int((found == batch.labels).sum())
                total += len(found)
        pairs = self.group.gather((right, total))
        return {"top1": 100 * sum(r for r, _ in pairs) / max(1, sum(t for _, t in pairs))}


class Knn:
    """Top-1 of the nearest training images by the backbone's CLS, in percent."""

    def __init__(
        self, train: TrainingSet, val: TrainingSet, preprocess: Preprocess, group: Processes, workers: int | None
    ) -> None:
        self.sides = [_share(side, preprocess, group, workers) for side in (train, val)]
        self.group = group

    def __call__(self, recipe: Any) -> dict[str, float]:
        """Embed both sides, let the neighbours vote."""
        network = recipe.backbone()
        with _looking(network):
            (bank, labels), (queries, truth) = (self._features(network, loader) for loader in self.sides)
        votes = knn_votes(bank, labels, queries, int(labels.max()) + 1, ks=NEIGHBOURS)
        result = {f"knn{k}": 100 * (v.argmax(-1) == truth).float().mean().item() for k, v in votes.items()}
        return {"knn": result[f"knn{NEIGHBOURS[-1]}"], **result}

    def _features(self, network: Any, loader: Any) -> tuple[Tensor, Tensor]:
        device = next(network.parameters()).device
        features, labels = [], []
        for batch in loader:
            tokens = network.forward_features(batch.pixels.to(device))  # [B, N, D]
            features.append(network.pooled(tokens).float().cpu().clone())  # a view of CLS holds all tokens in memory
            labels.append(batch.labels)
        parts = self.group.gather((torch.cat(features), torch.cat(labels)))
        return torch.cat([f for f, _ in parts]), torch.cat([y for _, y in parts])


class Retrieval:
    """Recall at 1, 5 and 10 of captions for images and of images for captions, in percent."""

    def __init__(self, val: TrainingSet, preprocess: Preprocess, group: Processes, workers: int | None) -> None:
        self.loader = _share(val, preprocess, group, workers)
        self.group = group

    def __call__(self, recipe: Any) -> dict[str, float]:
        """Embed every image and every caption, compare all with all."""
        device = next(recipe.parameters()).device
        tokenize = recipe.tokenizer()
        images, texts, image_of = [], [], []
        with _looking(recipe):
            for batch in self.loader:
                images.append(recipe.encode_image(batch.pixels.to(device)).float().cpu())
                words = [caption for captions in batch.captions for caption in captions]
                texts += [recipe.encode_text(tokenize(words).to(device)).float().cpu()]
                image_of += [int(i) for i, own in zip(batch.indices, batch.captions, strict=True) for _ in own]
        parts = self.group.gather((torch.cat(images), torch.cat(texts), image_of))
        places = [index for _, _, own in parts for index in own]
        number = {index: n for n, index in enumerate(dict.fromkeys(places))}  # images in the order they were embedded
        result = recall(
            torch.cat([i for i, _, _ in parts]),
            torch.cat([t for _, t, _ in parts]),
            torch.tensor([number[index] for index in places]),
        )
        return {"recall": (result["image_to_text_r5"] + result["text_to_image_r5"]) / 2, **result}


class Loss:
    """The loss of the recipe on the validation side, and its terms, on views drawn once for the whole run."""

    def __init__(self, config: TrainConfig, val: TrainingSet, data: Data, group: Processes) -> None:
        self.group, self.preprocess = group, data.preprocess
        whole = config.recipe.group * group.world
        self.batch = min(config.run.batch, len(val) // whole * whole)
        if not self.batch:
            raise UserError(
                f"the loss is judged by whole groups of {whole} images, and the validation side has {len(val)}; make "
                "recipe.group smaller, or name more images with --data.val."
            )
        self.loader = training_loader(
            val, data.view, Order(len(val), config.run.seed), batch=self.batch, rank=group.rank, world=group.world,
            steps=len(val) // self.batch, seed=config.run.seed, workers=config.data.workers,
            tokenize=config.recipe.tokenizer(),
        )  # fmt: skip

    def __call__(self, recipe: Any) -> dict[str, float]:
        """Average over the batches."""
        device = next(recipe.parameters()).device
        sums: dict[str, float] = {}
        with _looking(recipe):
            for number, batch in enumerate(self.loader):
                progress = Progress(
                    step=number, total=len(self.loader), epoch_steps=len(self.loader), first=batch.first
                )
                output = recipe(batch.on(device, self.preprocess.mean, self.preprocess.std), progress)
                for name, value in {"loss": output.loss, **output.metrics}.items():
                    sums[f"val_{name}"] = sums.get(f"val_{name}", 0.0) + float(value) / len(self.loader)
        everyone = self.group.gather(sums)
        return {name: sum(each[name] for each in everyone) / len(everyone) for name in sums}


Judge = Callable[[Any], dict[str, float]]


def judge_of(config: TrainConfig, data: Data, group: Processes) -> Judge | None:
    """Return the judge that the recipe names; None without a validation side, or without the labels the judge needs.

    Raises:
        UserError: for a recipe that names an unknown judge.
    """
    task, val, workers = config.recipe.judged_by.task, data.val, config.data.workers
    if task not in TASKS:
        raise unknown("task to judge a run by", task, TASKS)
    if val is None:
        return None
    if task == "loss":
        return Loss(config, val, data, group)
    if task == "retrieval":
        return Retrieval(val, data.preprocess, group, workers)
    if task == "top1":
        return None if val.classes is None else Top1(val, data.preprocess, group, workers)
    if data.train.labels is None or val.labels is None:
        return None  # a self-supervised run may have no labels, and then no judge
    return Knn(data.train, val, data.preprocess, group, workers)


TASKS = ("top1", "knn", "retrieval", "loss")
