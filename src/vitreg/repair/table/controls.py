"""Controls of a repair: the same places edited without a change, and another model in the place of the repaired one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitreg.backbones import Backbone
from vitreg.backbones.edits import Edit, Place
from vitreg.backbones.reweighted import reweighted
from vitreg.repair.method import Fitted
from vitreg.repair.methods import method_named
from vitreg.repair.repair import Repair


@dataclass(frozen=True)
class AsGiven:
    """Whatever passes stays as it is."""

    def __call__(self, value: Any, place: Place) -> Any:
        """Return what was given, or of the whole call what the model makes of it."""
        return value if place.run is None else place.run(value)


def zero_strength(repair: Repair, backbone: Backbone) -> Backbone:
    """Return the model with every edit of a repair at strength zero, and every changed weight replaced by its own.

    It must return exactly what the model returns: what it changes comes from the way of editing, not from the repair.
    """
    method, found = method_named(repair.record.method), Fitted(repair.tensors, repair.record.details)
    own = dict(backbone.anatomy.tower.named_parameters())
    weights = {name: own[name].detach() for name in method.weights(found)}
    edits = [Edit(each.site, each.layer, AsGiven()) for each in method.edits(found)]
    name = f"{repair.name} at strength zero"
    fixed = reweighted(backbone, weights, name) if weights else backbone
    return fixed.edited(edits, name) if edits else fixed
