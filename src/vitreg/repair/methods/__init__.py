"""A file a method: its `METHOD`, what it fits on images, and the edits or weights that follow."""

from __future__ import annotations

import importlib

from vitreg import plugins
from vitreg.errors import UserError
from vitreg.repair.method import Method
from vitreg.repair.settings import CHOOSES, METHODS


def method_named(name: str) -> Method:
    """Return a method.

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
    return found
