"""Models of which some parameters are others, and share the rest."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from contextlib import contextmanager
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
    _refuse_edited(backbone, name)
    module = backbone.module
    shared: dict[int, Any] = {id(each): each for each in (*module.parameters(), *module.buffers())}
    shared |= _others(backbone.anatomy.tower, weights)
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


@contextmanager
def replaced_parameters(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> Generator[None, None, None]:
    """Give the very object other parameters while the block runs; shared ones are replaced everywhere. Raises as `reweighted`."""
    if weights:
        _refuse_edited(Backbone(module), name)
    others = _others(find_anatomy(module).tower, weights) if weights else {}
    places = [
        (part, key, parameter)
        for part in module.modules()
        for key, parameter in part._parameters.items()
        if id(parameter) in others
    ]
    for part, key, parameter in places:
        part._parameters[key] = others[id(parameter)]
    try:
        yield
    finally:
        for part, key, parameter in places:
            part._parameters[key] = parameter


def _refuse_edited(backbone: Backbone, name: str) -> None:
    if backbone.edit_names:
        raise UserError(
            f"{backbone.spec} is edited while it runs, and {name} changes weights; repair the weights first."
        )


def _others(tower: nn.Module, weights: Mapping[str, Tensor]) -> dict[int, nn.Parameter]:
    """Return the new parameters by the `id` of the old ones."""
    own, others = dict(tower.named_parameters()), dict[int, nn.Parameter]()
    for key, value in weights.items():
        if key not in own or own[key].shape != value.shape:
            raise UserError(f"this model has no parameter {key} of shape {list(value.shape)}.")
        others[id(own[key])] = nn.Parameter(value.to(own[key]), requires_grad=own[key].requires_grad)
    return others


def _anatomy_of(module: nn.Module) -> Anatomy | None:
    """Return the anatomy of a module of a known class; None for others."""
    try:
        return find_anatomy(module)
    except UserError:
        return None
