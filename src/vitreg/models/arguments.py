"""The valid arguments of a `VisionTransformer`, whether they come from settings or from a file.

Bounds exceed any trained network, and are small enough that building one without values takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitreg.errors import UserError, nearest
from vitreg.models.parts.words import is_own

POSITIONS = 2**20  # rows of a position table


@dataclass(frozen=True, slots=True)
class _Bounds:
    """From `low` to `high`, both included unless `above`."""

    low: float
    high: float
    whole: bool = True
    above: bool = False  # more than `low`
    pair: bool = False  # one number, or (height, width)
    optional: bool = False

    def holds(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, list | tuple):
            return self.pair and len(value) == 2 and all(self._one(side) for side in value)
        return self._one(value)

    def _one(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        reach = f"above {self.low:g} and at most {self.high:g}" if self.above else f"from {self.low:g} to {self.high:g}"
        return f"{kind} {reach}" + (", or two (height, width)" if self.pair else "") + (", or null" * self.optional)


_NUMBERS = {
    "image_size": _Bounds(1, 65536, pair=True),
    "patch": _Bounds(1, 1024, pair=True),
    "width": _Bounds(1, 65536),
    "depth": _Bounds(1, 1000),
    "heads": _Bounds(1, 1024),
    "registers": _Bounds(0, 1024),
    "register_depth": _Bounds(0, 999),
    "num_classes": _Bounds(0, 10**7),
    "mlp_ratio": _Bounds(0, 64, whole=False, above=True),
    "norm_eps": _Bounds(0, 1, whole=False, above=True),
    "layer_scale": _Bounds(0, 1000, whole=False, optional=True),
    "register_init": _Bounds(0, 1000, whole=False),
    "token_init": _Bounds(0, 1000, whole=False),
    "rope_base": _Bounds(0, 10**9, whole=False, above=True),
}
_WORDS = {"pool": ("cls", "mean"), "positions": ("learned", "rope", "none"), "register_attention": ("softmax", "slots")}
_PARTS = {
    "mlp": ("mlp", "swiglu"),
    "norm": ("layernorm", "rmsnorm"),
    "attention": ("softmax", "off-by-one"),
}  # or somebody's module:function
_SWITCHES = ("cls_token", "pre_norm", "register_positions", "mask_token", "gate", "bias", "frozen_patch_embed")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that no `VisionTransformer` can be built from; missing ones get their defaults.

    Raises:
        UserError: one clause that names the argument, what it is, and what it may be.
    """
    known = [*_NUMBERS, *_WORDS, *_PARTS, *_SWITCHES]
    for name, value in arguments.items():
        if name not in known:
            raise UserError(f"there is no setting {name!r}; nearest: {', '.join(nearest(str(name), known) or known)}.")
        if name in _NUMBERS and not _NUMBERS[name].holds(value):
            raise UserError(f"{name} is {_short(value)}; it must be {_NUMBERS[name]}.")
        if name in _WORDS and value not in _WORDS[name]:
            raise UserError(f"{name} is {_short(value)}; it must be {' or '.join(_WORDS[name])}.")
        if name in _PARTS and value not in _PARTS[name] and not is_own(value):
            words = " or ".join(_PARTS[name])
            raise UserError(f"{name} is {_short(value)}; it must be {words}, or the module:function of your own.")
        if name in _SWITCHES and not isinstance(value, bool):
            raise UserError(f"{name} is {_short(value)}; it must be true or false.")
    _check_together(arguments)


def _check_together(arguments: Mapping[str, Any]) -> None:
    width, heads, depth = (
        arguments.get(name, default) for name, default in (("width", 384), ("heads", 6), ("depth", 12))
    )
    if width % heads:
        raise UserError(f"a width of {width} cannot be shared by {heads} heads; make it a multiple of them.")
    if arguments.get("positions") == "rope" and width // heads % 4:
        raise UserError(
            f"rotary positions turn a head's channels by rows and by columns in pairs, and heads of {width // heads} channels "
            "are no multiple of 4; choose other heads."
        )
    _check_attention(arguments)
    if arguments.get("register_depth", 0) >= depth:
        raise UserError(f"register_depth {arguments['register_depth']} is no block; they go from 0 to {depth - 1}.")
    size, patch = _pair(arguments.get("image_size", 224)), _pair(arguments.get("patch", 16))
    if any(side % step for side, step in zip(size, patch, strict=True)):
        near = [max(1, round(side / step)) * step for side, step in zip(size, patch, strict=True)]
        near = f"{near[0]}x{near[1]}" if size[0] != size[1] or patch[0] != patch[1] else f"{near[0]}"
        shown = f"{size[0]}x{size[1]}" if size[0] != size[1] else f"{size[0]}"
        step = f"{patch[0]}x{patch[1]}" if patch[0] != patch[1] else f"{patch[0]}"
        raise UserError(f"an image_size of {shown} is no multiple of the {step}-pixel patch; {near} is.")
    positions = math.prod(side // step for side, step in zip(size, patch, strict=True))
    if positions > POSITIONS:
        raise UserError(f"image_size and patch make {positions} patches; more than {POSITIONS} are too many.")


def _check_attention(arguments: Mapping[str, Any]) -> None:
    """Refuse what off-by-one or somebody's attention is not asked to do."""
    attention = arguments.get("attention", "softmax")
    if attention != "softmax" and arguments.get("register_attention", "softmax") != "softmax":
        raise UserError(f"register_attention is slots, which goes with attention softmax alone, not with {attention}.")
    if not is_own(attention):
        return
    for name, usual in (("gate", False), ("positions", "learned"), ("register_depth", 0)):
        value = arguments.get(name, usual)
        if value != usual and value != "none":
            raise UserError(
                f"{name} is {value}, which only vitreg's own attention does; '{attention}' has to do it itself."
            )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
