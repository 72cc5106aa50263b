"""`logistic`: how well does logistic regression classify images by one token (the paper, Table 1; DINOv2's transfer)?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitreg.passes.bench import Bench
from vitreg.probes.logistic import HELD_OUT, LogisticPath, LogisticSweep
from vitreg.probes.rows import Joined, Rows
from vitreg.probes.scores import mean_per_class, top1
from vitreg.quantities import percent
from vitreg.results import Cell, Table
from vitreg.verbs.eval.settings.whole_image import LogisticSettings
from vitreg.verbs.eval.task import Outcome
from vitreg.verbs.eval.whole_image import TRANSFER_RATIO, Probed, open_classes, probed, token_columns, transform_words


@dataclass(frozen=True, kw_only=True)
class Logistic(LogisticSettings):
    """`LogisticSettings`, and how they are measured."""

    def run(self, bench: Bench) -> Outcome:
        """Measure.

        Raises:
            UserError: for settings out of range, data without classes or sides, images of one class only, or a model
                without the token asked for.
        """
        self.check()
        cs = tuple(sorted(set(self.c)))
        sides = open_classes(bench, several=True)
        view = bench.view(resize_ratio=TRANSFER_RATIO)
        wanted, columns = token_columns(view, self.token)
        data = probed(bench, sides, wanted, view, columns)
        device = bench.backbone.device
        held_out = None if data.val is None else (data.val.features, data.val.labels)
        sweep = LogisticSweep(cs, metric=data.metric, seed=bench.seed, device=device)
        sweep.fit(data.train.features, data.train.labels, len(data.classes), held_out)
        metrics = _metrics(data, sweep.best_)
        notes = list(data.notes)
        if not all((*sweep.path_.converged_, *sweep.best_.converged_)):
            slow = sum(not c for c in sweep.path_.converged_)
            notes.append(f"{slow} of {len(cs)} values of C had not converged after {sweep.path_.steps} steps.")
        if len(cs) > 1 and sweep.c_ in (cs[0], cs[-1]):
            notes.append(f"The chosen C, {sweep.c_:g}, is at an end of the grid.")
        rows: list[list[Cell]] = [
            [c, value, steps] for c, value, steps in zip(cs, sweep.held_out_, sweep.path_.n_iter_, strict=True)
        ]
        return Outcome(
            headline=data.metric,
            metrics=metrics,
            controls={
                "shuffled training labels": _shuffled(data, sweep.c_, bench),
                "always the same answer" if data.metric == "map" else "commonest class": data.majority,
            },
            trials={} if data.metric == "map" else {"top1": len(data.test.labels)},
            counts=data.counts,
            classes=len(data.classes),
            protocol={
                "metric": data.metric,
                "token": self.token,
                "final_norm": True,
                "l2_normalised": False,
                "transform": transform_words(view),
                "C": sweep.c_,
                "C_from": list(cs),
                "C_chosen_on": f"a random {percent(1 / HELD_OUT)} of train, seed {bench.seed}, not stratified"
                if held_out is None
                else "val",
                "learned_from": "train with what C was chosen on",
                "objective": "C * sum of losses + ||W||^2 / 2, intercepts not penalised",
                "losses": "one sigmoid per label" if data.metric == "map" else "softmax (two classes: sigmoid)",
            }
            | ({} if data.test.ignored is None else {"ignored_labels": "not judged; absent in training"}),
            tables=(Table(title="Choice of C", columns=["C", f"{data.metric} held out, %", "steps"], rows=rows),),
            notes=tuple(notes),
            skipped=data.skipped,
        )


def _metrics(data: Probed, model: LogisticPath) -> dict[str, float]:
    if data.metric == "map":
        return {"map": data.score(model.logits(data.test.features))}
    answers = model.predict(data.test.features)
    truth = data.test.labels
    return {"top1": top1(answers, truth), "mean_per_class": mean_per_class(answers, truth)}


def _shuffled(data: Probed, c: float, bench: Bench) -> float:
    """Learn from shuffled labels at the chosen C, and judge on the test side."""
    features: Rows = data.train.features
    labels = data.train.labels
    if data.val is not None:
        features, labels = Joined(features, data.val.features), torch.cat([labels, data.val.labels])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(bench.seed))
    model = LogisticPath((c,), device=bench.backbone.device).fit(features, labels[order], len(data.classes))
    return _metrics(data, model)[data.metric]
