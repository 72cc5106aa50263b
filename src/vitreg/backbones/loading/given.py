"""Accept a model argument: a spec or a module with values; anything else gets a sentence on what it is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import PurePath

import torch
from torch import Tensor, nn

from vitreg.backbones.anatomy.find import unwrapped
from vitreg.backbones.backbone import Backbone
from vitreg.errors import UserError

_WANTED = "give a spec such as timm:vit_small_patch14_reg4_dinov2, or an nn.Module"


def spec_or_module(model: object) -> str | nn.Module:
    """Return a spec, or a module without what torch.compile and data parallelism wrap around it.

    Raises:
        UserError: for anything else, and for a module that cannot be traced or holds no values.
    """
    if isinstance(model, str | PurePath):
        return str(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError(
            "a TorchScript module does not show its blocks; give the module it was made from, or its spec and a file "
            "of its weights."
        )
    if isinstance(model, nn.Module):
        module = unwrapped(model)
        _refuse_empty(module)
        return module
    if isinstance(model, Backbone):
        raise UserError("this is a loaded Backbone already; use it as it is.")
    if isinstance(model, type):
        raise UserError(f"{model.__name__} is a class, not a model; give an instance of it, {model.__name__}(...).")
    if isinstance(model, Mapping):
        state = any(isinstance(value, Tensor) for value in model.values())
        raise UserError(
            "this is a state dict, which does not say how its model is built; load it into the module, or save it and "
            "name the model with it: load(SPEC, weights=FILE)."
            if state
            else f"{_called(model)} is no model; {_WANTED}."
        )
    raise UserError(f"{_called(model)} is no model; {_WANTED}.")


def _called(thing: object) -> str:
    name = type(thing).__name__
    return "None" if thing is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _refuse_empty(module: nn.Module) -> None:
    tensors = itertools.chain(module.parameters(), module.buffers())
    empty = sum(1 for tensor in tensors if tensor.is_meta)
    if empty:
        raise UserError(
            f"this {type(module).__name__} holds no values: {empty} of its tensors are on the meta device; load its "
            "weights first."
        )
