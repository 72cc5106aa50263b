"""`position`: can a patch's position be read from its token (the paper, Sec. 2.2, Fig. 5b left)?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitreg.analysis.token_classes import ByClass, pick_many, random_keys
from vitreg.data.sets.example import TrainingSet
from vitreg.machine.runtime import Processes
from vitreg.passes.bench import Bench
from vitreg.probes.spatial import PositionProbe, SoftmaxPositionProbe, cell_distance, grid_places
from vitreg.results import Cell, Table
from vitreg.verbs.eval.settings.tokens import PositionSettings
from vitreg.verbs.eval.task import Outcome
from vitreg.verbs.eval.token_pass import Classify, TokenBatch, TokenPass, by_class, held_out

MEASURES = ("accuracy", "distance", "regressed distance", "blind", "shuffled")


@dataclass(frozen=True, kw_only=True)
class Position(PositionSettings):
    """`PositionSettings`, and how they are measured."""

    def run(self, bench: Bench) -> Outcome:
        """Measure. Raises UserError for too few or unreadable images, or a layer that does not exist."""
        return by_class(bench, self, self.measure, "what outliers know of their place")

    def measure(
        self, bench: Bench, tokens: TokenPass, train: TrainingSet, judged: TrainingSet, classify: Classify
    ) -> Outcome:
        """Fit on one set and judge on another, separately for the classes of tokens that `classify` gives."""
        grid = tokens.layout.grid
        probe = PositionProbe(grid, seed=bench.seed + bench.group.rank)
        sample = _Sample(self.tokens_per_image, bench.seed)
        fitted = 0
        occupied = np.zeros((2, grid[0] * grid[1]))  # counts of normal tokens and of outliers per cell
        for batch in tokens(train, "fitting"):
            fitted += len(batch.indices)
            outliers = classify(batch.pixels, batch.norms).cpu()
            occupied[:, batch.cells] += torch.stack([(~outliers).sum(0), outliers.sum(0)]).numpy()
            probe.partial_fit(batch.patches, held_out(batch), batch.cells)
            if self.solver == "logistic":
                sample.add(batch)
        tokens.complete(probe.moments)
        probe.finish()
        softmax = None
        if self.solver == "logistic":
            softmax = sample.over(bench.group).fit(grid)
        commonest = torch.from_numpy(bench.group.sum(occupied)).argmax(1)
        found = ByClass(MEASURES)
        for batch in tokens(judged, "judging"):
            patches = batch.patches
            cells = softmax.predict(patches) if softmax is not None else probe.predict(patches)
            here = batch.cells.to(cells.device)
            places = grid_places(grid).to(cells.device).float()[here]
            outliers = classify(batch.pixels, batch.norms).cpu()
            values = (
                (cells == here).float(),
                cell_distance(cells, grid, here),
                (probe.regress(patches) - places).norm(dim=-1),
                (commonest[outliers.long()] == here.cpu()).float(),
                (probe.predict(patches, shuffled=True) == here).float(),
            )
            found.add(batch.indices, outliers, values)
        found.merge(bench.group.sum)
        return self._outcome(bench, found, probe, len(tokens.cells), sum(bench.group.gather(fitted)))

    def _outcome(self, bench: Bench, found: ByClass, probe: PositionProbe, cells: int, fitted: int) -> Outcome:
        metrics: dict[str, float] = {"accuracy": 100 * (found.overall("accuracy") or 0.0)}
        metrics["images_with_outliers"] = found.with_outliers
        rows: list[list[Cell]] = []
        for name, outliers in (("normal", False), ("outlier", True)):
            if not found.tokens(outliers=outliers):
                continue
            accuracy, distance, regressed, blind, _ = (found.mean(m, outliers=outliers) or 0.0 for m in MEASURES)
            metrics |= {
                f"{name}_accuracy": 100 * accuracy,
                f"{name}_blind_accuracy": 100 * blind,
                f"{name}_distance": distance,
            }
            rows.append([name, found.tokens(outliers=outliers), 100 * accuracy, 100 * blind, distance, regressed])
        for scale, measure in ((100, "accuracy"), (1, "distance")):
            interval = found.difference(measure, seed=bench.seed)
            if interval is not None:
                metrics |= {
                    f"{measure}_difference_low": scale * interval[0],
                    f"{measure}_difference_high": scale * interval[1],
                }
        overall = found.interval("accuracy", seed=bench.seed)
        columns = [
            "tokens",
            "count",
            "accuracy, %",
            "always the commonest place, %",
            "distance of the cell found",
            "distance by regression",
        ]
        return Outcome(
            headline="accuracy",
            metrics=metrics,
            intervals={} if overall is None else {"accuracy": (100 * overall[0], 100 * overall[1])},
            controls={
                "chance": 100 / cells,
                "fitted to shuffled places": 100 * (found.overall("shuffled") or 0.0),
            },
            units={"*distance*": "patches", "images_with_outliers": "images"},
            counts={"train": fitted, "test": found.images},
            protocol={
                "probe": "linear, on all patch tokens",
                "solver": self.solver,
                "classes": cells,
                "distance": "patches",
                "tokens_per_image": self.tokens_per_image if self.solver == "logistic" else "all",
                "strength": probe.cells_.strength_ if self.solver == "ridge" else None,
                "difference": "outlier minus normal, 95 % bootstrap interval over images",
            },
            tables=(Table(title="What patch tokens know of their place", columns=columns, rows=rows),),
        )


class _Sample:
    """A random sample of tokens of each image, in memory."""

    def __init__(self, per_image: int, seed: int) -> None:
        self.per_image, self.seed = per_image, seed
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []  # tokens [n, D], cells [n], held out [n]

    def add(self, batch: TokenBatch) -> None:
        patches = batch.patches.cpu()
        images, count, _ = patches.shape
        keys = random_keys(batch.indices, count, self.seed)
        chosen = pick_many(torch.ones(images, count, dtype=torch.bool), torch.full((images,), self.per_image), keys)
        image, cell = chosen.nonzero(as_tuple=True)
        self.parts.append((patches[image, cell], batch.cells[cell], held_out(batch)[image]))

    def over(self, group: Processes) -> _Sample:
        """Merge the samples of all processes."""
        merged = _Sample(self.per_image, self.seed)
        merged.parts = [part for parts in group.gather(self.parts) for part in parts]
        return merged

    def fit(self, grid: tuple[int, int]) -> SoftmaxPositionProbe:
        tokens, cells, own = (torch.cat(columns) for columns in zip(*self.parts, strict=True))
        return SoftmaxPositionProbe(grid).fit(tokens[~own], cells[~own], (tokens[own], cells[own]))
