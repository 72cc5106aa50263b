"""`controls`: what the features lose when a class of tokens no longer carries image content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.analysis.intervals import paired_difference_of
from vitreg.analysis.substitute import KINDS, Kind, TokenBank, replacing
from vitreg.analysis.token_classes import OutlierRule, pick_many, random_keys
from vitreg.backbones.trace import Trace
from vitreg.data.sets.example import TrainingSet
from vitreg.errors import UserError
from vitreg.passes.bench import Bench
from vitreg.probes.neighbours import knn_votes
from vitreg.probes.ridge import LinearMap, Ridge, SplitMoments
from vitreg.results import Cell, Table
from vitreg.tokens import Tokens
from vitreg.verbs.eval.settings.tokens import ControlsSettings, Which
from vitreg.verbs.eval.task import Outcome
from vitreg.verbs.eval.token_pass import HELD_OUT_EVERY, TokenPass, some_of

NEIGHBOURS = 20
SHARE = 0.023  # of the patches to replace in a model without outliers: the paper's share of outliers (Sec. 2.1)
MEASURES: tuple[str, ...] = ("linear", "knn", "cosine")


@dataclass(frozen=True, kw_only=True)
class Controls(ControlsSettings):
    """`ControlsSettings`, and how they are measured."""

    def run(self, bench: Bench) -> Outcome:
        """Measure. Raises UserError for data without classes or sides, or too few images."""
        sides = bench.sides()
        classes = sides.train.classes
        if classes is None or len(classes) < 2:
            raise UserError(f"{bench.data} has no classes to tell apart; give folders of classes in train/ and val/.")
        tokens = TokenPass(bench, self)
        bench.backbone.one_layout(
            tokens.size
        )  # refuses a changing layout, because the same tokens are replaced after every block
        rule = tokens.find_rule(sides.train)
        layout = tokens.layout
        notes = tokens.missing(rule, "replacing outliers") if "outliers" in self.replace else []
        if "registers" in self.replace and not layout.registers:
            notes.append("This model has no registers, so replacing them cannot be tested.")
        if not layout.cls:
            notes.append("This model has no class token; the mean of its patch tokens is judged instead.")
        has: dict[Which, bool] = {"outliers": rule.found, "registers": bool(layout.registers), "random": True}
        selections: dict[Which, _Selection] = {
            name: _Selection(name, rule, tokens, bench.seed) for name in self.replace if has[name]
        }
        if not selections:
            raise UserError(f"this model has none of the tokens to replace ({', '.join(self.replace)}); try random.")
        _calibrate(tokens, some_of(sides.train, self.calibration), selections)
        readout = _Readout(*_features(tokens, sides.train), len(classes), bench.seed)
        found = _judge(tokens, sides.test, selections, readout)
        metrics: dict[str, float] = dict(zip(MEASURES[:2], found.untouched, strict=False))
        rows: list[list[Cell]] = [["none", "-", 0.0, *found.untouched]]
        intervals: dict[str, tuple[float, float]] = {}
        for (name, kind), values in found.edited.items():
            rows.append([name, kind, found.replaced[name], *values])
            metrics |= {f"{name}_{kind}_{m}": value for m, value in zip(MEASURES, values, strict=True)}
            lost = found.lost[name, kind]
            metrics[f"{name}_{kind}_linear_lost"] = lost.points
            intervals[f"{name}_{kind}_linear_lost"] = lost.interval
        columns = ["tokens", "replaced by", "tokens an image", "linear, %", "kNN, %", "cosine of CLS"]
        return Outcome(
            headline="linear",
            metrics=metrics,
            controls={"majority class": found.majority, "fitted to shuffled labels": found.shuffled},
            trials={name: found.images for name in metrics if not name.endswith(("cosine", "lost"))},
            intervals=intervals,
            units={"*cosine": "", "*lost": "points"},
            counts={"train": len(readout.labels), "test": found.images},
            protocol={
                **tokens.protocol(rule),
                "replaced": "at the output of every block",
                "mean_and_noise": f"moments of each channel and block over {min(self.calibration, len(sides.train))} training images",
                "readouts": f"ridge classifier and {NEIGHBOURS}-NN, fitted on tokens of the untouched model",
                "feature": "class token" if layout.cls else "mean of the patch tokens",
                "strength": readout.strength,
                "random_patches": "normal ones, as many as the image has outliers"
                if rule.found
                else f"{100 * SHARE:g} % of the patches",
            },
            classes=len(classes),
            tables=(Table(title="Class token with some tokens replaced", columns=columns, rows=rows),),
            notes=tuple(notes),
            skipped=tokens.all_skipped,
        )


@dataclass(frozen=True)
class _Lost:
    """What the linear readout loses by an edit, on the same images."""

    images: float
    lost: float  # right before and wrong after
    gained: float

    @property
    def points(self) -> float:
        """Percent of the images."""
        return 100 * (self.lost - self.gained) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % (Bonett & Price)."""
        low, high = paired_difference_of(self.lost, self.gained, self.images)
        return 100 * low, 100 * high


