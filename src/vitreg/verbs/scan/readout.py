"""Turns the sums of a finished pass into records: detections and numbers per layer, then the verdict."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np

from vitreg.analysis.norms import BINS, SMALLEST_NORM, NormHistogram, edge_index, edges
from vitreg.analysis.outliers import MIN_RATIO, NEAR, Detection, Detector, Side, ratio_of
from vitreg.analysis.tally import (
    COSINE_BINS,
    OWN_FACTOR,
    SecondLook,
    Sums,
    Tally,
    group_histograms,
    is_outlier,
    look_again,
)
from vitreg.analysis.verdict.decide import Evidence, against_own_median, choose, conclude
from vitreg.analysis.verdict.inheritance import without_inherited
from vitreg.analysis.verdict.over_images import over_images
from vitreg.analysis.verdict.power import power_of
from vitreg.analysis.verdict.resampling import MIN_IMAGES_FOR_CONFIDENCE, bootstrap
from vitreg.backbones import Backbone
from vitreg.machine.runtime import Processes
from vitreg.records import (
    Followed,
    Heatmap,
    Histogram,
    LayerRecord,
    ModelRecord,
    OverImages,
    OwnMedian,
    RedundancyRecord,
    VerdictRecord,
)
from vitreg.writing.files import printable

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
COSINE_MERGE = 5  # bins of the tally per bin of the record
CLOSEST_LAYERS = 3  # resamples look at the layers with the longest tails; more layers rarely change the result


class Readout:
    """Everything result.json says about the tokens. All processes must make the same calls in the same order.

    Args:
        tally: this process's tally, for a second pass over its tokens.
        sums: sums over all processes.
        resamples: of the images, for the confidence of the verdict; as many as `bootstrap` draws if None.
        with_power: if no outliers are found, also simulate which outliers these images could have shown.
    """

    def __init__(
        self,
        tally: Tally,
        sums: Sums,
        group: Processes,
        detector: Detector,
        seed: int,
        *,
        resamples: int | None = None,
        with_power: bool = True,
    ) -> None:
        self.tally, self.sums, self.group, self._seed = tally, sums, group, seed
        self._with_power, self._resamples = with_power, resamples
        self.extremes = group.max(tally.extremes)
        self.histograms = [NormHistogram(counts.astype(np.int64)) for counts in sums.counts]
        self.detections: list[dict[str, Detection]] = [
            {"high": detector(h, "high"), "low": detector(h, "low")} for h in self.histograms
        ]
        images = int(sums.images[0])
        self.detections, self._ruled_out = without_inherited(self.detections, self.histograms, tally, images, group)
        self.chosen = choose(self.detections)
        self.verdict = self._verdict(detector, seed)
        if self.verdict.kind == "none":
            self.chosen = (None, None, None)

    @property
    def side(self) -> str:
        """The side of the norms that the records report."""
        return self.chosen[0] or "high"

    @property
    def peak(self) -> int:
        """The layer shown on the page: the one with the clearest outliers, or else with the longest tail."""
        if self.chosen[2] is not None:
            return self.chosen[2]
        return max(range(len(self.histograms)), key=lambda layer: self._reach(layer, "high"))

    def first_bin(self, layer: int) -> int | None:
        """Return the histogram bin where a layer's threshold lies; None without outliers on the side of the verdict."""
        detection = self.detections[layer][self.side]
        return (
            edge_index(detection.threshold)
            if self.chosen[0] and detection.found and detection.threshold is not None
            else None
        )

    def outliers(self, codes: np.ndarray, layer: int) -> np.ndarray:
        """Flag the outliers among norm codes of one layer."""
        first_bin = self.first_bin(layer)
        return np.zeros(codes.shape, bool) if first_bin is None else is_outlier(codes, first_bin, self.side)

    def near(self, codes: np.ndarray, layer: int) -> np.ndarray:
        """Flag norm codes of one layer that are not outliers but lie within a factor of `NEAR` of the threshold, or beyond.

        In a layer without outliers the threshold is twice its median (half of it on the low side).
        """
        side = self.side
        cutoff = self.detections[layer][side].threshold if self.first_bin(layer) is not None else None
        median = self.histograms[layer].median
        if side == "high":
            edge = (cutoff or median * MIN_RATIO) / NEAR
        else:
            edge = (cutoff or median / MIN_RATIO) * NEAR
        return is_outlier(codes, edge_index(edge), side) & ~self.outliers(codes, layer)

    @cached_property
    def _look(self) -> SecondLook:
        side, _, peak = choose(self.detections)
        if side is None or peak is None:
            peak, side, threshold = self.peak, "high", BINS
        else:
            threshold = edge_index(self.detections[peak][side].threshold or np.inf)
        return look_again(self.tally, peak, threshold, side, self.group)

    def _verdict(self, detector: Detector, seed: int) -> VerdictRecord:
        images = int(self.sums.images[0])
        side, _, peak = self.chosen
        look = self._look
        layers: list[int] = []
        if side is not None and peak is not None:
            found = [layer for layer, pair in enumerate(self.detections) if pair[side].found and layer != peak]
            layers = [
                peak,
                *sorted(found, key=lambda layer: -(self.detections[layer][side].ratio or 0))[: CLOSEST_LAYERS - 1],
            ]
        confidence = None
        if images >= MIN_IMAGES_FOR_CONFIDENCE:
            if side is not None:
                confidence = self._agreeing(layers, side, detector, seed)
            else:
                confidence = 1 - max(self._false_alarms(s, detector, seed) for s in ("high", "low"))
        power = None
        if side is None and self._with_power:
            blocks = self.peak, max(range(len(self.histograms)), key=lambda layer: self._reach(layer, "low"))
            norms = group_histograms(self.tally, list(blocks), self.group)
            patches = self.tally.patches_after(blocks[0]), self.tally.patches_after(blocks[1])
            power = power_of(norms, patches, blocks, detector)
        said = conclude(self.detections, self.chosen, confidence, self._evidence(look, images), images, power)
        return said.model_copy(update={"reason": f"{said.reason} {against_own_median(self.own_median)}"})

    def _reach(self, layer: int, side: str) -> float:
        """Ratio of a layer's largest norms (0.999 quantile) to its median; of the median to its smallest on the low side."""
        h = self.histograms[layer]
        return h.quantile(0.999) / h.median if side == "high" else h.median / h.quantile(0.001)

    def _false_alarms(self, side: Side, detector: Detector, seed: int) -> float:
        """Share of resamples that would find outliers, in the layers with the longest tail on this side."""
        layers = [layer for layer in range(len(self.histograms)) if (layer, side) not in self._ruled_out]
        layers = sorted(layers, key=lambda layer: self._reach(layer, side))[-CLOSEST_LAYERS:]
        return self._agreeing(layers, side, detector, seed) if layers else 0.0

    def _agreeing(self, layers: list[int], side: Side, detector: Detector, seed: int) -> float:
        """Share of resamples of the images in which any of the layers shows outliers."""
        return bootstrap(group_histograms(self.tally, layers, self.group), side, detector, seed, self._resamples)

    def _evidence(self, look: SecondLook, images: int) -> Evidence | None:
        side, _, peak = self.chosen
        if side is None or peak is None:
            return None
        total = look.positions.sum()
        shares = {
            layer: (share, self.detections[layer][side].share)
            for layer in range(len(self.histograms))
            if (share := self._cls_share(layer)) is not None
        }
        return Evidence(
            layers=len(self.histograms),
            images=images,
            images_with=float(look.images_with[0] / images),
            grid=self.tally.layout.grid,
            positions=look.positions / images,
            isolated=float(look.isolated[0] / total) if total else None,
            redundancy_auc=_auc(look.cosine[0], look.cosine[1]),
            cls_attention=shares,
            received={k: r for k in range(len(self.histograms)) if (r := self._received(k)) is not None},
            at_output=self.detections[-1][side].found,
            output=self._followed(len(self.histograms) - 1, side),
        )

    def _followed(self, layer: int, side: str) -> Followed | None:
        """Compare the outliers of the peak layer with the other patches after another block; None if either kind is gone there."""
        outliers = self._look.followed[layer]
        others = self.sums.counts[layer] - outliers
        median, rest = (NormHistogram(counts.astype(np.int64)).median for counts in (outliers, others))
        auc = _auc(others, outliers)
        if auc is None:
            return None
        return Followed(
            median=rounded(median),
            ratio=rounded(ratio_of(median, rest, side)),
            auc=rounded(auc if side == "high" else 1 - auc),
        )

    def _cls_share(self, layer: int) -> float | None:
        if not self.sums.with_attention[0] or layer + 1 == len(self.histograms):
            return None
        return self._on_outliers(self.sums.cls_attention[layer], layer)

    def _received(self, layer: int) -> float | None:
        first_bin = self.first_bin(layer)
        if first_bin is None or not self.sums.with_attention[1] or layer + 1 == len(self.histograms):
            return None
        above = np.arange(BINS) >= first_bin
        outside = above if self.side == "high" else ~above
        count, total = self.sums.counts[layer], self.sums.received[layer]
        return float(total[outside].sum() / count[outside].sum() / (total[~outside].sum() / count[~outside].sum()))

    def _received_share(self, layer: int) -> float | None:
        if not self.sums.with_attention[1] or layer + 1 == len(self.histograms):
            return None
        return self._on_outliers(self.sums.received[layer], layer)

    def sinks_on_outliers(self, block: int) -> float | None:
        """Return the share of the sinks of a block's heads that stand on outliers of the block before, null without any."""
        total = self.sums.sink_places[block].sum()
        on_patches, share = (
            self.sums.sink_patches[block - 1],
            self._on_outliers(self.sums.sink_patches[block - 1], block - 1),
        )
        return None if share is None else rounded(share * on_patches.sum() / total)

    def _on_outliers(self, by_bin: np.ndarray, layer: int) -> float | None:
        """The share of a sum over patches, by the bin of their norm, that belongs to outliers."""
        first_bin = self.first_bin(layer)
        if first_bin is None:
            return None
        outside = by_bin[first_bin:] if self.side == "high" else by_bin[:first_bin]
        return float(outside.sum() / max(by_bin.sum(), 1e-300))

    @cached_property
    def layers(self) -> list[LayerRecord]:
        """One record per block."""
        return [self._layer(layer) for layer in range(len(self.histograms))]

    def _layer(self, layer: int) -> LayerRecord:
        histogram, sums, images = self.histograms[layer], self.sums, self.sums.images[0]
        detection = self.detections[layer][self.side]
        found = self.first_bin(layer) is not None
        return LayerRecord(
            index=layer,
            median=rounded(histogram.median),
            p99=rounded(histogram.quantile(0.99)),
            max=rounded(self.extremes[1, layer]),
            min=rounded(-self.extremes[0, layer]),
            ratio=rounded(detection.ratio) if found and detection.ratio else None,
            threshold=rounded(detection.threshold) if found and detection.threshold else None,
            side=detection.side if found else None,
            outlier_fraction=rounded(detection.share) if found else 0.0,
            quantiles={f"{q:g}": rounded(histogram.quantile(q)) for q in QUANTILES},
            histogram=_compact(histogram),
            cls_norm=rounded(sums.cls_norm[layer] / images) if self._there(layer, "cls")[:1] == [0] else None,
            register_norms=[rounded(sums.register_norms[layer][i] / images) for i in self._there(layer, "registers")],
            cls_attention=_maybe(self._cls_share(layer)),
            received=_maybe(self._received(layer)),
            received_share=_maybe(self._received_share(layer)),
            max_ratio=_maybe(self.extremes[1, layer] / histogram.median if histogram.median else None),
            sinks=rounded(sums.sinks[layer] / (images * self.tally.patches_after(layer - 1)))
            if sums.with_attention[1]
            else None,
            followed=self._followed(layer, self.side) if self.chosen[0] else None,
            gates={k: v if isinstance(v, bool) else _maybe(v) for k, v in detection.gates.items()},
        )

    def _there(self, layer: int, role: Literal["cls", "registers"]) -> list[int]:
        """Numbers (from 0) of the class tokens or registers that exist after a block."""
        return [i for i, token in enumerate(getattr(self.tally.layout, role)) if self.tally.present[layer + 1, token]]

    @property
    def positions(self) -> Heatmap:
        """Share of images with an outlier in each cell of the grid, at the peak layer."""
        rows, cols = self.tally.layout.grid
        values = (self._look.positions / self.sums.images[0]).reshape(rows, cols)
        return Heatmap(rows=rows, cols=cols, values=[[rounded(v) for v in row] for row in values])

    @property
    def redundancy(self) -> RedundancyRecord | None:
        """Cosine of outliers and of other patches with their neighbours (the paper's Fig. 5a)."""
        others, outliers = self._look.cosine
        if not others.sum():
            return None
        grid = np.linspace(-1, 1, COSINE_BINS + 1)
        middles = (grid[1:] + grid[:-1]) / 2
        drawn = [rounded(e) for e in grid[::COSINE_MERGE]]
        merged = [counts.reshape(-1, COSINE_MERGE).sum(1).tolist() for counts in (outliers, others)]
        return RedundancyRecord(
            outliers=Histogram(edges=drawn, counts=merged[0], unit="cosine"),
            others=Histogram(edges=drawn, counts=merged[1], unit="cosine"),
            outlier_mean=rounded((outliers @ middles) / outliers.sum()) if outliers.sum() else None,
            other_mean=rounded((others @ middles) / others.sum()),
            auc=_maybe(_auc(others, outliers)),
        )

    @property
    def own_median(self) -> OwnMedian:
        """How many patches stand out from the median of their image, at the peak layer."""
        counts = self._look.own
        total, most = counts.sum(), int(np.flatnonzero(counts)[-1])
        return OwnMedian(
            layer=self._look.layer,
            factor=OWN_FACTOR,
            side="low" if self._look.side == "low" else "high",
            share=rounded(counts @ np.arange(len(counts)) / total / self.tally.patches_after(self._look.layer)),
            images_with=rounded(counts[1:].sum() / total),
            per_image=Histogram(
                edges=[float(i) for i in range(most + 2)], counts=counts[: most + 1].tolist(), unit="patches"
            ),
        )

    def over_images(self, detector: Detector) -> OverImages | None:
        """Return how much the images matter: intervals over resamples of them; None for too few."""
        side = self.chosen[0]
        return over_images(
            self.tally, self.group, detector, side, self.detections[-1][side or "high"],
            counts=lambda layer: (layer, side) not in self._ruled_out, seed=self._seed,
        )  # fmt: skip

    @property
    def per_image(self) -> np.ndarray:
        """Outliers of each image of this process at the peak layer, int64 [n], in the order of the tally."""
        return self._look.per_image

    def histogram_per_image(self, counts: list[int]) -> Histogram:
        """How many images carry n outliers."""
        tallied = np.bincount(counts, minlength=1)
        return Histogram(edges=[float(i) for i in range(len(tallied) + 1)], counts=tallied.tolist(), unit="outliers")

    def model_record(self, backbone: Backbone, size: tuple[int, int], notes: list[str]) -> ModelRecord:
        """The model's entry in the record."""
        layout = self.tally.layout
        anatomy = backbone.anatomy
        return ModelRecord(
            spec=printable(backbone.spec),
            library=anatomy.library,
            blocks=backbone.depth,
            width=anatomy.width,
            heads=anatomy.heads,
            parameters=backbone.parameters,
            patch=anatomy.patch,
            image_size=size,
            grid=layout.grid,
            tokens={
                "cls": len(layout.cls),
                "registers": len(layout.registers),
                "other": len(layout.other),
                "patches": layout.num_patches,
            },
            weights=printable(backbone.weights_source),
            weights_sha256=backbone.weights_sha256,
            notes=[printable(note) for note in (*backbone.notes, *notes)],
        )


def _auc(others: np.ndarray, outliers: np.ndarray) -> float | None:
    """Probability that a draw from `outliers` exceeds one from `others` (ties count half), from counts on the same bins."""
    if not others.sum() or not outliers.sum():
        return None
    below = np.concatenate([[0], np.cumsum(others)[:-1]])
    return float((outliers * (below + others / 2)).sum() / (others.sum() * outliers.sum()))


def _compact(histogram: NormHistogram, merge: int = 8) -> Histogram:
    """The occupied range in bins of 1/16 octave."""
    first, counts = histogram.coarse(merge)
    return Histogram(
        edges=[rounded(e) for e in edges()[::merge][first : first + len(counts) + 1]],
        counts=counts.tolist(),
        unit="norm",
    )


def rounded(value: float) -> float:
    """Round to six significant digits, so that the number of processes changes no digit."""
    return float(f"{value:.6g}") if abs(value) > SMALLEST_NORM else 0.0


def _maybe(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else rounded(value)
