"""Conversions between words of the command line and values, for each type.

The help of an optional value shows the values it takes and the word "unset", not Python's union and None.
"""

from __future__ import annotations

import re
import types
from dataclasses import replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from vitreg.passes.keywords import Size
from vitreg.passes.options import Layers

WANTED = {
    "INT": "a whole number",
    "FLOAT": "a number",
    "STR": "a word",
    "PATH": "a path",
    "SIZE": "an image size such as 518 or 384x512 (height x width)",
    "BLOCKS": "a block such as 7, several as 5,8,11 or 5 8 11, or all",
}
"""The values a flag takes, by its metavar."""

PERSONS = ConstructorRegistry()
"""How values are shown to people."""


@PERSONS.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Show `X | None` as X, and None as "unset"; the word None still unsets a preset's value."""
    if get_origin(info.type) not in (Union, types.UnionType):
        return None
    inner = [member for member in get_args(info.type) if member is not type(None)]
    if len(inner) == len(get_args(info.type)):
        return None
    whole: Any = inner[0] if len(inner) == 1 else Union[tuple(inner)]  # noqa: UP007
    if len(inner) > 1 and whole not in (Size, Layers):
        return None
    found = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(whole, info.markers))
    if not isinstance(found, PrimitiveConstructorSpec):
        return None
    return replace(
        found,
        instance_from_str=lambda words: None if words == ["None"] else found.instance_from_str(words),
        is_instance=lambda value: value is None or found.is_instance(value),
        str_from_instance=lambda value: ["unset"] if value is None else found.str_from_instance(value),
    )


@PERSONS.primitive_rule
def _size(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read "518" or "384x512" (height x width)."""
    if info.type != Size:
        return None

    def sides(words: list[str]) -> int | tuple[int, int]:
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", words[0])
        if match is None:
            raise ValueError("no image size")
        return int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="SIZE",
        instance_from_str=sides,
        is_instance=lambda value: isinstance(value, int | tuple),
        str_from_instance=lambda value: [f"{value[0]}x{value[1]}" if isinstance(value, tuple) else str(value)],
    )


@PERSONS.primitive_rule
def _layers(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read "-1", "5,8,11" or "all"."""
    if info.type != Layers:
        return None

    def blocks(words: list[str]) -> int | tuple[int, ...] | str:
        if words[0] == "all":
            return "all"
        found = tuple(int(word) for word in words[0].split(","))
        return found[0] if len(found) == 1 else found

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="BLOCKS",
        instance_from_str=blocks,
        is_instance=lambda value: value == "all" or isinstance(value, int | tuple),
        str_from_instance=lambda value: [",".join(map(str, value)) if isinstance(value, tuple) else str(value)],
    )


@PERSONS.primitive_rule
def _word(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Show an empty word as "unset"."""
    if info.type is not str:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="STR",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value or "unset"],
    )


@PERSONS.primitive_rule
def _path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Refuse an empty path, such as an unset shell variable, which pathlib reads as the current folder."""
    if info.type is not Path:
        return None

    def named(words: list[str]) -> Path:
        if not words[0]:
            raise ValueError("an empty path")
        return Path(words[0])

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=named,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


@PERSONS.primitive_rule
def _several(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Show an empty list as "none", and read that word."""
    if info.type_origin is not tuple or get_args(info.type)[1:] != (...,):
        return None
    each = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(get_args(info.type)[0], info.markers))
    if not isinstance(each, PrimitiveConstructorSpec) or each.nargs != 1:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"[{each.metavar} [{each.metavar} ...]]",
        instance_from_str=lambda words: (
            () if words == ["none"] else tuple(each.instance_from_str([word]) for word in words)
        ),
        is_instance=lambda value: isinstance(value, tuple) and all(each.is_instance(item) for item in value),
        str_from_instance=lambda values: [each.str_from_instance(value)[0] for value in values] or ["none"],
        choices=each.choices,
    )
