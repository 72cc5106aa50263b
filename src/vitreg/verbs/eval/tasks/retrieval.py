"""Retrieval with the two towers of a CLIP model: the caption of an image, and the image of a caption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vitreg.errors import UserError
from vitreg.passes.bench import Bench
from vitreg.passes.clip.towers import open_towers, view_for
from vitreg.passes.progress import progress
from vitreg.probes.chance import derangement, recall_by_chance
from vitreg.probes.retrieval import recall
from vitreg.records import Skipped
from vitreg.verbs.eval.settings.whole_image import RetrievalSettings
from vitreg.verbs.eval.task import Outcome

HEADLINE = "mean_recall"


@dataclass(frozen=True, kw_only=True)
class Retrieval(RetrievalSettings):
    """`RetrievalSettings`, and how they are measured."""

    def run(self, bench: Bench) -> Outcome:
        """Measure. Raises UserError for a model without text tower, or data without captions."""
        self.check()
        towers = open_towers(bench.backbone)
        data, _ = bench.judged(captions=True)
        view, group = view_for(bench, towers), bench.group
        loader = bench.loader(data, view)
        places: list[int] = []
        images, texts, owners = [], [], []
        with progress("retrieval", len(data), unit="images", show=group.first and not bench.quiet) as advance:
            for batch in loader:
                kept = [captions[: self.captions_per_image] for captions in batch.captions]
                images.append(towers.encode_images(batch.pixels))
                texts.append(towers.encode_texts([caption for captions in kept for caption in captions]))
                places += batch.indices.tolist()
                owners += [i for i, own in zip(batch.indices.tolist(), kept, strict=True) for _ in own]
                advance(len(kept) * group.world)
        parts = group.gather((places, _joined(images), _joined(texts), owners, loader.skipped))
        all_images, all_texts, image_of = _in_order(parts)
        if len(all_images) < 2:
            raise UserError(f"'{bench.data}' has one image only, so there is nothing to tell apart.")
        found = recall(all_images, all_texts, image_of)
        moved = torch.from_numpy(derangement(len(all_images), bench.seed))
        shuffled = recall(all_images, all_texts, moved[image_of])
        chance = recall_by_chance(image_of.numpy(), len(all_images))
        skipped = {name: reason for *_, part in parts for name, reason in part.items()}
        return Outcome(
            headline=HEADLINE,
            metrics={HEADLINE: _mean(found), **found},
            controls={"pairs shuffled": _mean(shuffled), "chance": _mean(chance)},
            trials=dict.fromkeys(found, len(all_images)),  # captions of one image are not independent trials
            counts={"images": len(all_images), "captions": len(all_texts)},
            protocol={
                "candidates": "all captions for an image, all images for a caption, of this side",
                "captions_per_image": self.captions_per_image,
                HEADLINE: "mean of recall at 1, 5 and 10 in both directions",
                "size": list(view.pictures.size),
                "resize": view.pictures.resize,
                "interpolation": view.pictures.interpolation,
            },
            notes=towers.notes,
            skipped=tuple(Skipped(name=name, reason=reason) for name, reason in skipped.items()),
        )


def _in_order(parts: list) -> tuple[Float[Tensor, "I E"], Float[Tensor, "T E"], Int64[Tensor, " T"]]:
    """Concatenate the embeddings of all processes, and number the images in that order."""
    number = {place: n for n, place in enumerate(place for places, *_ in parts for place in places)}
    owners = np.array([number[owner] for part in parts for owner in part[3]], np.int64)
    return _joined([part[1] for part in parts]), _joined([part[2] for part in parts]), torch.from_numpy(owners)


def _joined(features: list[Float[Tensor, "_B E"]]) -> Float[Tensor, "B E"]:
    return torch.cat([torch.empty(0), *features])  # a process may have had no image


def _mean(numbers: dict[str, float]) -> float:
    return sum(numbers.values()) / len(numbers)
