"""A repair of a planted model beside what is known of it: the clean twin, which tokens are outliers, which neurons write them.

The table takes the clean twin from here; tests and `benchmarks/repair_grid.py` the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

import vitreg
from vitreg.backbones import Backbone
from vitreg.models import planted
from vitreg.passes.given import Images
from vitreg.repair.fitting import fit_subject, subject_of
from vitreg.repair.methods import method_named
from vitreg.repair.record import EffectRecord
from vitreg.repair.repair import Repair
from vitreg.repair.settings import FitOptions, MethodSettings
from vitreg.repair.subject import Subject


@dataclass(frozen=True)
class Outcome:
    """One repair on held-out images, with cosines of final tokens to the clean twin's.

    Args:
        normal: mean over patches that are no outliers.
        outliers: mean over those that are, which a repair restores or not; NaN where no patch is one.
        before: the same without the repair.
    """

    repair: Repair
    effect: EffectRecord
    normal: float
    outliers: float
    before: float


@dataclass(frozen=True)
class Patient:
    """A planted model with images, for as many repairs as wanted."""

    subject: Subject
    twin: Backbone
    truth: planted.Truth

    def after(self, method: str, *, random: bool = False, **settings: Any) -> Outcome:
        """Fit a repair by its name and settings, and judge it. Raises UserError as `fit_subject` does."""
        return self.judged(method, method_named(method).settings(**settings), random=random)

    def judged(self, method: str, settings: MethodSettings, *, random: bool = False) -> Outcome:
        """Fit a repair, and judge it on the held-out images. Raises UserError as `fit_subject` does."""
        subject = replace(self.subject, random=random)
        subject.__dict__["outliers"] = self.subject.outliers  # looked for once
        repair = fit_subject(subject, method_named(method), settings)
        assert repair.record.held_out is not None
        normal, outliers = self.cosines(repair.apply(self.subject.backbone))
        return Outcome(repair, repair.record.held_out, normal, outliers, self.unrepaired[1])

    @cached_property
    def unrepaired(self) -> tuple[float, float]:
        """The cosines of the model as it is."""
        return self.cosines(self.subject.backbone)

    def cosines(self, model: Backbone) -> tuple[float, float]:
        """Return the mean cosines of ordinary patches and of planted outliers to those of the twin."""
        like, marked = self.likeness(model)
        return like[~marked].mean().item(), like[marked].mean().item()

    def likeness(self, model: Backbone) -> tuple[Float[Tensor, "n P"], Bool[Tensor, "n P"]]:
        """Return the cosine of every final patch held out to the twin's, float64, and which are planted outliers."""
        batches = self.subject.batches("held_out")
        like = [
            F.cosine_similarity(model(pixels).patches.double(), wanted, dim=-1)
            for pixels, (wanted, _) in zip(batches, self._known, strict=True)
        ]
        return torch.cat(like), torch.cat([marked for _, marked in self._known])

    @cached_property
    def _known(self) -> list[tuple[Float[Tensor, "B P D"], Bool[Tensor, "B P"]]]:
        """The final patches of the twin, and which patches are planted outliers, of every batch held out."""
        return [
            (self.twin(pixels).patches.double(), self.truth.outliers(pixels))
            for pixels in self.subject.batches("held_out")
        ]

    def neurons(self, repair: Repair) -> tuple[float, float] | None:
        """Return precision and recall of the neurons that a repair edits; None if it edits none.

        Neurons of the planted circuits that do not write the artifact (`Truth.triggers`, `.removers`, `.erasers`) count
        neither way.
        """
        if "neurons" not in repair.record.details:
            return None
        found = _flat({int(block): units for block, units in repair.record.details["neurons"].items()})
        writers, truth = _flat(self.truth.neurons), self.truth
        others = _flat(truth.triggers) | _flat(truth.removers) | _flat(truth.erasers)
        hits, counted = len(found & writers), len(found - others)
        return hits / counted if counted else 0.0, hits / len(writers) if writers else 0.0


def _flat(units: dict[int, Any]) -> set[tuple[int, int]]:
    return {(block, unit) for block, every in units.items() for unit in every}


@contextlib.contextmanager
def patient(kind: str, seed: int, images: Images, options: FitOptions | None = None) -> Iterator[Patient]:
    """Build a planted model, and read the images once.

    Args:
        kind: one of `planted.KINDS`, or "global-registers".
    Raises:
        UserError: for another kind, or images that cannot be read.
    """
    model, truth = planted.with_registers(seed) if kind == planted.TAKEN else planted.build(kind, seed)
    with subject_of(vitreg.load(model), images, options or FitOptions()) as subject:
        yield Patient(subject, Backbone(without_artifact(kind, seed)), truth)


def without_artifact(kind: str, seed: int) -> planted.VisionTransformer:
    """Return the clean twin of a kind, with as many registers. Raises UserError if there is no such kind."""
    if kind == planted.TAKEN:
        return planted.clean(seed, kind=planted.GLOBAL, registers=planted.REGISTERS)
    return planted.clean(seed, kind=kind)


def clean_twin(backbone: Backbone) -> Backbone | None:
    """Return the clean twin of a planted model, None for any other model."""
    source, _, name = backbone.spec.partition(":")
    kind, _, seed = name.partition("@")
    if source != "planted" or kind not in (*planted.KINDS, planted.TAKEN) or (seed and not seed.isdecimal()):
        return None
    module = without_artifact(kind, int(seed or 0)).to(backbone.device, backbone.dtype)
    return Backbone(module, preprocess=backbone.preprocess, spec=f"planted:clean@{int(seed or 0)}")