@dataclass(frozen=True)
class _Found:
    """Accuracy of both readouts in percent, and the mean cosine to the untouched class token."""

    images: int
    untouched: list[float]
    edited: dict[tuple[Which, Kind], list[float]]
    lost: dict[tuple[Which, Kind], _Lost]
    replaced: dict[Which, float]  # tokens per image
    majority: float
    shuffled: float


def _calibrate(tokens: TokenPass, data: TrainingSet, selections: Mapping[Which, _Selection]) -> None:
    """Measure the moments of each class of tokens at every block's output."""
    for batch in tokens.images(data, "dataset means"):
        trace = tokens.trace(batch.pixels, hidden=True)
        norms = tokens.norms(trace)
        for selection in selections.values():
            image, token, slot = selection(batch.indices, norms)
            if len(image):
                outputs = torch.stack([trace.hidden(layer)[image, token].cpu() for layer in range(trace.depth)])
                selection.bank.partial_fit(outputs, slot, batch.indices[image])
    for selection in selections.values():
        selection.bank = selection.bank.over(tokens.bench.group.gather)


def _features(tokens: TokenPass, data: TrainingSet) -> tuple[Float[Tensor, "n D"], Int64[Tensor, "n"]]:
    """Return the features and labels to fit the readouts on, over all processes, on the CPU, in the order of the set."""
    features, labels, numbers = [], [], []
    for batch in tokens.images(data, "fitting"):
        assert batch.labels is not None  # the set has classes
        features.append(_feature(tokens, tokens.trace(batch.pixels)))
        labels.append(batch.labels)
        numbers.append(batch.indices)
    parts = tokens.bench.group.gather((features, labels, numbers))
    merged = [torch.cat([part for column in columns for part in column]) for columns in zip(*parts, strict=True)]
    order = merged[2].argsort()
    return merged[0][order], merged[1][order]


def _feature(tokens: TokenPass, trace: Trace) -> Float[Tensor, "B D"]:
    """Return the class token, or the mean of the patch tokens of a model without one."""
    values = tokens.embed(trace)
    found = Tokens(values, tokens.layout)
    return (found.cls if tokens.layout.cls else found.mean_patch).cpu()


def _judge(tokens: TokenPass, data: TrainingSet, selections: Mapping[Which, _Selection], readout: _Readout) -> _Found:
    """Run the untouched model and all edited ones on every image."""
    group, seed = tokens.bench.group, tokens.bench.seed
    pairs: list[tuple[Which, Kind]] = [(name, kind) for name in selections for kind in KINDS]
    sums = np.zeros((1 + len(pairs), len(MEASURES)))
    moved = np.zeros((len(pairs), 2))  # images that the linear readout loses and gains
    others = np.zeros(2 + len(selections))  # images, right by shuffled labels, tokens replaced of each class
    seen = np.zeros(readout.classes)
    for batch in tokens.images(data, "judging"):
        assert batch.labels is not None  # the set has classes
        trace = tokens.trace(batch.pixels)
        norms = tokens.norms(trace)
        before = _feature(tokens, trace)
        sums[0] += readout.judge(before, before, batch.labels)
        others[0] += len(batch.labels)
        others[1] += int((readout.shuffled(before).argmax(-1) == batch.labels).sum())
        seen += np.bincount(batch.labels.numpy(), minlength=readout.classes)
        for number, (name, selection) in enumerate(selections.items()):
            image, token, slot = selection(batch.indices, norms)
            others[2 + number] += len(image)
            for kind in KINDS:
                after = before
                if len(image):
                    values = selection.bank.values(kind, slot, batch.indices[image], seed=seed)
                    after = _feature(tokens, tokens.trace(batch.pixels, replacing(image, token, values)))
                place = pairs.index((name, kind))
                sums[1 + place] += readout.judge(before, after, batch.labels)
                moved[place] += readout.moved(before, after, batch.labels)
    sums, others, seen, moved = group.sum(sums), group.sum(others), group.sum(seen), group.sum(moved)
    images = others[0]
    means = (sums / images * (100, 100, 1)).tolist()
    common = int(readout.labels.bincount(minlength=readout.classes).argmax())
    return _Found(
        images=int(images),
        untouched=means[0],
        edited=dict(zip(pairs, means[1:], strict=True)),
        lost={pair: _Lost(float(images), *counts) for pair, counts in zip(pairs, moved.tolist(), strict=True)},
        replaced=dict(zip(selections, (others[2:] / images).tolist(), strict=True)),
        majority=float(100 * seen[common] / images),
        shuffled=float(100 * others[1] / images),
    )


