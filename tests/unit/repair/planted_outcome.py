"""What repairs do to a planted model, compared with its clean twin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import vitreg
from vitreg.backbones import Backbone
from vitreg.models import planted
from vitreg.repair.fitting import fit_subject, subject_of
from vitreg.repair.methods import method_named
from vitreg.repair.record import EffectRecord
from vitreg.repair.repair import Repair
from vitreg.repair.settings import FitOptions
from vitreg.repair.subject import Subject


@dataclass(frozen=True)
class Outcome:
    """One repair on held-out images, with cosines of final tokens to the clean twin's.

    Args:
        normal: mean over patches that are no outliers.
        outliers: mean over those that are, which a repair restores or not.
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
        """Repair it, and look at the result."""
        chosen = method_named(method)
        subject = replace(self.subject, random=random)
        subject.__dict__["outliers"] = self.subject.outliers  # looked for once
        repair = fit_subject(subject, chosen, chosen.settings(**settings))
        assert repair.record.held_out is not None
        fixed = self.cosines(repair.apply(self.subject.backbone))
        before = self.cosines(self.subject.backbone)
        return Outcome(repair, repair.record.held_out, fixed[0], fixed[1], before[1])

    def cosines(self, model: Backbone) -> tuple[float, float]:
        """Return the mean cosines of ordinary patches and of planted outliers to those of the twin."""
        found: list[tuple[Tensor, Tensor]] = []
        for pixels in self.subject.batches("held_out"):
            marked = self.truth.outliers(pixels)
            like = F.cosine_similarity(model(pixels).patches.double(), self.twin(pixels).patches.double(), dim=-1)
            found.append((like[~marked], like[marked]))
        ordinary, outliers = zip(*found, strict=True)
        return torch.cat(ordinary).mean().item(), torch.cat(outliers).mean().item()


@contextlib.contextmanager
def patient(kind: str, seed: int, photographs: Sequence[Path]) -> Iterator[Patient]:
    """Build a planted model, and read the photographs once."""
    model, truth = planted.build(kind, seed)
    with subject_of(vitreg.load(model), list(photographs), FitOptions()) as subject:
        yield Patient(subject, Backbone(planted.clean(seed, kind=kind)), truth)
