"""Mask keys: patches no longer attend to outliers, which stay what they are.

It is a control: what outliers do to other patches through attention, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from vitreg.backbones.edits import Edit
from vitreg.errors import UserError
from vitreg.repair.method import Fitted, Method
from vitreg.repair.per_image.detect import detector_for, detector_from
from vitreg.repair.per_image.hiding import HideKeys, Mark
from vitreg.repair.settings import MaskKeysSettings
from vitreg.repair.subject import Subject


def refuse_last_block(subject: Subject, name: str) -> None:
    """Raise UserError where outliers appear after the last block only, or attention cannot be read."""
    backbone, onset = subject.backbone, subject.outliers.onset
    if onset == backbone.depth - 1:
        raise UserError(
            f"the outliers of {backbone.spec} appear after its last block, and no attention follows that {name} could change; "
            "use substitute."
        )
    status = backbone.attention_status()
    if status.source == "none":
        raise UserError(f"{status.reason.rstrip('.')}, so {name} cannot change it; use substitute.")


def fit(subject: Subject, settings: MaskKeysSettings) -> Fitted:
    """Find the block and the threshold."""
    refuse_last_block(subject, "mask-keys")
    onset = subject.outliers.onset
    return Fitted(
        details={
            "block": onset,
            "hidden_in": list(range(onset + 1, subject.backbone.depth)),
            "queries": settings.queries,
            "detector": asdict(detector_for(subject, onset, settings)),
        }
    )


def edits(found: Fitted) -> Sequence[Edit]:
    """Mark outliers where they appear, and hide them in all later blocks."""
    details = found.details
    hide = HideKeys(details["queries"])
    return [
        Edit("block", details["block"], Mark(detector_from(details))),
        *(Edit("attention", block, hide) for block in details["hidden_in"]),
    ]


METHOD = Method(name="mask-keys", settings=MaskKeysSettings, fit=fit, edits=edits)
