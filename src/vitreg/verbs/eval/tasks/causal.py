"""`causal`: whether a model uses its sinks, by changing them while it runs; the interventions are `vitreg.repair.causal`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from vitreg.backbones import Backbone
from vitreg.backbones.loading.load import load
from vitreg.errors import UserError
from vitreg.machine.precision import DTYPES, Precision
from vitreg.passes.bench import Bench
from vitreg.records import Skipped
from vitreg.repair.causal import words
from vitreg.repair.causal.study import Study, study
from vitreg.repair.columns.data import read_labels
from vitreg.repair.fitting import subject_of
from vitreg.repair.settings import FitOptions
from vitreg.verbs.eval.settings.causal import CausalSettings
from vitreg.verbs.eval.task import Outcome

HEADLINES = (("hidden_from_cls", "cls"), ("hidden_from_patches", "patches"), ("token_mean", "cls"))
"""What sums a study up: the first that a model allows."""


@dataclass(frozen=True, kw_only=True)
class Causal(CausalSettings):
    """`CausalSettings`, and how they are measured."""

    def run(self, bench: Bench) -> Outcome:
        """Measure. Raises UserError for data that are no images, labels that fit none, or a model without sinks."""
        self.check()
        found, skipped = self._studied(bench, bench.backbone)
        tables, notes = words.tables(found), words.sentences(found)
        if self.twin is not None:
            try:
                twin, _ = self._studied(bench, _twin(self.twin, bench))
            except UserError as error:
                notes.append(f"The twin {self.twin} could not be measured: {error.sentence}")
            else:
                more, said = words.beside(found, twin)
                tables, notes = [*tables, *more], [*notes, *said]
        name, effect = next(pair for pair in HEADLINES if pair[1] in found.effects.get(pair[0], {}))
        headline = found.effects[name][effect]
        beyond = {f"{one}_{other}_more": value for one, own in found.effects.items() for other, value in own.items()}
        ends = {metric: value.more_ends for metric, value in beyond.items()} | {name: headline.ends}
        return Outcome(
            headline=name,
            metrics={name: headline.sinks, **{metric: value.more for metric, value in beyond.items()}},
            controls={"as many random patches": headline.random},
            intervals={metric: both for metric, both in ends.items() if both is not None},
            answers_either_way=True,
            units={"*_right_more": "%", "*_kl_more": "nats", "*": ""},
            counts={"test": found.images},
            protocol=_protocol(found),
            tables=tuple(tables),
            notes=tuple(notes),
            skipped=tuple(skipped),
        )

    def _studied(self, bench: Bench, backbone: Backbone) -> tuple[Study, list[Skipped]]:
        options = FitOptions(
            size=bench.size, fit=bench.policy, limit=bench.limit or FitOptions.limit, batch_size=bench.batch_size,
            workers=bench.workers, seed=bench.seed,
        )  # fmt: skip
        labels = None if self.labels is None else read_labels(self.labels.expanduser())
        show = bench.group.first and not bench.quiet
        with subject_of(backbone, bench.data, options, show=show, choose=False) as subject:
            return study(subject, labels, batch=bench.batch_size), subject.images.skipped


def _twin(spec: str, bench: Bench) -> Backbone:
    """Load the twin as the model was loaded."""
    precision = next(name for name, dtype in DTYPES.items() if dtype == bench.backbone.dtype)
    return load(spec, device=bench.backbone.device, precision=cast(Precision, precision), weights_size=bench.size)


def _protocol(found: Study) -> dict[str, object]:
    outliers = found.sinks.outliers
    return {
        "sinks": "the most attended patch" if outliers is None else "outliers",
        "onset": found.sinks.onset,
        "threshold": None if outliers is None else outliers.threshold(found.sinks.onset),
        "sinks_an_image": found.per_image,
        "images_with_sinks": found.with_sinks,
        "read_in_blocks": list(found.sinks.later),
        "head": None if found.head is None else f"block {found.head[0]}, head {found.head[1]}",
        "donor_images": found.donors,
        "random_patches": "never sinks, as many in each image, by lot",
        "interval": "paired bootstrap over images",
    }
