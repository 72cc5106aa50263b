"""Zero-shot classification with the two towers of a CLIP model (the paper, Table 2b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vitreg.errors import UserError
from vitreg.passes.bench import Bench
from vitreg.passes.clip.class_names import words_for
from vitreg.passes.clip.towers import open_towers, templates_of, text_classifier, view_for
from vitreg.passes.progress import progress
from vitreg.probes.chance import derangement
from vitreg.probes.zeroshot import LOGIT_SCALE, RankTally, logits_of, ranks_of
from vitreg.records import Skipped
from vitreg.results import Table
from vitreg.verbs.eval.settings.whole_image import ZeroShotSettings
from vitreg.verbs.eval.task import Outcome


@dataclass(frozen=True, kw_only=True)
class ZeroShot(ZeroShotSettings):
    """`ZeroShotSettings`, and how they are measured."""

    def run(self, bench: Bench) -> Outcome:
        """Measure. Raises UserError for a model without text tower, or data without single classes."""
        towers = open_towers(bench.backbone)
        data, customary = bench.judged()
        if data.classes is None or customary == "map":
            raise UserError(f"'{bench.data}' has no classes of which each image has one; zero-shot needs them.")
        words, origin = words_for(data.classes, self.names)
        if len(words) < 2:
            raise UserError(f"'{bench.data}' has one class only, so there is nothing to tell apart.")
        view = view_for(bench, towers)
        classifier = text_classifier(towers, words, self.templates)
        order = torch.from_numpy(derangement(len(words), bench.seed))
        tally, shuffled = RankTally(len(words)), RankTally(len(words))
        group = bench.group
        loader = bench.loader(data, view)
        with progress("zero-shot", len(data), unit="images", show=group.first and not bench.quiet) as advance:
            for batch in loader:
                assert batch.labels is not None
                logits = logits_of(towers.encode_images(batch.pixels), classifier)  # [B, C]
                tally.add(ranks_of(logits, batch.labels), batch.labels)
                shuffled.add(ranks_of(logits, order[batch.labels]), batch.labels)
                advance(len(batch.labels) * group.world)
        for kept in (tally, shuffled):
            kept.counts = torch.from_numpy(group.sum(kept.counts.numpy()))
        skipped = {name: reason for part in group.gather(loader.skipped) for name, reason in part.items()}
        metrics, images = tally.metrics(), int(tally.counts[0].sum())
        return Outcome(
            headline=customary,
            metrics=metrics,
            controls={
                "class names shuffled": shuffled.metrics()[customary],
                "chance": 100 / len(words),
            },
            trials={"top1": images, "top5": images},
            counts={"test": images},
            classes=len(words),
            protocol={
                "templates": self.templates,
                "sentences_per_class": len(templates_of(self.templates)),
                "names": origin,
                "logits": f"{LOGIT_SCALE:g} x cosine; ties count against the model",
                "size": list(view.pictures.size),
                "resize": view.pictures.resize,
                "interpolation": view.pictures.interpolation,
            },
            tables=(_per_class(data.classes, words, tally),),
            notes=towers.notes,
            skipped=tuple(Skipped(name=name, reason=reason) for name, reason in skipped.items()),
        )


def _per_class(classes: Sequence[str], words: Sequence[str], tally: RankTally) -> Table:
    rows = [
        [name, word, images, round(100 * first / images, 2) if images else None]
        for name, word, (images, first, _) in zip(classes, words, tally.counts.T.tolist(), strict=True)
    ]
    return Table(title="Top-1 of each class", columns=["class", "name", "images", "top1"], rows=rows)
