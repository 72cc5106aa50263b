"""The pass that token probes share: tokens of every image of a set, batch by batch, and which patches are outliers.

No tokens are kept here, so memory does not grow with the number of images.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from vitreg.analysis.outliers import detector as detector_named
from vitreg.analysis.token_classes import OutlierRule, rule_at_peak
from vitreg.backbones.edits import Edit
from vitreg.backbones.sites import resolve_layer
from vitreg.backbones.trace import Capture, Trace
from vitreg.data.batches.training import EvaluationBatch
from vitreg.data.sets.example import Example, Portion, TrainingSet
from vitreg.data.sources.images import ImageSource
from vitreg.errors import UserError
from vitreg.passes.bench import Bench
from vitreg.passes.progress import progress
from vitreg.probes.ridge import SplitMoments
from vitreg.records import Skipped
from vitreg.tokens import TokenLayout
from vitreg.verbs.eval.settings.tokens import OutlierOptions
from vitreg.verbs.eval.task import Outcome

Classify = Callable[[Float32[Tensor, "B 3 h w"], Float32[Tensor, "B K"]], Bool[Tensor, "B K"]]
"""(pixels, norms of the patch tokens) -> which patches are outliers."""

Measure = Callable[[Bench, "TokenPass", TrainingSet, TrainingSet, Classify], Outcome]
"""(bench, tokens, set to fit on, set to judge on, classes of tokens) -> outcome."""

JUDGED_EVERY = 5  # in a set without sides, every fifth image is for judging
HELD_OUT_EVERY = 10  # every tenth training image chooses the strength of a penalty


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Some images and their tokens.

    Args:
        indices: indices in the set.
        pixels: the area the patches cover, normalised as in the model's input.
        tokens: tokens of the probed block, float32, on the model's device.
        norms: norms of the patch tokens of the outlier layer, before the final norm, on the CPU.
        cells: places on the grid of the K patches that are there, in the probed block and in the outlier layer: all P,
            unless the model drops some.
    """

    indices: Int64[Tensor, "B"]
    pixels: Float32[Tensor, "B 3 h w"]
    labels: Int64[Tensor, "B"] | None
    tokens: Float32[Tensor, "B N D"]
    norms: Float32[Tensor, "B K"]
    layout: TokenLayout
    cells: Int64[Tensor, "K"]

    @property
    def patches(self) -> Float32[Tensor, "B K D"]:
        """The patch tokens of the cells."""
        return chosen_cells(self.layout.take(self.tokens), self.cells)


