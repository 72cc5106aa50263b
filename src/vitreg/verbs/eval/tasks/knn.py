"""`knn`: do images of a class lie near each other in feature space (the paper's kNN, DINOv2's evaluation)?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from vitreg.passes.bench import Bench
from vitreg.passes.view import View
from vitreg.probes.neighbours import KNeighbours, few_shot
from vitreg.probes.rows import Subset
from vitreg.probes.scores import top_k
from vitreg.results import Cell, Table
from vitreg.verbs.eval.settings.whole_image import KnnSettings
from vitreg.verbs.eval.task import Outcome
from vitreg.verbs.eval.whole_image import KNN_RATIO, Probed, open_classes, probed, token_columns, transform_words

_HEADLINE = 20  # neighbours, if this k is among the settings


@dataclass(frozen=True, kw_only=True)
class Knn(KnnSettings):
    """`KnnSettings`, and how they are measured."""

    def run(self, bench: Bench) -> Outcome:
        """Measure.

        Raises:
            UserError: for settings out of range, data without classes or sides, images of one class only, or a model
                without the token asked for.
        """
        self.check()
        sides = open_classes(bench)
        view = bench.view(resize_ratio=KNN_RATIO)
        wanted, columns = token_columns(view, self.token)
        data = probed(bench, sides, wanted, view, columns)
        probe = KNeighbours(self.k, temperature=self.temperature, device=bench.backbone.device)
        probe.fit(data.train.features, data.train.labels, len(data.classes))
        ranked, shuffled = probe.ranked_by(data.test.features, [data.train.labels, data.shuffled(bench.seed)])
        headline = _HEADLINE if _HEADLINE in self.k else self.k[0]
        metrics = {f"knn{headline}": data.score(ranked[headline][:, 0])}
        rows: list[list[Cell]] = []
        for k, best in ranked.items():
            metrics[f"knn{k}"] = data.score(best[:, 0])
            metrics[f"knn{k}_top5"] = top_k(best, data.test.labels)
            rows.append(["all", k, metrics[f"knn{k}"], None, metrics[f"knn{k}_top5"]])
        for name, row in self._few(bench, data):
            metrics[name] = float(row[2] or 0.0)
            rows.append(row)
        return Outcome(
            headline=f"knn{headline}",
            metrics=metrics,
            controls={
                "shuffled training labels": data.score(shuffled[headline][:, 0]),
                "commonest class": data.majority,
            },
            trials=data.trials(f"knn{k}" for k in ranked) | {f"knn{k}_top5": len(data.test.labels) for k in ranked},
            counts=data.counts,
            classes=len(data.classes),
            protocol=self._protocol(data, view),
            tables=(
                Table(
                    title="Votes of the nearest training images",
                    columns=["images of each class", "k", f"{data.metric}, %", "deviation over tries", "top-5, %"],
                    rows=rows,
                ),
            ),
            notes=(*data.notes, *self._notes(data)),
            skipped=data.skipped,
        )

    def _protocol(self, data: Probed, view: View) -> dict[str, Any]:
        few = {"n_per_class": list(self.n_per_class), "n_tries": self.n_tries} if self.n_per_class else {}
        return {
            "metric": data.metric,
            "token": self.token,
            "final_norm": True,
            "transform": transform_words(view),
            "similarity": "cosine",
            "votes": f"softmax(similarity / {self.temperature:g}) over the nearest {max(self.k)}",
            "k": list(self.k),
            "top5": "classes with a vote only",
            **few,
        }

    def _notes(self, data: Probed) -> Iterator[str]:
        if max(self.k) > len(data.train):
            yield f"More neighbours were asked for than the {len(data.train)} training images; all voted."
        fewest = int(data.train.labels.bincount()[data.train.labels.unique()].min())
        if max(self.n_per_class, default=0) > fewest:
            yield f"Some class has only {fewest} training images; where more were asked for, all of its own voted."

    def _few(self, bench: Bench, data: Probed) -> Iterator[tuple[str, list[Cell]]]:
        """Vote with few images of each class; a larger k is replaced by their number (as in DINOv2's code)."""
        for count in self.n_per_class:
            ks = sorted({k for k in self.k if k < count} | {count})
            tries = [
                self._try(bench, data, ks, few_shot(data.train.labels, count, seed)) for seed in range(self.n_tries)
            ]
            for column, k in enumerate(ks):
                values = torch.tensor([found[column] for found in tries], dtype=torch.float64)  # [tries, 2]
                deviation = values[:, 0].std().item() if len(tries) > 1 else None
                mean, top5 = values.mean(0).tolist()
                yield f"{count}_per_class_knn{k}", [count, k, mean, deviation, top5]

    def _try(self, bench: Bench, data: Probed, ks: list[int], index: Int64[Tensor, " m"]) -> list[tuple[float, float]]:
        probe = KNeighbours(ks, temperature=self.temperature, device=bench.backbone.device)
        probe.fit(Subset(data.train.features, index), data.train.labels[index], len(data.classes))
        ranked = probe.ranked(data.test.features)
        return [(data.score(ranked[k][:, 0]), top_k(ranked[k], data.test.labels)) for k in ks]
