"""What a run is judged by while it trains: top-1 of its head, kNN of its features, recall of its captions.

Each takes the recipe as it is trained and gives plain numbers; the images are shared out over the processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.data.batches.training import EvaluationLoader, evaluation_loader
from vitreg.data.sets.example import TrainingSet
from vitreg.data.views.transforms import Preprocess
from vitreg.machine.runtime import Processes
from vitreg.probes.neighbours import knn_votes
from vitreg.probes.retrieval import recall
from vitreg.recipes.clip import Clip
from vitreg.recipes.supervised import Supervised

BATCH = 128  # images at a time
NEIGHBOURS = (10, 20)


@contextmanager
def _looking(module: nn.Module) -> Iterator[None]:
    """Evaluate, then go on as before."""
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        module.train(training)


def _share(data: TrainingSet, preprocess: Preprocess, group: Processes, workers: int | None) -> EvaluationLoader:
    """Return this process's part of one side of the data."""
    return evaluation_loader(data, preprocess, batch=BATCH, rank=group.rank, world=group.world, workers=workers)


class Top1:
    """Share of validation images whose largest logit is their class, in percent."""

    best = "top1"

    def __init__(self, val: TrainingSet, preprocess: Preprocess, group: Processes, workers: int | None) -> None:
        self.loader = _share(val, preprocess, group, workers)
        self.group = group

    def __call__(self, recipe: Supervised) -> dict[str, float]:
        """Classify every image."""
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

    best = "knn"

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
            features.append(network.pooled(tokens).float().cpu())
            labels.append(batch.labels)
        parts = self.group.gather((torch.cat(features), torch.cat(labels)))
        return torch.cat([f for f, _ in parts]), torch.cat([y for _, y in parts])


class Retrieval:
    """Recall at 1, 5 and 10 of captions for images and of images for captions, in percent."""

    best = "recall"

    def __init__(self, val: TrainingSet, preprocess: Preprocess, group: Processes, workers: int | None) -> None:
        self.loader = _share(val, preprocess, group, workers)
        self.group = group

    def __call__(self, recipe: Clip) -> dict[str, float]:
        """Embed every image and every caption, compare all with all."""
        device = recipe.logit_scale.device
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