class TokenPass:
    """Runs the model of a bench over sets of images.

    Attributes:
        size: (height, width) of the model's input in pixels.
        layouts: layout of the tokens that enter block 0, then of those after each block.
        layout: layout of the probed block.
        searched: blocks searched for outliers.
        outlier_layer: the block whose norms define outliers; if several are searched, known after `find_rule`.
        skipped: images that could not be read so far.
        calibrated: number of images whose norms the detector saw.
        came_in: whether the detected tokens had their norm at the input of block 0, so they are not artifacts.
    """

    def __init__(self, bench: Bench, options: OutlierOptions) -> None:
        options.check()  # a misspelt detector is refused before hours of forward passes
        backbone = bench.backbone
        self.bench, self.options, self.view = bench, options, bench.view()
        self.layer = resolve_layer(-1 if options.layer is None else options.layer, backbone.depth)
        outlier = options.layer if options.outlier_layer is None else options.outlier_layer
        self.searched = range(backbone.depth) if outlier is None else [resolve_layer(outlier, backbone.depth)]
        self.outlier_layer = self.searched[-1]
        self.size = self.view.size
        self.layouts = backbone.layouts(self.size)
        self.layout = self.layouts[self.layer + 1]
        self.skipped: dict[str, str] = {}
        self.calibrated, self.came_in = 0, False

    @property
    def cells(self) -> Int64[Tensor, "K"]:
        """Grid cells whose patch exists in both the probed block and the outlier layer."""
        return (self.layout.present & self.layouts[self.outlier_layer + 1].present).nonzero()[:, 0]

    def norms(self, trace: Trace) -> Float32[Tensor, "B K"]:
        """Return the norms of these patches in the outlier layer, on the CPU."""
        norms = self.layouts[self.outlier_layer + 1].take(trace.norms(self.outlier_layer), -1)
        return chosen_cells(norms, self.cells).cpu()

    @property
    def all_skipped(self) -> tuple[Skipped, ...]:
        """Images that could not be read, over all processes, by name."""
        merged: dict[str, str] = {}
        for part in self.bench.group.gather(self.skipped):
            merged |= part
        return tuple(Skipped(name=name, reason=merged[name]) for name in sorted(merged))

    def images(self, data: TrainingSet, what: str) -> Iterator[EvaluationBatch]:
        """Yield this process's share of a set, prepared for the model, without running the model.

        Raises:
            UserError: for a set without a readable image.
        """
        bench = self.bench
        if not len(data):
            raise UserError(f"there are no images in {bench.data} for {what}.")
        loader = bench.loader(data, self.view)
        show = bench.group.first and not bench.quiet
        with progress(what, len(data) // bench.group.world, unit="images", show=show) as advance:
            for batch in loader:
                yield EvaluationBatch(
                    batch.indices,
                    batch.names,
                    self.view.fit(batch.pixels),
                    batch.labels,
                    batch.captions,
                )
                advance(len(batch.indices))
        self.skipped |= loader.skipped

    def __call__(self, data: TrainingSet, what: str) -> Iterator[TokenBatch]:
        """Yield the tokens of every image of this process's share of a set."""
        (rows, cols), cells = self.bench.backbone.covered(self.size), self.cells
        for batch in self.images(data, what):
            trace = self.trace(batch.pixels)
            norms = self.norms(trace)
            tokens = self.embed(trace)
            if not bool(torch.isfinite(tokens).all() & torch.isfinite(norms).all()):
                raise UserError(f"tokens are not finite in {self.bench.backbone.dtype}; try --precision fp32.")
            pixels = batch.pixels[..., :rows, :cols]
            yield TokenBatch(batch.indices, pixels, batch.labels, tokens, norms, self.layout, cells)

    def trace(self, pixels: Float32[Tensor, "B 3 h w"], edits: Sequence[Edit] = (), hidden: bool = False) -> Trace:
        """Run the model; with `hidden` keep the outputs of all blocks."""
        own = [] if self.layer == self.bench.backbone.depth - 1 and self.options.final_norm else [self.layer]
        capture = Capture(hidden="all" if hidden else own, norms=[self.outlier_layer])
        return self.bench.backbone.trace(pixels, capture, edits)

    def embed(self, trace: Trace) -> Float32[Tensor, "B N D"]:
        """Return the tokens to probe."""
        if self.options.final_norm and self.layer == trace.depth - 1:
            return trace.final.values.float()
        return self.bench.backbone.normed(trace.hidden(self.layer), final_norm=self.options.final_norm).float()

    def find_rule(self, data: TrainingSet) -> OutlierRule:
        """Run the detector on the norms of some images of a set, and choose the outlier layer.

        As in a scan, tokens that had their norm at the input of block 0 are not outliers; the rule then flags nothing.
        """
        # Per batch: norms [B, K] after each block, and norms of the same patches before block 0.
        seen: list[tuple[list[Tensor], list[Tensor] | None]] = []
        first, blocks = self.layouts[0], [self.layouts[layer + 1] for layer in self.searched]
        cells = [(layout.present & first.present).nonzero()[:, 0] for layout in blocks]
        for batch in self.images(some_of(data, self.options.calibration), "looking for outliers"):
            trace = self.bench.backbone.trace(batch.pixels, Capture(norms=list(self.searched)))
            norms = [layout.take(trace.norms(layer), -1) for layer, layout in zip(self.searched, blocks, strict=True)]
            before = None if trace.entering_norms is None else first.take(trace.entering_norms, -1)
            seen.append(
                (
                    [chosen_cells(own, there).cpu() for own, there in zip(norms, cells, strict=True)],
                    None if before is None else [chosen_cells(before, there).cpu() for there in cells],
                )
            )
        seen = list(itertools.chain(*self.bench.group.gather(seen)))
        self.calibrated = sum(len(norms[0]) for norms, _ in seen)
        entering = [before for _, before in seen if before is not None]
        try:
            rule, peak, self.came_in = rule_at_peak(
                [torch.cat(parts) for parts in zip(*(norms for norms, _ in seen), strict=True)],
                [torch.cat(parts) for parts in zip(*entering, strict=True)] if len(entering) == len(seen) else None,
                detector_named(self.options.detector),
            )
        except FloatingPointError as error:
            raise UserError(f"{error} in {self.bench.backbone.dtype}; try --precision fp32.") from error
        if peak is not None:
            self.outlier_layer = self.searched[peak]
        return rule

    def complete(self, moments: SplitMoments) -> None:
        """Merge the moments of all processes. Raises UserError if there are too few images to fit on."""
        moments.merge(self.bench.group.gather)
        if not moments.complete:
            raise UserError(f"too few images of {self.bench.data} could be read; fitting a probe needs at least 2.")

    def protocol(self, rule: OutlierRule) -> dict[str, object]:
        """How the tokens were read and how outliers were defined, for the record."""
        return {
            "layer": self.layer,
            "tokens": "after the final norm" if self.options.final_norm else "before the final norm",
            "size": list(self.size),
            "outliers": "norms before the final norm",
            "outlier_layer": self.outlier_layer,
            "outlier_layer_is": "the peak of all blocks" if len(self.searched) > 1 else "as asked",
            "detector": self.options.detector,
            "side": rule.side if rule.found else None,
            "threshold": rule.threshold,
            "outlier_share_seen_by_detector": None if rule.detection is None else 100 * rule.detection.share,
            "calibration_images": self.calibrated,
        }

    def missing(self, rule: OutlierRule, what: str) -> list[str]:
        """Say what cannot be tested if the detector finds no outliers."""
        if rule.found:
            return []
        where = "any block" if len(self.searched) > 1 else f"block {self.searched[0]}"
        none = f"{self.options.detector} finds no outliers after {where}"
        if self.came_in:
            none = f"what stands out after {where} had this norm at the input of block 0, as white patches do"
        hint = "" if len(self.searched) > 1 else "; leave --outlier-layer and --layer out to search all blocks"
        return [f"{none}, so {what} cannot be tested on this model{hint}."]

    def completed(self, outcome: Outcome, rule: OutlierRule, what: str) -> Outcome:
        """Add the protocol of the tokens, the tests that are missing and the unreadable images to an outcome."""
        return replace(
            outcome,
            protocol={**self.protocol(rule), **outcome.protocol},
            notes=(*self.missing(rule, what), *outcome.notes),
            skipped=self.all_skipped,
        )


def chosen_cells(values: Float32[Tensor, "B P *D"], cells: Int64[Tensor, "K"]) -> Float32[Tensor, "B K *D"]:
    """Return the values of some cells of the grid; without a copy if all are chosen."""
    return values if len(cells) == values.shape[1] else values[:, cells.to(values.device)]


class ChosenImages:
    """Some images of a source as a set without classes."""

    classes, labels, notes = None, None, ()

    def __init__(self, source: ImageSource, numbers: Sequence[int], min_side: int) -> None:
        self._source, self._numbers, self._min_side = source, numbers, min_side

    def __len__(self) -> int:
        """Count the images."""
        return len(self._numbers)

    def read(self, index: int) -> Example:
        """Decode one image. Raises Unreadable."""
        return Example(self._source[self._numbers[index]].open(self._min_side))

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return self._source[self._numbers[index]].name


def by_class(bench: Bench, settings: OutlierOptions, measure: Measure, what: str) -> Outcome:
    """Fit and judge on the pictures of a bench, separately for outliers and other patches.

    Args:
        what: what is measured, for the sentence on a model without outliers.
    Raises:
        UserError: for too few or unreadable images, or a layer that does not exist.
    """
    train, judged = open_pictures(bench)
    tokens = TokenPass(bench, settings)
    rule = tokens.find_rule(train)
    outcome = measure(bench, tokens, train, judged, lambda _pixels, norms: rule(norms))
    return tokens.completed(outcome, rule, what)


def open_pictures(bench: Bench) -> tuple[TrainingSet, TrainingSet]:
    """Split any images into a part for fitting and every fifth for judging; at most `bench.limit` of each.

    Raises:
        UserError: if there are fewer than three images, or their number is not known.
    """
    source = ImageSource([bench.data])
    bench.noted.extend(source.notes)
    count = source.length
    if count is None:
        raise UserError(f"{bench.data} is read as a stream; probes look twice, so give files, folders or archives.")
    judged = range(JUDGED_EVERY - 1, count, JUDGED_EVERY) or range(count - 1, count)
    fitted_on = [number for number in range(count) if number not in judged]
    if len(fitted_on) < 2:
        raise UserError(f"{bench.data} holds {count} image(s); a probe needs at least 3, to fit, to tune and to judge.")
    side = min(bench.backbone.anatomy.patch)
    sets = (ChosenImages(source, fitted_on, side), ChosenImages(source, judged, side))
    first, second = (data if bench.limit is None else some_of(data, bench.limit) for data in sets)
    if len(first) < 2:
        raise UserError(f"--limit {bench.limit} leaves {len(first)} image to fit on; a probe needs at least 2.")
    return first, second


def held_out(batch: TokenBatch) -> Bool[Tensor, "B"]:
    """Which images choose the strength of a penalty and are not fitted on: every tenth, from the second on."""
    return batch.indices % HELD_OUT_EVERY == 1


def some_of(data: TrainingSet, count: int) -> TrainingSet:
    """Return at most `count` samples, spread evenly over a set."""
    return data if count >= len(data) else Portion(data, count)
