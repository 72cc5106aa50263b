"""`auto` (ours): fits the repairs that the outliers make plausible, and keeps the best within a limit of damage.

Images to choose with decide; held-out images only judge the one that is kept. What is not tried is said with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitreg.analysis.verdict.decide import position_locked
from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.quantities import number, percent
from vitreg.repair.effect import Effects, summary_of
from vitreg.repair.logits import classifies, logits_of
from vitreg.repair.method import Fitted, Method
from vitreg.repair.outliers import NORMS, Outliers, patch_norms
from vitreg.repair.settings import METHODS, AutoSettings
from vitreg.repair.subject import Subject

HELPS = 0.5  # a repair that leaves more than half of the outliers does not help
GONE = 0.001  # share of the patches below which outliers are gone: then damage decides
FEWEST = 8  # images to fit on, and outliers in them: fewer share places by chance, or by what they show
NEURONS = ("test-time", "attention-bias")
TRAINED = ("singular", "border", "distill")
NOT_JUDGED = {
    "clip-norm": "it is a control, and always leaves none",
    "mask-keys": "it is a control, and leaves every norm",
    "prefix": "it deletes outliers, so that none is left says nothing",
    "denoise": "it repairs the output only, and is judged by norms inside",
}


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
        return f"{self.method} leaves {percent(self.share)} of the patches, damage {percent(self.damage / 100)}"


def plausible(outliers: Outliers, *, locked: bool | None, train: bool) -> list[str]:
    """Return the repairs worth trying for these outliers, by what `docs/verbs/repairs.md` measured.

    Args:
        locked: they sit at the same places of most images; None where too little was seen to tell.
        train: also those that train.
    """
    if locked:
        return ["position-rows", "substitute", *(["singular"] if train else [])]
    rows = ["position-rows"] if locked is None else []
    low = ["substitute:detector=lof"] if outliers.record.side == "low" else []
    return [*NEURONS, *rows, "substitute", *low, *(["singular", "border"] if train else [])]


def left_out(tried: Sequence[str], *, locked: bool | None, train: bool) -> list[str]:
    """Say of every repair that is not tried why."""
    reasons = dict(NOT_JUDGED)
    reasons |= dict.fromkeys(NEURONS, "what comes with the position is no neuron's work")
    reasons["position-rows"] = "the outliers do not sit at the same places of most images"
    reasons |= dict.fromkeys(TRAINED, "it trains; --train tries singular and border")
    reasons["distill"] = "it trains on shifted views for hours to be any good"
    if locked and train:
        reasons["border"] = "outliers at fixed places do not follow the image"
    names = [name for name in METHODS if name not in {word.partition(":")[0] for word in tried}]
    return [f"{name} ({reasons[name]})" for name in names]


def choose(subject: Subject, settings: AutoSettings, fit: Callable[[Subject, str], Any]) -> Any:
    """Fit every plausible repair, and return the one that leaves the fewest outliers within the limit of damage.

    Raises:
        NothingToRepairError: if there are no outliers.
        NoneKeptError: if none helps within the limit; says what each does.
    """
    outliers = subject.outliers
    effects = Effects(subject, outliers, "tune")
    before = effects.of(subject.backbone).worst_share
    locked = sits_still(subject)
    words = plausible(outliers, locked=locked, train=settings.train)
    skipped = f"Not tried: {', '.join(left_out(words, locked=locked, train=settings.train))}."
    if locked is None:
        skipped += (
            " Whether outliers sit at the same places takes more images to tell, so repairs of both kinds were tried."
        )
    tried = [_try(word, subject, effects, fit) for word in words]
    helping = [
        each
        for each in tried
        if each.repair is not None and each.share <= HELPS * before and each.damage <= settings.max_damage
    ]
    if not helping:
        said = "; ".join(each.sentence for each in tried)
        raise NoneKeptError(
            f"no repair helps within a damage of {number(settings.max_damage)}: {said}; {percent(before)} were outliers before. "
            f"{skipped}"
        )
    best = min(helping, key=lambda each: (max(each.share, GONE), each.damage))
    record = best.repair.record
    details = {
        **record.details,
        "auto": [
            {"method": each.method, "share": each.share, "damage": each.damage, "why": each.why} for each in tried
        ],
    }
    note = f"Chosen among {len(tried)} repairs on {subject.images.count('tune')} images: {'; '.join(e.sentence for e in tried)}."
    kept = record.model_copy(update={"details": details, "notes": [*record.notes, note, skipped]})
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


def sits_still(subject: Subject) -> bool | None:
    """Tell whether most outliers of the images to fit on sit at places that carry one in at least half of the images;
    None where they, or the images, are too few to tell."""
    outliers, peak = subject.outliers, subject.outliers.record.peak
    counts, images = 0.0, 0
    for pixels in subject.batches("fit"):
        beyond = outliers.beyond(patch_norms(subject.backbone.trace(pixels, NORMS), peak), peak)
        counts, images = counts + beyond.sum(0).double().cpu(), images + len(pixels)
    positions = np.asarray(counts)
    told = positions.sum() >= FEWEST and images >= FEWEST
    return bool(position_locked(positions / images, images)) if told else None


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
