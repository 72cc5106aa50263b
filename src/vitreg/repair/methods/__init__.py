"""A file a method: its `METHOD`, what it fits on images, and the edits or weights that follow."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vitreg import plugins
from vitreg.errors import UserError
from vitreg.repair.method import Method
from vitreg.repair.settings import CHOOSES, METHODS


def method_named(name: str) -> Method:
    """Return a method.

    Returns:
        the method; what a plug-in's functions raise is one sentence that names the plug-in.

    Raises:
        UserError: for a method that does not exist, or a plug-in that is none.
    """
    own = (*METHODS, *CHOOSES)
    plugins.refuse_taken("repair", own)
    if name in own:
        return importlib.import_module(f"vitreg.repair.methods.{name.replace('-', '_')}").METHOD
    found = plugins.find("repair", name, METHODS)
    if not isinstance(found, Method):
        raise UserError(f"the repair '{name}' is {found!r}, not a vitreg.repair.method.Method.")
    parts = {part: _blaming(name, getattr(found, part)) for part in ("fit", "edits", "leaving", "weights")}
    chosen = None if found.choose is None else _blaming(name, found.choose)
    return replace(found, **parts, choose=chosen)


def _blaming(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*given: Any) -> Any:
        with plugins.blamed("repair", name):
            return function(*given)

    return called
