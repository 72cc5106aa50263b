"""Settings as frozen dataclasses: read and written as plain data, compared, and held to ranges of numbers.

Each dataclass lives beside the code that reads it. The field `kind` says which of several (recipes) a table is; `OneOf`
names a list that is still growing. Pydantic checks values; unknown keys are refused here, with the nearest known one.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from vitreg.documents import parse_json
from vitreg.errors import UserError, nearest, unknown

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OneOf:
    """Annotates a setting that is one of several dataclasses by its field `kind`.

    Args:
        members: returns the dataclasses by their kind; called at every reading, so the list may grow.
    """

    members: Callable[[], Mapping[str, type]]

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> Any:
        """Return the schema of the union as it is now."""
        union: Any = typing.Union[tuple(self.members().values())]  # noqa: UP007  not known before
        return handler.generate_schema(typing.Annotated[union, pydantic.Field(discriminator="kind")])


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`; each bound may be included or excluded."""

    low: float = 0
    high: float = inf
    with_low: bool = True
    with_high: bool = True

    def holds(self, value: float) -> bool:
        """Say whether a number lies inside; NaN and infinity never do."""
        low = self.low <= value if self.with_low else self.low < value
        high = value <= self.high if self.with_high else value < self.high
        return low and high and value < inf

    def __str__(self) -> str:
        low = f"{digits(self.low)} or more" if self.with_low else f"more than {digits(self.low)}"
        if self.high == inf:
            return low
        return f"{low} and {'at most' if self.with_high else 'less than'} {digits(self.high)}"


def digits(number: float) -> str:
    """Write a number without needless decimals."""
    return str(number) if isinstance(number, int) else f"{number:g}"


COUNT, MAYBE, AMOUNT, FACTOR = Range(1), Range(0), Range(0), Range(0, with_low=False)
SHARE, BELOW_ONE = Range(0, 1), Range(0, 1, with_high=False)


def encode(config: Any) -> dict[str, Any]:
    """Return the settings as plain data, fit for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def decode(kind: type[T], data: Any, *, where: str = "the configuration") -> T:
    """Build a config dataclass from plain data. Missing keys get their defaults; unknown keys are refused.

    Raises:
        UserError: one sentence that names the key, what is wrong, and the nearest known key.
    """
    _refuse_unknown_keys(kind, data, where, ())
    try:
        built = pydantic.TypeAdapter(kind).validate_python(data)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(_keys(first["loc"], data))
        if first["type"].startswith("union_tag"):
            raise _without_kind(key, first, where) from None
        raise UserError(f"{where}: {key or 'the whole'}: {_plain(first['msg'])}, not {first['input']!r}.") from None
    _refuse_truths_for_numbers(data, encode(built), where)
    return built


def read(path: Path) -> dict[str, Any]:
    """Read a .json or .toml file of settings.

    Raises:
        UserError: if it cannot be read or parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text) if path.suffix == ".toml" else parse_json(text)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} is no valid {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}.") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}, not a table of settings.")
    return data


