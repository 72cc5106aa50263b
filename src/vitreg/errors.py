"""What a user's mistake looks like: one sentence, the cause, the nearest valid choice. No torch here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_FLAG = re.compile(r"(?<![\w'-])--([a-z][a-z0-9-]*(?:\.[a-z][a-z0-9-]*)*)(?![\w=-])")  # not where words are quoted


class UserError(Exception):
    """A mistake the user can repair. The command line prints the sentence and exits with code 2, without a traceback.

    Messages name settings as the command line does, `--depth-scale`. `str(error)` shows Python's spelling,
    `depth_scale`; `sentence` has the words for the command line.
    """

    @property
    def sentence(self) -> str:
        """The words for the command line."""
        return super().__str__()

    def __str__(self) -> str:
        return _FLAG.sub(lambda flag: flag[1].replace("-", "_"), self.sentence)

    def __format__(self, spec: str) -> str:
        return format(self.sentence, spec)


FROM_FILE = "pass --weights FILE"
"""What helps where weights cannot be fetched; a verb without that flag says what helps there."""


def nearest(name: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` of the choices that look most like `name`, best first; empty where nothing is close."""
    return difflib.get_close_matches(name, list(choices), n=count, cutoff=0.6)


def unknown(what: str, name: str, choices: Iterable[str], where: str = "", *, see: str = "") -> UserError:
    """Build the error for an unknown name, with the nearest valid ones.

    Args:
        see: where the choices are listed, such as "vitreg train lists them"; used if none is near and there are many.
    """
    choices = list(choices)
    close = nearest(name, choices)
    sentence = f"no {what} '{name}'" + (f" in {where}" if where else "") + "."
    if close:
        return UserError(f"{sentence} Did you mean {' or '.join(repr(c) for c in close)}?")
    if len(choices) <= 12:
        return UserError(f"{sentence} Known: {', '.join(sorted(choices))}.")
    return UserError(f"{sentence[:-1]}; {see}." if see else sentence)
