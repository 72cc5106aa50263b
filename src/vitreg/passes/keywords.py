"""The values that a Python call gives as keywords, held to the types of the options. No torch here.

The command line reads words and converts them by type; a Python call gives values. `fitted` takes what can be converted
without loss, such as a NumPy integer or a list for a tuple, and refuses the rest in one sentence.
"""

from __future__ import annotations

import operator
import os
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vitreg.errors import UserError, unknown

Size = int | tuple[int, int]
"""Image size in pixels: the side of a square, or (height, width)."""


@dataclass(frozen=True)
class Listed:
    """Marks a flag that takes several values: the words after it that match belong to it."""

    pattern: str


@dataclass(frozen=True)
class Also:
    """Marks a flag that Python may give as another type."""

    kind: type


class Fitted:
    """Base of the dataclasses of options: every value is what the type of its field says, however it was given."""

    def __post_init__(self) -> None:
        """Convert what can be. Raises UserError for a value of another type."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        for name, value in fitting(type(self), given).items():
            object.__setattr__(self, name, value)


class _Other(Exception):  # noqa: N818  no fault yet: another type may fit
    """A value of another type."""


def fitting(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords as the fields of a dataclass, or the parameters of a function, want them.

    Names that `kind` does not have pass as they are.

    Raises:
        UserError: as `fitted` does.
    """
    hints = _hints(kind)
    return {name: fitted(name, hints.get(name, Any), value) for name, value in values.items()}


@cache
def _hints(kind: Any) -> dict[str, Any]:
    try:
        return get_type_hints(kind, include_extras=True)
    except NameError:  # a type of somebody else's module that is imported for type checkers only
        return {}


def fitted(name: str, hint: Any, value: Any) -> Any:
    """Return a value as its type wants it.

    Args:
        name: the keyword.
        hint: its type, resolved.
    Raises:
        UserError: for a value that cannot be converted without loss. It names the keyword, the value and what is valid.
    """
    try:
        return _fitted(hint, value)
    except _Other:
        choices = _choices(hint)
        words = value if isinstance(value, tuple | list) else [value]
        wrong = next((each for each in words if isinstance(each, str) and choices and each not in choices), None)
        if wrong is not None:
            raise unknown(name.replace("_", " "), wrong, choices) from None
        raise UserError(f"--{name.replace('_', '-')} takes {_wanted(hint)}, not {_shown(value)}.") from None


def _fitted(hint: Any, value: Any) -> Any:
    base, *marks = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    if any(isinstance(mark, Also) and isinstance(value, mark.kind) for mark in marks):
        return value
    if any(isinstance(mark, Listed) for mark in marks) and base is str:
        return _words(value)
    origin = get_origin(base)
    if origin in (Union, types.UnionType):
        return _member(base, value)
    if origin is Literal:
        return _choice(get_args(base), value)
    if origin is tuple:
        return _several(get_args(base), value)
    if isinstance(origin, type):
        if isinstance(value, str) and issubclass(origin, Sequence):
            raise _Other
        found = _of(origin, value)
        if issubclass(origin, Mapping):
            key, held = get_args(base)
            return {_fitted(key, name): _fitted(held, each) for name, each in found.items()}
        return [_fitted(get_args(base)[0], each) for each in found] if issubclass(origin, Sequence) else found
    return READERS[base](value) if base in READERS else _of(base, value)


def _member(union: Any, value: Any) -> Any:
    members = get_args(union)
    if type(value) is not bool and any(isinstance(value, each) for each in members if isinstance(each, type)):
        return value
    for member in members:
        try:
            return _fitted(member, value)
        except _Other:
            continue
    raise _Other


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    if isinstance(value, Collection) and not isinstance(value, str):  # compares item by item
        raise _Other
    found = next((each for each in choices if type(each) is type(value) and each == value), None)
    if found is None:
        raise _Other
    return found


