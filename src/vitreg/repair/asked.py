"""Repairs as a list of words asks for them: ``test-time``, or with settings ``test-time:registers=2:token=mean``. No torch here.

The settings are the flags of ``vitreg fix``, without their dashes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from vitreg.errors import UserError, unknown
from vitreg.passes.keywords import fitting
from vitreg.repair.settings import MethodSettings, names, settings_of

NONE = "none"


@dataclass(frozen=True)
class Wanted:
    """One repair.

    Args:
        name: of the method.
        settings: all of its settings.
    """

    name: str
    settings: MethodSettings

    def __str__(self) -> str:
        """As a list of words says it: settings other than the default ones, in the order of the flags."""
        usual = type(self.settings)()
        given = [(each.name, getattr(self.settings, each.name)) for each in fields(self.settings)]
        words = [_words(name, value) for name, value in given if value != getattr(usual, name)]
        return ":".join([self.name, *words])


def wanted(word: str, choices: Sequence[str] = ()) -> Wanted:
    """Read one repair.

    Args:
        word: NAME, or NAME:SETTING=VALUE:SETTING=VALUE; a flag without a value is SETTING alone.
        choices: what else stands where a name does, for the nearest one of a name that does not exist.
    Raises:
        UserError: for a method or a setting that does not exist, or a value that does not fit.
    """
    name, *words = word.split(":")
    if name not in names():
        raise unknown("method", name, (*choices, *names()), "vitreg repairs")
    kind = settings_of(name)
    known = {each.name.replace("_", "-"): each.name for each in fields(kind)}
    given: dict[str, Any] = {}
    for each in words:
        setting, is_set, value = each.partition("=")
        if setting not in known:
            raise unknown("setting", setting, known, name)
        if known[setting] in given:
            raise UserError(f"'{word}' gives {setting} twice.")
        given[known[setting]] = _value(kind, known[setting], value) if is_set else True
    settings = kind(**fitting(kind, given))
    settings.check()
    return Wanted(name, settings)


def _value(kind: type[MethodSettings], setting: str, word: str) -> Any:
    """Return what a word stands for: a number or a truth where the setting takes one, else the word."""
    try:
        value = json.loads(word)
        fitting(kind, {setting: value})
    except (ValueError, UserError):
        return word
    return value


def _words(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    return flag if value is True else f"{flag}={json.dumps(value) if isinstance(value, bool | int | float) else value}"
