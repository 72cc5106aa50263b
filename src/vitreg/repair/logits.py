"""The answers of a model's own classifier, where it has one."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.errors import UserError

# A model of image and text takes more than images; one of timm refuses the size that a border makes.
FAILS = (TypeError, ValueError, RuntimeError, AttributeError, AssertionError)


def logits_of(backbone: Backbone, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"] | None:
    """Return what the module itself answers, repaired; None if that is not one row of numbers an image."""
    try:
        module = backbone.module
    except UserError:  # an edit of the whole call has no module
        return None
    return _answer(module, backbone, images)


def _answer(module: nn.Module, like: Backbone, images: Tensor) -> Float[Tensor, "B K"] | None:
    training = [each for each in module.modules() if each.training]
    module.eval()
    try:
        with torch.inference_mode():
            found = module(images.to(like.device, like.dtype))
    finally:
        for each in training:
            each.training = True
    found = getattr(found, "logits", found)
    found = found[0] if isinstance(found, tuple | list) and found else found
    return found.float() if isinstance(found, Tensor) and found.ndim == 2 and len(found) == len(images) else None


def classifies(backbone: Backbone, images: Float[Tensor, "1 C H W"]) -> bool:
    """Tell whether the module answers with classes: what it returns is what linear layers behind its blocks give, one alone or
    the mean of two (a distilled DeiT), and no embedding of a model of image and text.

    Of an edited backbone the original decides, whose blocks the anatomy knows; the edited module must answer too.
    """
    if _embeds(backbone):
        return False
    inside = {id(each) for block in backbone.anatomy.blocks for each in block.modules()}
    given: list[Tensor] = []

    def keep(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        given.append(output)

    hooks = [
        each.register_forward_hook(keep)
        for each in backbone.original.modules()
        if isinstance(each, nn.Linear) and id(each) not in inside
    ]
    try:
        found = _answer(backbone.original, backbone, images)
    except FAILS:
        return False
    finally:
        for hook in hooks:
            hook.remove()
    if found is None or found.shape[1] < 2:
        return False
    heads = [each.float() for each in given if each.shape == found.shape]
    if not heads or not any(torch.equal(each, found) for each in (*heads, torch.stack(heads).mean(0))):
        return False
    return not backbone.edit_sets or _answers(backbone, images)


def _answers(backbone: Backbone, images: Tensor) -> bool:
    try:
        return logits_of(backbone, images) is not None
    except FAILS:
        return False


def _embeds(backbone: Backbone) -> bool:
    """Whether the output of a model is an embedding, though a linear layer gives it: towers of CLIP and the like."""
    if backbone.anatomy.library == "open_clip" or backbone.spec.startswith("openclip:"):
        return True
    cfg: Any = getattr(backbone.anatomy.tower, "pretrained_cfg", None)
    if backbone.anatomy.library != "timm" or not isinstance(cfg, dict):
        return False
    # timm keeps the projection of OpenAI's and LAION's towers as the head; fine-tuned ones say so in their tag.
    name, tag = str(cfg.get("architecture", "")), str(cfg.get("tag", ""))
    towers = "clip" in name or "siglip" in name
    head: Any = getattr(backbone.anatomy.tower, "head", None)
    own = isinstance(head, nn.Linear) and head.out_features == cfg.get("num_classes")
    return towers and own and "_ft_" not in tag and "ft_in" not in tag