def _several(members: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """Read a list; a lone value is a list of one, as on the command line."""
    whole = members[-1] is not Ellipsis
    if isinstance(value, str) and not whole:
        value = [word.strip() for word in value.split(",") if word.strip()]
    if isinstance(value, Mapping) or not hasattr(value, "__iter__"):
        if whole:
            raise _Other
        value = [value]
    values = list(value)
    kinds = members if whole else members[:1] * len(values)
    if len(kinds) != len(values):
        raise _Other
    return tuple(_fitted(kind, each) for kind, each in zip(kinds, values, strict=True))


def _words(value: Any) -> Any:
    """Let words, numbers and lists of them through; the options write them as on the command line."""
    for each in value if isinstance(value, tuple | list) else (value,):
        if not isinstance(each, str | int | float) or isinstance(each, bool):
            raise _Other
    return value


def _of(kind: Any, value: Any) -> Any:
    if kind in (Any, object) or not isinstance(kind, type):
        return value
    if not isinstance(value, kind):
        raise _Other
    return value


def _truth(value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_") and not (type(value) is int and value in (0, 1)):
        raise _Other
    return bool(value)


def _whole(value: Any) -> int:
    if type(value).__name__ in ("bool", "bool_"):
        raise _Other
    if isinstance(value, float):
        if not value.is_integer():
            raise _Other
        return int(value)
    try:
        return operator.index(value)
    except (TypeError, ValueError):
        raise _Other from None


def _number(value: Any) -> float:
    """Read a real number; a plain one stays as it is, so that records show it as it was given."""
    if type(value) in (int, float):
        return value
    if type(value).__name__ in ("bool", "bool_") or isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise _Other
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise _Other from None


def _word(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if type(value).__module__ == "torch" and type(value).__name__ in ("device", "dtype"):
        return str(value).removeprefix("torch.")
    return _of(str, value)


def _path(value: Any) -> Path:
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise _Other
    return Path(value)


def _nothing(value: Any) -> None:
    if value is not None:
        raise _Other


READERS: dict[Any, Callable[[Any], Any]] = {
    bool: _truth,
    int: _whole,
    float: _number,
    str: _word,
    Path: _path,
    type(None): _nothing,
}
"""How a value of each plain type is read."""

WANTED = {bool: "True or False", int: "a whole number", float: "a number", str: "a word", Path: "a path"}
MANY = {int: "whole numbers", float: "numbers", str: "words", Path: "paths"}


def _wanted(hint: Any) -> str:
    """Say which values a type takes."""
    base = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    origin, members = get_origin(base), get_args(base)
    if {*members} - {type(None)} == {*get_args(Size)}:
        return "an image size such as 518 or (384, 512)" + (" or None" if type(None) in members else "")
    if origin in (Union, types.UnionType):
        named = [each for each in members if each is not type(None) and not (each is str and Path in members)]
        said = [_wanted(member) for member in named]
        said += ["None"] if type(None) in members else []
        return _either(list(dict.fromkeys(said)))
    if origin is Literal:
        return _either([repr(each) for each in members])
    if origin is tuple and members[-1] is not Ellipsis:
        return f"({', '.join(_wanted(member) for member in members)})"
    if origin is tuple:
        return f"a list of {MANY.get(members[0]) or _wanted(members[0])}"
    if origin is Callable:
        return "a function"
    if origin is not None:
        many = [MANY.get(each) or _wanted(each) for each in (Path if Path in get_args(of) else of for of in members)]
        return f"a dict of {many[0]} to {many[1]}" if len(many) > 1 else f"a list of {many[0]}"
    return WANTED.get(base) or f"a {getattr(base, '__name__', base)}"


def _choices(hint: Any) -> list[str]:
    """Return the words that a type takes, and none where it takes other words too."""
    if get_origin(hint) is Literal:
        return [each for each in get_args(hint) if isinstance(each, str)]
    inner = [each for each in get_args(hint) if not isinstance(each, Listed | Also)]
    found = [_choices(each) for each in inner if each is not Ellipsis and each is not type(None)]
    return found[0] if len(found) == 1 else []


def _either(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _shown(value: Any, longest: int = 60) -> str:
    """Show a value on one line, and only the type of a long one."""
    shown = repr(value)
    return shown if len(shown) <= longest and "\n" not in shown else f"a {type(value).__name__}"
