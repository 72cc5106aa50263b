"""The anatomy of a copy of a model, made from that of the model: for anatomies made by hand, which no builder can make again."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import nn

from vitreg.backbones.anatomy.parts import Anatomy
from vitreg.errors import UserError


def followed(anatomy: Anatomy, copies: Mapping[int, Any]) -> Anatomy:
    """Return the anatomy with every module, and every function that holds one, replaced by that of the copy.

    Args:
        copies: id of a module or parameter -> its copy, as `copy.deepcopy` leaves them in its memo.
    Raises:
        UserError: if the anatomy still runs the old model: its functions reach it by a name of their module.
    """
    found = _Follower(copies).follow(anatomy)
    _refuse_running_the_old(anatomy, found)
    return found


class _Follower:
    """Replaces what a value holds of the old model; values that hold nothing of it stay the same object."""

    def __init__(self, copies: Mapping[int, Any]) -> None:
        self._copies = copies
        self._functions: dict[int, types.FunctionType] = {}

    def follow(self, value: Any) -> Any:
        """Return what stands for a value in the copy."""
        if isinstance(value, nn.Module | torch.Tensor):
            return self._copies.get(id(value), value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, self.follow(value.__self__))
        if isinstance(value, functools.partial):
            words = {name: self.follow(each) for name, each in value.keywords.items()}
            return functools.partial(self.follow(value.func), *map(self.follow, value.args), **words)
        if isinstance(value, tuple | list) and type(value) in (tuple, list):
            return type(value)(map(self.follow, value))
        if isinstance(value, dict):
            return {key: self.follow(each) for key, each in value.items()}
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{each.name: self.follow(getattr(value, each.name)) for each in fields(value)})
        return value

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        if function.__closure__ is None and not function.__defaults__ and not function.__kwdefaults__:
            return function
        if id(function) in self._functions:
            return self._functions[id(function)]
        cells = tuple(types.CellType() for _ in function.__closure__ or ())
        made = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
        self._functions[id(function)] = made  # before its cells: it may hold itself
        made.__defaults__ = self.follow(function.__defaults__)
        made.__kwdefaults__ = self.follow(function.__kwdefaults__)
        for cell, old in zip(cells, function.__closure__ or (), strict=True):
            cell.cell_contents = self.follow(old.cell_contents)
        return made


def _refuse_running_the_old(anatomy: Anatomy, found: Anatomy) -> None:
    """Run one grey image, and see whether the blocks of the copy run."""
    ran: list[nn.Module] = []
    weight = next(found.tower.parameters())
    grey = torch.zeros(1, anatomy.channels, *anatomy.native_size, device=weight.device, dtype=weight.dtype)
    hooks = [block.register_forward_hook(lambda block, _given, _output: ran.append(block)) for block in found.blocks]
    try:
        with torch.no_grad():
            found.encode(grey)
    finally:
        for hook in hooks:
            hook.remove()
    if len(ran) != len(found.blocks) or any(old is new for old, new in zip(anatomy.blocks, found.blocks, strict=True)):
        raise UserError(
            "the functions of this anatomy reach the model by a global name, so they would still run the old weights; give them "
            "the module as an argument, or say what its class is with vitreg.register(CLASS, FUNCTION)."
        )
