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
        own: the same as `outliers` for what a token has of its own: less the mean of the image's normal patches in the
            twin. Most of a planted token is the same in all, so any ordinary one has a cosine near 1.
    """

    repair: Repair
    effect: EffectRecord
    normal: float
    outliers: float
    before: float
    own: float


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
        patches = self.patches(repair.apply(self.subject.backbone))
        normal, outliers = self._means(self.likeness(patches))
        own = self._means(self.likeness(patches, own=True))[1]
        return Outcome(repair, repair.record.held_out, normal, outliers, self.unrepaired[1], own)

    @cached_property
    def unrepaired(self) -> tuple[float, float]:
        """The cosines of the model as it is."""
        return self.cosines(self.subject.backbone)

    def cosines(self, model: Backbone) -> tuple[float, float]:
        """Return the mean cosines of ordinary patches and of planted outliers to those of the twin."""
        return self._means(self.likeness(self.patches(model)))

    def _means(self, like: Float[Tensor, "n P"]) -> tuple[float, float]:
        return like[~self.marked].mean().item(), like[self.marked].mean().item()

    def patches(self, model: Backbone) -> Float[Tensor, "n P D"]:
        """Return the final patches of all images held out, float64."""
        return torch.cat([model(pixels).patches.double() for pixels in self.subject.batches("held_out")])

    def likeness(self, patches: Float[Tensor, "n P D"], *, own: bool = False) -> Float[Tensor, "n P"]:
        """Return the cosine of every patch to the twin's, whole or less the mean normal patch of the twin's image."""
        wanted = self._wanted
        if own:
            normal = (~self.marked[..., None]).to(wanted)
            common = (wanted * normal).sum(1, keepdim=True) / normal.sum(1, keepdim=True)
            wanted, patches = wanted - common, patches - common
        return F.cosine_similarity(patches, wanted, dim=-1)

    @cached_property
    def _wanted(self) -> Float[Tensor, "n P D"]:
        return self.patches(self.twin)

    @cached_property
    def marked(self) -> Bool[Tensor, "n P"]:
        """Which patches of the images held out are planted outliers."""
        return torch.cat([self.truth.outliers(pixels) for pixels in self.subject.batches("held_out")])

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
        kind: one of `planted.KINDS`, "global-registers" or "comparing".
    Raises:
        UserError: for another kind, or images that cannot be read.
    """
    special = {planted.TAKEN: planted.with_registers, planted.COMPARING: planted.comparing}
    model, truth = special[kind](seed) if kind in special else planted.build(kind, seed)
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
