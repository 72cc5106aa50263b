"""Models of which some parameters are others, and share the rest."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.backbones.anatomy.followed import followed
from vitreg.backbones.anatomy.parts import Anatomy
from vitreg.backbones.backbone import Backbone
from vitreg.backbones.weights.into_module import sha256_of_weights
from vitreg.errors import UserError


def reweighted(backbone: Backbone, weights: Mapping[str, Tensor], name: str) -> Backbone:
    """Return the model with some parameters of its tower replaced; all others are shared.

    Args:
        weights: by the parameter's name in the tower.
    Raises:
        UserError: for a name that is no parameter of the tower, a tensor of another shape, or an edited model.
    """
    if backbone.edit_names:
        raise UserError(
            f"{backbone.spec} is edited while it runs, and {name} changes weights; repair the weights first."
        )
    module, tower = backbone.module, backbone.anatomy.tower
    shared: dict[int, Any] = {id(each): each for each in (*module.parameters(), *module.buffers())}
    own = dict(tower.named_parameters())
    for key, value in weights.items():
        if key not in own or own[key].shape != value.shape:
            raise UserError(f"this model has no parameter {key} of shape {list(value.shape)}.")
        shared[id(own[key])] = nn.Parameter(value.to(own[key]), requires_grad=own[key].requires_grad)
    changed = copy.deepcopy(module, shared)
    anatomy = _anatomy_of(changed) or followed(backbone.anatomy, shared)
    other = Backbone(
        changed, anatomy, backbone.preprocess, spec=f"{backbone.spec} + {name}",
        weights_source=backbone.weights_source, weights_sha256=sha256_of_weights(anatomy.tower),
        notes=(*backbone.notes, f"Weights changed: {name}."), untrained=backbone.untrained,
        precision_choice=backbone.precision_choice,
    )  # fmt: skip
    other.base = backbone.base or backbone
    return other


def _anatomy_of(module: nn.Module) -> Anatomy | None:
    """Return the anatomy of a module of a known class; None for others."""
    try:
        return find_anatomy(module)
    except UserError:
        return None
