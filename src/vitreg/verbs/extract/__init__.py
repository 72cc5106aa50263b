"""`extract`: stores features of images on disk. `extract_features` is its name in 0.1."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Import the verb when it is first used: its options need no torch."""
    if name != "extract_features":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("vitreg.verbs.extract.verb").extract_features
