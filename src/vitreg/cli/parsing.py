"""Words of the command line to a dataclass: tyro reads them, and a mistake in them is one sentence like any other.

What may be left unset shows the values it takes and the word "unset", not Python's union and None.
"""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import textwrap
import types
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from vitreg.cli.lists import fields_of, unified
from vitreg.errors import UserError, nearest, unknown

T = TypeVar("T")


def parse(kind: type[T], words: Sequence[str], *, prog: str, description: str | None = None, **options: Any) -> T:
    """Read words into a dataclass, whose fields are the flags and whose docstrings are the manual.

    Args:
        options: passed to tyro.cli.
    Raises:
        UserError: for a flag that does not exist, a value that does not fit it, or a missing word.
        SystemExit: after --help.
    """
    from tyro import _errors as events  # tyro says what was wrong with a line only here, and only this module reads it

    def explain(event: events.ParseErrorEvent) -> None:
        raise UserError(_sentence(event, kind, words, prog))

    words = unified(kind, words)
    with PERSONS, events.on_parse_error(explain):
        about = paragraphs(description or inspect.getdoc(kind) or "")
        return tyro.cli(kind, args=list(words), prog=prog, description=about, **options)


def paragraphs(text: str) -> str:
    """Lay out the manual of a verb as wide as the terminal; a command to copy stays on its line."""
    width = min(shutil.get_terminal_size().columns, 120)
    parts = (" ".join(part.split()) for part in text.split("\n\n"))
    return "\n\n".join(part if _is_command(part) else textwrap.fill(part, width, **_HANGING) for part in parts)


# Indented, for tyro joins lines that begin with a letter.
_HANGING: dict[str, Any] = {"subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}


def _is_command(paragraph: str) -> bool:
    return ": vitreg " in paragraph or ": torchrun " in paragraph


def _sentence(event: Any, kind: type, words: Sequence[str], prog: str) -> str:
    """Say what was found, and the nearest that would have been right."""
    see = f"see {prog} --help"
    match type(event).__name__:
        case "MissingArgs":
            return f"{prog} needs {' and '.join(_called(each.arg) for each in event.missing_arguments)}; {see}."
        case "UnrecognizedArgs":
            flag = next((token for token in event.tokens if token.startswith("-")), None)
            if flag is None:
                return f"{prog} does not take '{event.tokens[0]}'; {see}."
            return unknown("flag", flag.partition("=")[0], sorted(flags(kind)), prog).sentence
        case "InvalidChoice":
            close = nearest(event.value, event.choices, 1)
            return f"{_called(event.argument)} takes {_either(event.choices)}, not '{event.value}'." + (
                f" Did you mean {close[0]!r}?" if close else ""
            )
        case "BadValue":
            return f"{_called(event.argument)} needs {_wanted(event.argument)}; {see}."
        case "InstantiationFailure" if event.argument is not None:
            called = _called(event.argument)
            return f"{called} takes {_wanted(event.argument)}, not {_given(called, words) or 'this'}; {see}."
        case _:
            return f"{getattr(event, 'message', 'these words do not fit together')}; {see}."


def _either(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else choices[0]


def _called(argument: Any) -> str:
    """What a person calls an argument: its flag, or the capital word of a place."""
    if argument.is_positional():
        return str(argument.lowered.metavar)
    return str(argument.lowered.name_or_flags[0])


def _wanted(argument: Any) -> str:
    """What a value has to be."""
    wanted = str(argument.lowered.metavar)
    if "..." in wanted:
        return "whole numbers" if "INT" in wanted else "numbers" if "FLOAT" in wanted else "words"
    return {"INT": "a whole number", "FLOAT": "a number", "STR": "a word", "PATH": "a path"}.get(wanted, wanted)


def _given(flag: str, words: Sequence[str]) -> str:
    """The values that stand behind a flag."""
    for place, word in enumerate(words):
        if word.startswith(f"{flag}="):
            return f"'{word.partition('=')[2]}'"
        if word == flag:
            after = words[place + 1 :]
            stop = next((i for i, value in enumerate(after) if value.startswith("--")), len(after))
            return f"'{' '.join(after[:stop])}'"
    return ""


def flags(kind: Any) -> Iterator[str]:
    """Yield the flags of a dataclass; those of a dataclass in it stand beside its own."""
    for name, inner, marks in fields_of(kind):
        flag = name.replace("_", "-")
        if dataclasses.is_dataclass(inner):
            yield from flags(inner)
        elif tyro.conf.Positional not in marks:
            yield from (f"--{flag}", f"--no-{flag}") if inner is bool else (f"--{flag}",)


PERSONS = ConstructorRegistry()
"""How values are shown to people."""


@PERSONS.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Show `X | None` as X, and None as "unset"; the word None still unsets a preset's value."""
    if get_origin(info.type) not in (Union, types.UnionType):
        return None
    inner = [member for member in get_args(info.type) if member is not type(None)]
    if len(inner) != 1 or len(inner) == len(get_args(info.type)):
        return None
    found = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(inner[0], info.markers))
    if not isinstance(found, PrimitiveConstructorSpec):
        return None
    return replace(
        found,
        instance_from_str=lambda words: None if words == ["None"] else found.instance_from_str(words),
        is_instance=lambda value: value is None or found.is_instance(value),
        str_from_instance=lambda value: ["unset"] if value is None else found.str_from_instance(value),
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
    """Refuse an empty path, such as a variable of the shell that is not set: pathlib reads it as the folder one is in."""
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
    """Show no values at all as "none"."""
    if info.type_origin is not tuple or get_args(info.type)[1:] != (...,):
        return None
    each = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(get_args(info.type)[0], info.markers))
    if not isinstance(each, PrimitiveConstructorSpec) or each.nargs != 1:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"[{each.metavar} [{each.metavar} ...]]",
        instance_from_str=lambda words: tuple(each.instance_from_str([word]) for word in words),
        is_instance=lambda value: isinstance(value, tuple) and all(each.is_instance(item) for item in value),
        str_from_instance=lambda values: [each.str_from_instance(value)[0] for value in values] or ["none"],
        choices=each.choices,
    )
