"""`tokens`: how well a single token classifies the whole image (the paper, Sec. 2.2, Table 1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from vitreg.analysis.intervals import paired_difference
from vitreg.analysis.token_classes import pick_one, random_keys
from vitreg.data.sets.example import TrainingSet
from vitreg.data.sets.sides import Sides
from vitreg.errors import UserError
from vitreg.passes.bench import Bench
from vitreg.probes.logistic import GRID, LogisticSweep
from vitreg.probes.scores import score
from vitreg.results import Cell, Table
from vitreg.tokens import TokenLayout
from vitreg.verbs.eval.settings.tokens import TokensSettings
from vitreg.verbs.eval.task import Outcome
from vitreg.verbs.eval.token_pass import Classify, TokenPass

CLS, NORMAL, OUTLIER = "class token", "normal patch", "outlier patch"
MOST_REGISTERS = 8  # probed one by one


@dataclass(frozen=True, kw_only=True)
class Tokens(TokensSettings):
    """`TokensSettings`, and how they are measured."""

    def run(self, bench: Bench) -> Outcome:
        """Measure. Raises UserError for data without classes or sides, or if too few images are left."""
        sides = bench.sides()
        if sides.train.classes is None or len(sides.train.classes) < 2:
            raise UserError(f"{bench.data} has no classes to tell apart; give folders of classes in train/ and val/.")
        if sides.metric == "map":
            raise UserError(f"images of {bench.data} have several labels; the token probe wants one class per image.")
        tokens = TokenPass(bench, self)
        rule = tokens.find_rule(sides.train)
        classify: Classify | None = (lambda _pixels, norms: rule(norms)) if rule.found else None
        outcome = self.measure(bench, tokens, sides, classify, low=rule.side == "low")
        return tokens.completed(outcome, rule, "what an outlier knows of the image")

    def measure(
        self, bench: Bench, tokens: TokenPass, sides: Sides, classify: Classify | None, *, low: bool = False
    ) -> Outcome:
        """Fit on one side and judge on the other.

        Args:
            classify: flags outliers among patches; None leaves their row out.
            low: whether outliers have low norms instead of high ones.
        """
        everyone = _collect(tokens, sides.train, classify, low), _collect(tokens, sides.test, classify, low)
        train, test = everyone
        if classify is not None and self.missing == "skip":
            train, test = train.only(train.complete), test.only(test.complete)
        _enough(train, test, bench.data)
        classes, names = 1 + int(max(side.labels.max() for side in everyone)), train.names

        def answered(name: str, train: _Side, test: _Side) -> tuple[Tensor, float]:
            return _answers(train, test, name, classes, bench.seed)

        judged = {name: (answered(name, train, test), train, test) for name in names}
        if len(train.labels) < len(everyone[0].labels) and tokens.layout.cls:
            judged[f"{CLS}, all images"] = (answered(CLS, *everyone), *everyone)
        metrics = {
            _key(name): score(found, side.labels, sides.metric) for name, ((found, _), _, side) in judged.items()
        }
        trials = {_key(name): len(side.labels) for name, (_, _, side) in judged.items()}
        rows: list[list[Cell]] = [
            [name, metrics[_key(name)], len(own.labels), len(side.labels), strength]
            for name, ((_, strength), own, side) in judged.items()
        ]
        if classify is not None:
            right = {name: (judged[name][0][0] == test.labels).numpy().astype(float) for name in (NORMAL, OUTLIER)}
            ends = paired_difference(right[OUTLIER] - right[NORMAL])
            metrics |= {
                f"outlier_minus_normal_{end}": 100 * value for end, value in zip(("low", "high"), ends, strict=True)
            }
        headline = next(name for name in (OUTLIER, CLS, NORMAL) if name in names)
        shuffled, _ = answered(headline, train.shuffled(bench.seed), test)
        majority = train.labels.bincount().argmax().expand(len(test.labels))
        return Outcome(
            headline=_key(headline),
            metrics=metrics,
            controls={
                "fitted to shuffled labels": score(shuffled, test.labels, sides.metric),
                "majority class": score(majority, test.labels, sides.metric),
            },
            trials=trials if sides.metric == "top1" else {},
            counts={"train": len(train.labels), "test": len(test.labels)},
            protocol=self._protocol(sides.metric, classify is not None),
            classes=classes,
            tables=(
                Table(
                    title="What one token knows of the image",
                    columns=["token", f"{sides.metric}, %", "training images", "test images", "C"],
                    rows=rows,
                ),
            ),
            notes=tuple(self._notes(tokens.layout, None if classify is None else everyone)),
        )

    def _protocol(self, metric: str, told_apart: bool) -> dict[str, Any]:
        return {
            "probe": "logistic regression on one token of each image, the same images in every row",
            "metric": metric,
            "c": f"best on a random tenth of the training images, of {len(GRID)} from {GRID[0]:g} to {GRID[-1]:g}",
            "images_without_outlier": self.missing if told_apart else None,
            "difference": "outlier minus normal, top-1, 95 % interval of paired shares over test images",
        }

    def _notes(self, layout: TokenLayout, sides: tuple[_Side, ...] | None) -> Iterator[str]:
        """Report which rows are left out, and how many images have no outlier."""
        if not layout.cls:
            yield "This model has no class token, so that row is left out."
        if not layout.registers:
            yield "This model has no registers, so their rows are left out."
        elif len(layout.registers) > MOST_REGISTERS:
            yield f"Only the first {MOST_REGISTERS} of {len(layout.registers)} registers are probed."
        if sides is not None:
            without = [int((~side.complete).sum()) for side in sides]
            how = "left out of the rows" if self.missing == "skip" else "probed by their patch of most extreme norm"
            yield f"{without[0]} training and {without[1]} test images had no outlier and were {how}."


@dataclass(frozen=True)
class _Side:
    """One token of each kind from every image of a side."""

    names: tuple[str, ...]
    tokens: Float32[Tensor, "n kinds D"]
    labels: Int64[Tensor, "n"]
    complete: Bool[Tensor, "n"]  # the image has an outlier

    def only(self, chosen: Bool[Tensor, "n"]) -> _Side:
        return _Side(self.names, self.tokens[chosen], self.labels[chosen], self.complete[chosen])

    def shuffled(self, seed: int) -> _Side:
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))
        return replace(self, labels=self.labels[order])


def _collect(tokens: TokenPass, data: TrainingSet, classify: Classify | None, low: bool) -> _Side:
    """Collect one token of each kind from every image, over all processes, on the CPU, in the order of the set."""
    layout, group, seed = tokens.layout, tokens.bench.group, tokens.bench.seed
    registers = layout.registers[:MOST_REGISTERS]
    names = (*[CLS][: len(layout.cls)], NORMAL, *([] if classify is None else [OUTLIER]))
    names += tuple(f"register {i + 1}" for i in range(len(registers)))
    kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for batch in tokens(data, "one token of each image"):
        if batch.labels is None:
            raise UserError(f"{tokens.bench.data} has images without a class; the token probe needs one for each.")
        images = torch.arange(len(batch.indices))
        outliers = torch.zeros(batch.norms.shape, dtype=torch.bool)
        if classify is not None:
            outliers = classify(batch.pixels, batch.norms).cpu()
        complete = outliers.any(1)
        extreme = (batch.norms.argmin(1) if low else batch.norms.argmax(1)).where(~complete, -1)
        outlier = pick_one(outliers, random_keys(batch.indices, outliers.shape[1], seed)).where(complete, extreme)
        normal_ones = ~outliers
        if classify is not None:
            normal_ones[images, outlier] = False  # a stand-in for an outlier is not used as a normal patch
        normal = pick_one(normal_ones, random_keys(batch.indices, outliers.shape[1], seed + 1))
        chosen = [torch.full_like(images, layout.cls[0])] if layout.cls else []
        patches = layout.patch_index[batch.cells]
        chosen += [patches[place] for place in ([normal] if classify is None else [normal, outlier])]
        chosen += [torch.full_like(images, register) for register in registers]
        where = torch.stack(chosen, 1).to(batch.tokens.device)  # [B, kinds]
        own = batch.tokens[images.to(where.device)[:, None], where].cpu()
        kept.append((batch.indices, own, batch.labels, complete))
    parts = [part for parts in group.gather(kept) for part in parts]
    numbers, own, labels, complete = (torch.cat(column) for column in zip(*parts, strict=True))
    order = numbers.argsort()
    return _Side(names, own[order], labels[order], complete[order])


def _enough(train: _Side, test: _Side, data: str) -> None:
    """Raise UserError if too few images are left to fit and judge a classifier of one token."""
    counts = train.labels.bincount()
    if int((counts > 1).sum()) >= 2 and len(test.labels):
        return
    raise UserError(
        f"{len(train.labels)} training images of {int((counts > 0).sum())} class(es) and {len(test.labels)} test images "
        f"of {data} are left to tell outliers from normal patches by; give more images, or --missing max-norm."
    )


def _answers(train: _Side, test: _Side, name: str, classes: int, seed: int) -> tuple[Int64[Tensor, "n"], float]:
    """Return the class predicted from one kind of token for every test image, and the chosen C."""
    column = train.names.index(name)
    sweep = LogisticSweep(seed=seed).fit(train.tokens[:, column], train.labels, classes)
    return sweep.best_.predict(test.tokens[:, column]), sweep.c_


def _key(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")
