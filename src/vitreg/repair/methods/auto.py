"""`auto` (ours): fits the repairs that need no training, and keeps the best within a limit of damage.

Images to choose with decide; held-out images only judge the one that is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.quantities import number, percent
from vitreg.repair.columns.logits import classifies, logits_of
from vitreg.repair.effect import Effects, summary_of
from vitreg.repair.method import Fitted, Method
from vitreg.repair.settings import AutoSettings
from vitreg.repair.subject import Subject

TRIED = ("position-rows", "test-time", "attention-bias", "substitute")
HELPS = 0.5  # a repair that leaves more than half of the outliers does not help


class NoneKeptError(UserError):
    """No repair helps within the limit of damage."""


@dataclass(frozen=True)
class Tried:
    """One repair on the images to choose with.

    Args:
        repair: a `vitreg.Repair`; None if it could not be fitted.
        share: of the patches that are outliers, in the worst block.
        damage: see `AutoSettings.max_damage`.
        why: why it was not fitted; "" if it was.
    """

    method: str
    repair: Any
    share: float = 1.0
    damage: float = 0.0
    why: str = ""

    @property
    def sentence(self) -> str:
        """What it did, in words."""
        if self.repair is None:
            return f"{self.method} cannot be fitted: {self.why.rstrip('.')}"
        return f"{self.method} leaves {percent(self.share)} of the patches, damage {number(self.damage)}"


def choose(subject: Subject, settings: AutoSettings, fit: Callable[[Subject, str], Any]) -> Any:
    """Fit every repair of `TRIED`, and return the one that leaves the fewest outliers within the limit of damage.

    Raises:
        NothingToRepairError: if there are no outliers.
        NoneKeptError: if none helps within the limit; says what each does.
    """
    outliers = subject.outliers
    effects = Effects(subject, outliers, "tune")
    before = effects.of(subject.backbone).worst_share
    tried = [_try(name, subject, effects, fit) for name in TRIED]
    helping = [
        each
        for each in tried
        if each.repair is not None and each.share <= HELPS * before and each.damage <= settings.max_damage
    ]
    if not helping:
        said = "; ".join(each.sentence for each in tried)
        raise NoneKeptError(
            f"no repair helps within a damage of {number(settings.max_damage)}: {said}; {percent(before)} were outliers before."
        )
    best = min(helping, key=lambda each: (each.share, each.damage))
    record = best.repair.record
    details = {
        **record.details,
        "auto": [
            {"method": each.method, "share": each.share, "damage": each.damage, "why": each.why} for each in tried
        ],
    }
    note = f"Chosen among {len(tried)} repairs on {subject.images.count('tune')} images: {'; '.join(e.sentence for e in tried)}."
    kept = record.model_copy(update={"details": details, "notes": [*record.notes, note]})
    return replace(best.repair, record=kept)


def _try(name: str, subject: Subject, effects: Effects, fit: Callable[[Subject, str], Any]) -> Tried:
    mine = replace(subject)
    mine.__dict__["outliers"] = subject.outliers  # found once for all
    try:
        repair = fit(mine, name)
    except UserError as error:
        return Tried(name, None, why=str(error))
    fixed = repair.apply(subject.backbone)
    return Tried(name, repair, effects.of(fixed).worst_share, damage_of(subject, fixed))


def damage_of(subject: Subject, fixed: Backbone) -> float:
    """Return the share of images to choose with whose class changes, in percent; 100 (1 - cosine) of the class token
    for a model without a classifier."""
    first = next(iter(subject.batches("tune")))[:1]
    if classifies(subject.backbone, first):
        changed = [
            (_classes(subject.backbone, pixels) != _classes(fixed, pixels)).float()
            for pixels in subject.batches("tune")
        ]
        return 100 * float(torch.cat(changed).mean())
    moved = [
        1 - F.cosine_similarity(summary_of(subject.backbone(pixels)), summary_of(fixed(pixels)))
        for pixels in subject.batches("tune")
    ]
    return max(0.0, 100 * float(torch.cat(moved).mean()))


def _classes(backbone: Backbone, pixels: Float[Tensor, "B C H W"]) -> Tensor:
    found = logits_of(backbone, pixels)
    assert found is not None, "a model that classifies"
    return found.argmax(1)


def _no_fit(_subject: Subject, _settings: AutoSettings) -> Fitted:
    raise AssertionError("auto chooses a repair and fits none of its own")


METHOD = Method(name="auto", settings=AutoSettings, fit=_no_fit, choose=choose)
