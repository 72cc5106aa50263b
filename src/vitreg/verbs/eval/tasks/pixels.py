"""`pixels`: can a patch's pixels be reconstructed from its token (the paper, Sec. 2.2, Fig. 5b right)?"""

from __future__ import annotations

from dataclasses import dataclass

from vitreg.analysis.token_classes import ByClass
from vitreg.data.sets.example import TrainingSet
from vitreg.passes.bench import Bench
from vitreg.probes.spatial import PixelProbe
from vitreg.results import Cell, Table
from vitreg.verbs.eval.settings.tokens import PixelsSettings
from vitreg.verbs.eval.task import Outcome
from vitreg.verbs.eval.token_pass import Classify, TokenPass, by_class, held_out

MEASURES = ("error", "squared", "control", "squared control")


@dataclass(frozen=True, kw_only=True)
class Pixels(PixelsSettings):
    """`PixelsSettings`, and how they are measured."""

    def run(self, bench: Bench) -> Outcome:
        """Measure. Raises UserError for too few or unreadable images, or a layer that does not exist."""
        bench.backbone.refuse_edited_images("pixels of patches")
        return by_class(bench, self, self.measure, "what outliers know of their pixels")

    def measure(
        self, bench: Bench, tokens: TokenPass, train: TrainingSet, judged: TrainingSet, classify: Classify
    ) -> Outcome:
        """Fit on one set and judge on another, separately for the classes of tokens that `classify` gives."""
        probe = PixelProbe(bench.backbone.anatomy.patch)
        fitted = 0
        for batch in tokens(train, "fitting"):
            fitted += len(batch.indices)
            probe.partial_fit(batch.patches, batch.pixels, held_out(batch), batch.cells)
        tokens.complete(probe.moments)
        probe.finish()
        found = ByClass(MEASURES)
        for batch in tokens(judged, "judging"):
            error = probe.errors(batch.patches, batch.pixels, batch.cells)
            control = probe.control_errors(batch.pixels, batch.cells)
            values = (error, error.square(), control, control.square())
            found.add(batch.indices, classify(batch.pixels, batch.norms), values)
        found.merge(bench.group.sum)
        return _outcome(bench, found, probe, sum(bench.group.gather(fitted)))


def _outcome(bench: Bench, found: ByClass, probe: PixelProbe, fitted: int) -> Outcome:
    metrics: dict[str, float] = {"error": found.overall("error") or 0.0, "images_with_outliers": found.with_outliers}
    rows: list[list[Cell]] = []
    for name, outliers in (("normal", False), ("outlier", True)):
        if not found.tokens(outliers=outliers):
            continue
        error, squared, control, squared_control = (found.mean(m, outliers=outliers) or 0.0 for m in MEASURES)
        explained = 100 * (1 - squared / squared_control) if squared_control else 0.0
        metrics |= {f"{name}_error": error, f"{name}_explained": explained}
        rows.append([name, found.tokens(outliers=outliers), error, control, explained])
    interval = found.difference("error", seed=bench.seed)
    if interval is not None:
        metrics |= {"error_difference_low": interval[0], "error_difference_high": interval[1]}
    overall = found.interval("error", seed=bench.seed)
    columns = ["tokens", "count", "L2 error", "of the mean patch", "explained, %"]
    height, width = probe.patch
    return Outcome(
        headline="error",
        metrics=metrics,
        intervals={} if overall is None else {"error": overall},
        controls={"mean patch": found.overall("control") or 0.0},
        units={"*error*": "", "images_with_outliers": "images"},
        counts={"train": fitted, "test": found.images},
        protocol={
            "probe": "linear, on all patch tokens",
            "solver": "ridge",
            "targets": height * width * 3,
            "error": "L2 of a patch in pixels normalised by the model's mean and deviation",
            "strength": probe.ridge_.strength_,
            "difference": "outlier minus normal, 95 % bootstrap interval over images",
        },
        larger_is_better=False,
        tables=(Table(title="What patch tokens know of their pixels", columns=columns, rows=rows),),
    )
