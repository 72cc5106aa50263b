"""`linear`: the best of 52 linear classifiers on frozen features (the paper, Table 2a; DINOv2's linear probe)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as T

from vitreg.data.batches.order import Order
from vitreg.data.batches.training import training_loader
from vitreg.data.sets.sides import Sides
from vitreg.data.views.augment import SingleView
from vitreg.features.fields import FieldReader, Wanted
from vitreg.passes.bench import Bench
from vitreg.passes.progress import progress
from vitreg.passes.view import View
from vitreg.probes.linear import MOMENTUM, Input, LinearHeads, inputs
from vitreg.probes.rows import check_labels
from vitreg.results import Cell, Table
from vitreg.verbs.eval.settings.whole_image import LinearSettings
from vitreg.verbs.eval.task import Outcome
from vitreg.verbs.eval.whole_image import KNN_RATIO, Probed, has_cls, open_classes, probed, transform_words

_BLOCKS = 4  # last blocks whose class tokens are concatenated; the other input is the last block alone
_SCALE = (0.08, 1.0)  # area of a random crop, as a share of the picture


@dataclass(frozen=True, kw_only=True)
class Linear(LinearSettings):
    """`LinearSettings`, and how they are measured."""

    def run(self, bench: Bench) -> Outcome:
        """Measure.

        Raises:
            UserError: for settings out of range, data without classes or sides, or images of one class only.
        """
        self.check()
        sides = open_classes(bench)
        view = bench.view(resize_ratio=KNN_RATIO)
        with_cls = has_cls(view)
        last = tuple(range(-min(_BLOCKS, bench.backbone.depth), 0))
        wanted = Wanted(cls=last, mean=(-1,)) if with_cls else Wanted(cls=(), mean=last)
        columns = tuple(f"cls/{block}" for block in wanted.cls) + tuple(f"mean/{block}" for block in wanted.mean)
        data = probed(bench, sides, wanted, view, columns)
        kinds = inputs(bench.backbone.anatomy.width, sorted({1, len(last)}), mean=with_cls)
        check_labels(data.train.features, data.train.labels, len(data.classes))
        train = self._augmented if self.augmented else self._stored
        heads, control = train(bench, sides, data, kinds, wanted, view)
        return self._outcome(bench, data, heads, control, view, with_cls)

    def _heads(self, bench: Bench, data: Probed, kinds: Sequence[Input]) -> LinearHeads:
        return LinearHeads(
            kinds,
            len(data.classes),
            rates=self.lr,
            batch=self.batch,
            steps=self.steps,
            seed=bench.seed,
            device=bench.backbone.device,
        )

    def _stored(
        self, bench: Bench, sides: Sides, data: Probed, kinds: Sequence[Input], wanted: Wanted, view: View
    ) -> tuple[LinearHeads, LinearHeads]:
        """Train on stored features: first the heads, then the control on the same batches."""
        both = []
        for labels, what in (
            (data.train.labels, "training heads"),
            (data.shuffled(bench.seed), "training the control"),
        ):
            with progress(what, self.steps, unit="steps", show=_show(bench)) as advance:
                heads = self._heads(bench, data, kinds)
                both.append(heads.fit(data.train.features, labels, batch=self.batch, seed=bench.seed, advance=advance))
        return both[0], both[1]

    def _augmented(
        self, bench: Bench, sides: Sides, data: Probed, kinds: Sequence[Input], wanted: Wanted, view: View
    ) -> tuple[LinearHeads, LinearHeads]:
        """Train on random crops; heads and control share the features, the control gets the labels of other images."""
        group, backbone = bench.group, bench.backbone
        crop = T.RandomResizedCrop(view.pictures.size, scale=_SCALE, interpolation=InterpolationMode.BICUBIC)
        loader = training_loader(
            sides.train,
            SingleView(T.Compose([crop, T.RandomHorizontalFlip()])),
            Order(len(sides.train), bench.seed),
            batch=self.batch,
            rank=group.rank,
            world=group.world,
            steps=self.steps,
            seed=bench.seed,
            workers=bench.workers,
        )
        heads, control = (self._heads(bench, data, kinds) for _ in range(2))
        features = _Features(bench, wanted, view)
        generator = torch.Generator().manual_seed(bench.seed)
        with (
            closing(iter(loader)) as batches,
            progress("training heads", self.steps, unit="steps", show=_show(bench)) as advance,
        ):
            for batch in batches:
                x = features(batch.on(backbone.device, view.pictures.mean, view.pictures.std).views[0][0])
                assert batch.targets is not None  # the set has classes
                labels = batch.targets
                if group.world > 1:  # every process trains the same heads on the features of all processes
                    x, labels = (torch.cat(column) for column in zip(*group.gather((x.cpu(), labels)), strict=True))
                heads.step(x, labels)
                control.step(x, labels[torch.randperm(len(labels), generator=generator)])
                advance(1)
        return heads, control

    def _outcome(
        self,
        bench: Bench,
        data: Probed,
        heads: LinearHeads,
        control: LinearHeads,
        view: View,
        with_cls: bool,
    ) -> Outcome:
        answers = heads.predict(data.test.features)
        scores = [data.score(own) for own in answers]
        best = max(range(len(scores)), key=scores.__getitem__)
        rows: list[list[Cell]] = [
            [f"last {kind.blocks}", "yes" if kind.mean else "no", rate, value]
            for (kind, rate), value in zip(heads, scores, strict=True)
        ]
        rate = list(heads)[best][1]
        notes = [
            f"The head was picked on the side it is judged on, as published: {data.metric} is the best of {len(heads)}."
        ]
        if not with_cls:
            notes.append("This model has no class token; the mean of the patch tokens of each block takes its place.")
        if rate in (min(self.lr), max(self.lr)) and len(self.lr) > 1:
            notes.append(f"The best learning rate, {rate:g}, is at an end of the grid.")
        return Outcome(
            headline=data.metric,
            metrics={data.metric: scores[best], "median_head": float(torch.tensor(scores).median())},
            controls={
                "best head on shuffled training labels": max(map(data.score, control.predict(data.test.features))),
                "commonest class": data.majority,
            },
            trials=data.trials([data.metric]),
            counts={name: count for name, count in data.counts.items() if name != "val"},
            classes=len(data.classes),
            protocol=self._protocol(data, heads, best, view, with_cls),
            tables=(
                Table(
                    title="All heads",
                    columns=["blocks", "with mean of patches", "learning rate", f"{data.metric}, %"],
                    rows=rows,
                ),
            ),
            notes=(*data.notes, *notes),
            skipped=data.skipped,
        )

    def _protocol(self, data: Probed, heads: LinearHeads, best: int, view: View, with_cls: bool) -> dict[str, Any]:
        kind, rate = list(heads)[best]
        token = "class tokens" if with_cls else "means of the patch tokens"
        crops = f"random resized crops {_SCALE[0]:g} to {_SCALE[1]:g}, mirrored"
        return {
            "metric": data.metric,
            "heads": len(heads),
            "picked_on": "test",
            "input": f"{token} of the last {kind.blocks}" + (" and mean of the patches" if kind.mean else ""),
            "lr": rate,
            "lr_from": list(self.lr),
            "final_norm": True,
            "optimiser": f"SGD, momentum {MOMENTUM:g}, no weight decay, cosine to 0, lr times batch / 256",
            "steps": self.steps,
            "batch": self.batch,
            "training_images": crops if self.augmented else "stored features, not augmented",
            "transform": transform_words(view),
        }


class _Features:
    """Images -> input rows of the heads, in the same format as the stored test side."""

    def __init__(self, bench: Bench, wanted: Wanted, view: View) -> None:
        self._view = view
        self._reader = FieldReader(bench.backbone, wanted, view.size)
        depth = bench.backbone.depth
        self._names = [f"{kind}/{block % depth}" for kind in ("cls", "mean") for block in getattr(wanted, kind)]

    def __call__(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B W"]:
        """Run the model."""
        fields = self._reader(self._view.fit(images), None)
        return torch.cat([fields[name].float() for name in self._names], 1)


def _show(bench: Bench) -> bool:
    return bench.group.first and not bench.quiet