def read_words(words: Sequence[str], base: dict[str, Any]) -> dict[str, Any]:
    """Read settings from a command line, `--table.key VALUE ...` or `--table.key=VALUE`, as plain data to `merge`.

    `--table.key` and `--table.no-key` switch a setting on and off; the word None unsets one. `decode` checks values.

    Args:
        words: of the command line.
        base: complete settings, which say what keys there are.
    Raises:
        UserError: for a word that is no setting, naming the nearest, or too few or too many values.
    """
    known, left = flatten(base), list(words)
    found: dict[str, Any] = {}
    while left:
        flag, given, value = left.pop(0).partition("=")
        values = [value] if given else []
        while not given and left and not left[0].startswith("--"):
            values.append(left.pop(0))
        key, setting = _setting(flag, values, known)
        *tables, name = key.split(".")
        place = found
        for table in tables:
            place = place.setdefault(table, {})
        place[name] = setting
    return found


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay settings over others, table by table; a table of another `kind` replaces the whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        same = (
            isinstance(old, dict) and isinstance(value, dict) and value.get("kind", old.get("kind")) == old.get("kind")
        )
        merged[key] = merge(old, value) if same else value  # pyright: ignore[reportArgumentType]
    return merged


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"model.registers": 4, ...} of nested tables."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """List what changed, as "optim.lr: 0.001 -> 0.002"."""
    before, after = flatten(old), flatten(new)
    return [
        f"{key}: {before.get(key, 'unset')} -> {after.get(key, 'unset')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _setting(flag: str, values: list[str], known: dict[str, Any]) -> tuple[str, Any]:
    """Return the key that a flag of the command line names, and what it is set to."""
    key = flag.removeprefix("--").replace("-", "_")
    switch = key.replace(".no_", ".")
    if flag.startswith("--") and not values and isinstance(known.get(switch), bool):
        return switch, key == switch
    if not flag.startswith("--") or key not in known:
        raise unknown("setting", flag, [f"--{name.replace('_', '-')}" for name in known])
    if isinstance(known[key], list):
        return key, [part for value in values for part in value.split(",")]
    if len(values) != 1:
        raise UserError(f"{flag} takes one value, not {len(values)}{': ' if values else ''}{' '.join(values)}.")
    return key, None if values[0] == "None" else values[0]


def _without_kind(key: str, error: Any, where: str) -> UserError:
    """Return the error for a table whose `kind` is missing or none of the list, with the nearest."""
    if error["type"] != "union_tag_invalid":
        return UserError(f"{where}: {key} is a table of settings with a 'kind', not {error['input']!r}.")
    known = re.findall(r"'([^']+)'", error["ctx"]["expected_tags"])
    return UserError(f"{where}: {unknown(f'{key}.kind', error['ctx']['tag'], known)}")


def _refuse_unknown_keys(kind: Any, data: Any, where: str, path: tuple[str, ...]) -> None:
    kind = _chosen(kind, data)
    if not dataclasses.is_dataclass(kind) or not isinstance(data, dict):
        return
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [field.name for field in dataclasses.fields(kind)]
    for key, value in data.items():
        if key not in fields:
            close = nearest(str(key), fields) or sorted(fields)[:12]
            known = " or ".join(repr(".".join((*path, name))) for name in close[:3])
            raise UserError(f"{where}: no setting '{'.'.join((*path, str(key)))}'. Did you mean {known}?")
        _refuse_unknown_keys(hints[key], value, where, (*path, key))


def _refuse_truths_for_numbers(data: Any, built: dict[str, Any], where: str) -> None:
    """Refuse booleans where a number belongs: pydantic would read True as 1."""
    found = flatten(built)
    for key, given in flatten(data).items():
        pairs = zip(given, found[key], strict=True) if isinstance(given, list) else [(given, found[key])]
        for value, made in pairs:
            if isinstance(value, bool) and not isinstance(made, bool):
                raise UserError(f"{where}: {key}: should be a number, not {value}.")


def _chosen(kind: Any, data: Any) -> Any:
    """Return the dataclass of a union whose `kind` the data name."""
    if typing.get_origin(kind) is typing.Annotated:
        kind, *extras = typing.get_args(kind)
        open_list = next((extra for extra in extras if isinstance(extra, OneOf)), None)
        if open_list is not None:
            return open_list.members().get(str(data.get("kind"))) if isinstance(data, dict) else None
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    for member in typing.get_args(kind):
        if dataclasses.is_dataclass(member) and isinstance(data, dict):
            kinds = {field.name: field.default for field in dataclasses.fields(member)}
            if data.get("kind") in (None, kinds.get("kind")):
                return member
    return None


def _keys(place: tuple[Any, ...], data: Any) -> list[str]:
    """Return the keys that lead to an error, without the `kind` that pydantic puts between them."""
    keys = []
    for part in place:
        if isinstance(data, dict) and part not in data and part == data.get("kind"):
            continue
        keys.append(str(part))
        data = data.get(part) if isinstance(data, dict) else None
    return keys


def _plain(message: str) -> str:
    return (message[:1].lower() + message[1:]).replace("input should", "should").replace("input tag", "tag")