class _Selection:
    """Selects the tokens of a class in a batch, and holds the moments of such tokens."""

    def __init__(self, name: Which, rule: OutlierRule, tokens: TokenPass, seed: int) -> None:
        self.name, self.rule, self.layout, self.seed = name, rule, tokens.layout, seed
        self.bank = TokenBank(len(self.layout.registers) if name == "registers" else 1)

    def __call__(
        self, indices: Int64[Tensor, "B"], norms: Float[Tensor, "B P"]
    ) -> tuple[Int64[Tensor, "T"], Int64[Tensor, "T"], Int64[Tensor, "T"]]:
        """Return image in the batch, token in the sequence, and slot of every token of the class."""
        if self.name == "registers":
            registers = torch.tensor(self.layout.registers)
            image = torch.arange(len(indices)).repeat_interleave(len(registers))
            slot = torch.arange(len(registers)).repeat(len(indices))
            return image, registers[slot], slot
        chosen = self.rule(norms)
        if self.name == "random":
            chosen = self._random(indices, chosen)
        image, patch = chosen.nonzero(as_tuple=True)
        return image, self.layout.patch_index[self.layout.present][patch], torch.zeros_like(image)

    def _random(self, indices: Tensor, outliers: Bool[Tensor, "B P"]) -> Bool[Tensor, "B P"]:
        count = outliers.shape[1]
        counts = outliers.sum(1) if self.rule.found else torch.full((len(indices),), max(1, round(SHARE * count)))
        return pick_many(~outliers, counts, random_keys(indices, count, self.seed))


class _Readout:
    """A ridge and a kNN classifier of features, fitted once on the untouched model."""

    def __init__(self, features: Float[Tensor, "n D"], labels: Int64[Tensor, "n"], classes: int, seed: int) -> None:
        self.bank, self.labels, self.classes = features, labels, classes
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        self.linear, self.strength = self._fit(labels, order)
        self.shuffled, _ = self._fit(labels[order], order)

    def judge(
        self, before: Float[Tensor, "B D"], after: Float[Tensor, "B D"], labels: Int64[Tensor, "B"]
    ) -> tuple[float, float, float]:
        """Count right answers of both readouts on edited features, and sum the cosines to the untouched features."""
        votes = knn_votes(self.bank, self.labels, after, self.classes, ks=(NEIGHBOURS,))[NEIGHBOURS]
        return (
            float((self.linear(after).argmax(-1) == labels).sum()),
            float((votes.argmax(-1) == labels).sum()),
            float(F.cosine_similarity(before.double(), after.double()).sum()),
        )

    def moved(
        self, before: Float[Tensor, "B D"], after: Float[Tensor, "B D"], labels: Int64[Tensor, "B"]
    ) -> tuple[float, float]:
        """Count images that the linear readout is right about only before, and only after an edit."""
        own, other = (self.linear(each).argmax(-1) == labels for each in (before, after))
        return float((own & ~other).sum()), float((other & ~own).sum())

    def _fit(self, labels: Tensor, order: Tensor) -> tuple[LinearMap, float]:
        targets = F.one_hot(labels, self.classes).double()
        own = torch.zeros(len(labels), dtype=torch.bool)
        own[order[::HELD_OUT_EVERY]] = True
        moments = SplitMoments()
        moments.add(self.bank[:, None], targets[:, None], own)
        if not moments.complete:
            raise UserError(f"{len(labels)} training image(s) are too few to fit a readout; give at least 2.")
        ridge = Ridge().fit(*moments.both())
        return ridge.map_, ridge.strength_
