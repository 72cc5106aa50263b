"""The answers of a model's own classifier, where it has one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.errors import UserError


def logits_of(backbone: Backbone, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"] | None:
    """Return what the module itself answers, repaired; None if that is not one row of numbers an image."""
    try:
        module = backbone.module
    except UserError:  # an edit of the whole call has no module
        return None
    training = [each for each in module.modules() if each.training]
    module.eval()
    try:
        with torch.inference_mode():
            found = module(images.to(backbone.device, backbone.dtype))
    finally:
        for each in training:
            each.training = True
    found = getattr(found, "logits", found)
    found = found[0] if isinstance(found, tuple | list) and found else found
    return found.float() if isinstance(found, Tensor) and found.ndim == 2 and len(found) == len(images) else None


def classifies(backbone: Backbone, images: Float[Tensor, "1 C H W"]) -> bool:
    """Tell whether the module ends with a linear layer that is no part of its blocks, and answers with its outputs."""
    inside = {id(each) for block in backbone.anatomy.blocks for each in block.modules()}
    try:
        module = backbone.module
    except UserError:
        return False
    linear = [each for each in module.modules() if isinstance(each, nn.Linear) and id(each) not in inside]
    if not linear:
        return False
    try:
        found = logits_of(backbone, images)
    except (TypeError, ValueError, RuntimeError, AttributeError):  # a model of image and text takes more than images
        return False
    return found is not None and found.shape[1] > 1 and any(each.out_features == found.shape[1] for each in linear)
