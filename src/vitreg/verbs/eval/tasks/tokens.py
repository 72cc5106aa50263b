"""`tokens`: how much of the whole image a single token knows (the paper, Sec. 2.2, Table 1)."""

from __future__ import annotations

from dataclasses import dataclass

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
        return tokens.told(outcome, rule, "what an outlier knows of the image")

    def measure(
        self, bench: Bench, tokens: TokenPass, sides: Sides, classify: Classify | None, *, low: bool = False
    ) -> Outcome:
        """Fit on one side and judge on the other.

        Args:
            classify: tells outliers from normal patches; None leaves their row out.
            low: outliers have low norms rather than high ones.
        """
        train_all, test_all = (_collect(tokens, data, classify, low) for data in (sides.train, sides.test))
        train, test = train_all, test_all
        names, notes = train.names, []
        if not tokens.layout.cls:
            notes.append("This model has no class token, so that row is left out.")
        if not tokens.layout.registers:
            notes.append("This model has no registers, so their rows are left out.")
        elif len(tokens.layout.registers) > MOST_REGISTERS:
            notes.append(f"Only the first {MOST_REGISTERS} of {len(tokens.layout.registers)} registers are probed.")
        if classify is not None:
            without = [int((~side.complete).sum()) for side in (train, test)]
            how = "left out of the rows" if self.missing == "skip" else "probed by their patch of most extreme norm"
            notes.append(f"{without[0]} training and {without[1]} test images had no outlier and were {how}.")
            if self.missing == "skip":
                train, test = train.only(train.complete), test.only(test.complete)
        _enough(train, test, bench.data)
        classes = 1 + int(max(train_all.labels.max(), test_all.labels.max()))
        answers = {name: _answers(train, test, name, classes, bench.seed) for name in names}
        rows: list[list[Cell]] = []
        metrics: dict[str, float] = {}
        trials: dict[str, int] = {}
        for name, (found, strength) in answers.items():
            metrics[_key(name)] = value = score(found, test.labels, sides.metric)
            trials[_key(name)] = len(test.labels)
            rows.append([name, value, len(train.labels), len(test.labels), strength])
        if len(train.labels) < len(train_all.labels) and tokens.layout.cls:
            found, strength = _answers(train_all, test_all, CLS, classes, bench.seed)
            trials["class_token_all_images"] = len(test_all.labels)
            metrics["class_token_all_images"] = value = score(found, test_all.labels, sides.metric)
            rows.append([f"{CLS}, all images", value, len(train_all.labels), len(test_all.labels), strength])
        if classify is not None:
            right = {name: (answers[name][0] == test.labels).numpy().astype(float) for name in (NORMAL, OUTLIER)}
            low_end, high_end = (100 * end for end in paired_difference(right[OUTLIER] - right[NORMAL]))
            metrics |= {"outlier_minus_normal_low": low_end, "outlier_minus_normal_high": high_end}
        headline = next(name for name in (OUTLIER, CLS, NORMAL) if name in names)
        order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(bench.seed))
        shuffled, _ = _answers(
            _Side(names, train.tokens, train.labels[order], train.complete), test, headline, classes, bench.seed
        )
        common = train.labels.bincount().argmax().expand(len(test.labels))
        return Outcome(
            headline=_key(headline),
            metrics=metrics,
            controls={
                "fitted to shuffled labels": score(shuffled, test.labels, sides.metric),
                "majority class": score(common, test.labels, sides.metric),
            },
            trials=trials if sides.metric == "top1" else {},
            counts={"train": len(train.labels), "test": len(test.labels)},
            protocol={
                "probe": "logistic regression on one token of each image, the same images in every row",
                "metric": sides.metric,
                "c": f"best on a random tenth of the training images, of {len(GRID)} from {GRID[0]:g} to {GRID[-1]:g}",
                "images_without_outlier": self.missing if classify is not None else None,
                "difference": "outlier minus normal, top-1, 95 % interval of paired shares over test images",
            },
            classes=classes,
            tables=(
                Table(
                    title="What one token knows of the image",
                    columns=["token", f"{sides.metric}, %", "training images", "test images", "C"],
                    rows=rows,
                ),
            ),
            notes=tuple(notes),
        )


@dataclass(frozen=True)
class _Side:
    """One token of each kind of every image of a side."""

    names: tuple[str, ...]
    tokens: Float32[Tensor, "n kinds D"]
    labels: Int64[Tensor, "n"]
    complete: Bool[Tensor, "n"]  # the image has an outlier

    def only(self, chosen: Bool[Tensor, "n"]) -> _Side:
        return _Side(self.names, self.tokens[chosen], self.labels[chosen], self.complete[chosen])


def _collect(tokens: TokenPass, data: TrainingSet, classify: Classify | None, low: bool) -> _Side:
    """Keep one token of each kind of every image, on the CPU, of all processes, in the order of the set."""
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
            normal_ones[images, outlier] = False  # the one that stands in for an outlier is no normal one
        normal = pick_one(normal_ones, random_keys(batch.indices, outliers.shape[1], seed + 1))
        chosen = [torch.full_like(images, layout.cls[0])] if layout.cls else []
        chosen += [layout.patches.start + place for place in ([normal] if classify is None else [normal, outlier])]
        chosen += [torch.full_like(images, register) for register in registers]
        where = torch.stack(chosen, 1).to(batch.tokens.device)  # [B, kinds]
        own = batch.tokens[images.to(where.device)[:, None], where].cpu()
        kept.append((batch.indices, own, batch.labels, complete))
    parts = [part for parts in group.gather(kept) for part in parts]
    numbers, own, labels, complete = (torch.cat(column) for column in zip(*parts, strict=True))
    order = numbers.argsort()
    return _Side(names, own[order], labels[order], complete[order])


def _enough(train: _Side, test: _Side, data: str) -> None:
    """Raise UserError where there is too little to fit and judge a classifier of one token."""
    counts = train.labels.bincount()
    if int((counts > 1).sum()) >= 2 and len(test.labels):
        return
    raise UserError(
        f"{len(train.labels)} training images of {int((counts > 0).sum())} class(es) and {len(test.labels)} test images "
        f"of {data} are left to tell outliers from normal patches by; give more images, or --missing max-norm."
    )


def _answers(train: _Side, test: _Side, name: str, classes: int, seed: int) -> tuple[Int64[Tensor, "n"], float]:
    """Return the class that one kind of token suggests for every test image, and the chosen C."""
    column = train.names.index(name)
    sweep = LogisticSweep(seed=seed).fit(train.tokens[:, column], train.labels, classes)
    return sweep.best_.predict(test.tokens[:, column]), sweep.c_


def _key(name: str) -> str:
    return name.replace(" ", "_")
