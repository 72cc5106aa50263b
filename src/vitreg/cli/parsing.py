"""Reads the words of the command line into a dataclass with tyro; a mistake is one sentence, as everywhere.

`kinds` converts words to values, `lists` reads lists.
"""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import tyro

from vitreg.cli.kinds import PERSONS, WANTED
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
    from tyro import _errors as events  # private, but the only place where tyro reports the mistake

    def explain(event: events.ParseErrorEvent) -> None:
        raise UserError(_sentence(event, kind, words, prog))

    words = unified(kind, words)
    with PERSONS, _joined_manuals(), events.on_parse_error(explain):
        about = paragraphs(description or inspect.getdoc(kind) or "")
        return tyro.cli(kind, args=list(words), prog=prog, description=about, **options)


@contextmanager
def _joined_manuals() -> Iterator[None]:
    """Join the lines of a field's docstring, because tyro keeps the break before an indented line."""
    from tyro import _docstrings as manuals

    read = manuals.parse_docstring_from_object

    def joined(kind: object) -> dict[str, str]:
        return {name: " ".join(text.split()) for name, text in read(kind).items()}

    manuals.parse_docstring_from_object = joined  # type: ignore[assignment]
    try:
        yield
    finally:
        manuals.parse_docstring_from_object = read


def paragraphs(text: str) -> str:
    """Wrap the manual of a verb to the terminal; a command to copy stays on one line."""
    width = min(shutil.get_terminal_size().columns, 120)
    parts = (" ".join(part.split()) for part in text.split("\n\n"))
    return "\n\n".join(part if _is_command(part) else textwrap.fill(part, width, **_HANGING) for part in parts)


# Indented, because tyro joins lines that begin with a letter.
_HANGING: dict[str, Any] = {"subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}


def _is_command(paragraph: str) -> bool:
    return ": vitreg " in paragraph or ": torchrun " in paragraph


def _sentence(event: Any, kind: type, words: Sequence[str], prog: str) -> str:
    """Return the sentence on a mistake: the word, and the nearest valid one."""
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
    """The user's name of an argument: its flag, or its metavar for a positional one."""
    if argument.is_positional():
        return str(argument.lowered.metavar)
    return str(argument.lowered.name_or_flags[0])


def _wanted(argument: Any) -> str:
    """The values that an argument takes, in words."""
    wanted = str(argument.lowered.metavar)
    if "..." in wanted:
        return "whole numbers" if "INT" in wanted else "numbers" if "FLOAT" in wanted else "words"
    return WANTED.get(wanted, wanted)


def _given(flag: str, words: Sequence[str]) -> str:
    """The values given after a flag."""
    for place, word in enumerate(words):
        if word.startswith(f"{flag}="):
            return f"'{word.partition('=')[2]}'"
        if word == flag:
            after = words[place + 1 :]
            stop = next((i for i, value in enumerate(after) if value.startswith("--")), len(after))
            return f"'{' '.join(after[:stop])}'"
    return ""


def flags(kind: Any) -> Iterator[str]:
    """Yield the flags of a dataclass, including those of nested dataclasses."""
    for name, inner, marks in fields_of(kind):
        flag = name.replace("_", "-")
        if dataclasses.is_dataclass(inner):
            yield from flags(inner)
        elif not {tyro.conf.Positional, tyro.conf.Suppress} & {*marks}:
            yield from (f"--{flag}", f"--no-{flag}") if inner is bool else (f"--{flag}",)
