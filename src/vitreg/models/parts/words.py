"""How somebody's part of a block is named in settings. No torch here."""

from __future__ import annotations

import re
from typing import Any

_SPELLING = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_own(word: Any) -> bool:
    """Say whether a setting names somebody's function, `module:function`."""
    return isinstance(word, str) and _SPELLING.fullmatch(word) is not None
