"""Lists on the command line: any flag with several values takes them separated by commas or spaces."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from tyro.conf import Positional, UseAppendAction

from vitreg.errors import UserError
from vitreg.passes.keywords import Listed

APPENDED = get_args(UseAppendAction[int])[1]
"""The mark of a flag that is repeated, once for each value."""


def unified(kind: Any, words: Sequence[str]) -> list[str]:
    """Rewrite the lists of a command line for tyro: separate words for tuples, one word with commas for others.

    The words of tuples move to the end of the line, where no later word can be mistaken for one of them. A flag that is
    repeated, marked UseAppendAction, takes one word each time.

    Raises:
        UserError: for a repeated flag without its word.
    """
    lists = {flag: (marked, words) for flag, marked, words in _lists(kind)}
    repeated, found = _repeated(kind), dict[str, list[str]]()
    left, out, last = list(words), [], []
    while left:
        if left[0] == "--":  # no flags after it
            break
        flag, given, value = left.pop(0).partition("=")
        if flag in repeated:
            if not given and left and not left[0].startswith("-"):
                value = left.pop(0)
            if not value:
                raise UserError(f"{flag} needs a value; repeat it for several.")
            found.setdefault(repeated[flag], []).append(value)
            continue
        if flag not in lists:
            out.append(f"{flag}{given}{value}")
            continue
        marked, apart = lists[flag]
        values = [value] if given else []
        while (
            not given
            and left
            and left[0].partition("=")[0] not in repeated
            and _belongs(left[0], marked, first=not values)
        ):
            values.append(left.pop(0))
        if not values:
            out.append(flag)
        elif apart:
            last += [flag, *(part for each in values for part in each.split(",") if part)]
        else:
            out.append(f"{flag}={','.join(each.strip(',') for each in values)}")
    last += [word for flag, values in found.items() for word in (flag, *values)]
    return [*out, *last, *left]


def _repeated(kind: Any) -> dict[str, str]:
    """The flags that are given once for each value: by every name, the name in full."""
    found = {}
    for name, hint, marks in fields_of(kind):
        if dataclasses.is_dataclass(hint):
            found |= _repeated(hint)
        elif APPENDED in marks:
            flag = f"--{name.replace('_', '-')}"
            names = [flag, *(alias for mark in marks for alias in getattr(mark, "aliases", None) or ())]
            found |= dict.fromkeys(names, flag)
    return found


def _belongs(word: str, marked: Listed | None, *, first: bool) -> bool:
    """Whether a word after a flag is one of its values."""
    if word.startswith("--"):
        return False
    if marked is None or first:
        return True
    return all(re.fullmatch(marked.pattern, part) for part in word.strip(",").split(","))


def _lists(kind: Any) -> Iterator[tuple[str, Listed | None, bool]]:
    """Yield each flag with several values, the mark of its values, and whether tyro wants separate words."""
    for name, hint, marks in fields_of(kind):
        if dataclasses.is_dataclass(hint):
            yield from _lists(hint)
            continue
        marked = next((mark for mark in marks if isinstance(mark, Listed)), None)
        apart = get_origin(hint) is tuple and get_args(hint)[1:] == (...,)
        if marked is not None or (apart and Positional not in marks):
            yield f"--{name.replace('_', '-')}", marked, apart


def fields_of(kind: Any) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yield name, type and marks of every field; type variables are resolved, as in Command[Knn]."""
    chosen = get_args(kind)
    for name, hint in get_type_hints(get_origin(kind) or kind, include_extras=True).items():
        marks: tuple[Any, ...] = ()
        for each in (hint, *get_args(hint)):  # X | None has the marks of X
            if get_origin(each) is Annotated:
                inner, *found = get_args(each)
                marks += tuple(found)
                hint = inner if each is hint else hint
        yield name, chosen[0] if isinstance(hint, TypeVar) else hint, marks
