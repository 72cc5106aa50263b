"""What others add by name: detectors, sources of models, anatomies, recipes and tasks. No torch here.

A package declares plug-ins under an entry point group, such as `[project.entry-points."vitreg.detectors"]`; each is
imported when first used. In a script or a notebook, `@vitreg.plugin("detector", "iqr")` does the same.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar, get_args

from vitreg.errors import UserError, unknown

Kind = Literal["detector", "source", "anatomy", "recipe", "task", "repair"]
GROUPS: dict[str, str] = {kind: f"vitreg.{kind}s" for kind in get_args(Kind)} | {"anatomy": "vitreg.anatomies"}
T = TypeVar("T")

_added: dict[str, dict[str, Any]] = {kind: {} for kind in GROUPS}


def plugin(kind: Kind, name: str) -> Callable[[T], T]:
    """Add something under a name: a decorator for functions and classes. A name that was added before is replaced.

    Args:
        kind: such as "detector"; docs/plugins.md lists what each kind must do and which `vitreg.testing.check_*` tests
            it.
        name: letters, digits, `-`, `_` and `.`.
    Raises:
        UserError: for a kind that does not exist, or a name that the command line could not take.
    """
    if kind not in GROUPS:
        raise unknown("kind of plug-in", kind, GROUPS)
    if not name or not all(c.isalnum() or c in "-_." for c in name):
        raise UserError(f"'{name}' cannot name a {kind}; use letters, digits, -, _ and . alone.")

    def keep(made: T) -> T:
        _added[kind][name] = made
        return made

    return keep


def refuse_taken(kind: Kind, own: Iterable[str]) -> None:
    """Raise UserError if a script added something under a name that vitreg has itself."""
    taken = sorted(set(own) & set(_added[kind]))
    if taken:
        raise UserError(f"the {kind} '{taken[0]}' is vitreg's own; give yours another name.")


def names(kind: Kind, own: Iterable[str] = ()) -> list[str]:
    """Return the names that exist: ours first, then those added and declared, in order."""
    own = list(own)
    return [*own, *sorted({*_added[kind], *_declared(kind)} - set(own))]


def find(kind: Kind, name: str, own: Iterable[str] = ()) -> Any:
    """Return what others added under a name.

    Args:
        own: built-in names, also offered as the nearest match.
    Raises:
        UserError: for an unknown name, one that two packages declare, or a package that cannot be imported.
    """
    if name in _added[kind]:
        return _added[kind][name]
    declared = _declared(kind).get(name, ())
    if not declared:
        raise unknown(kind, name, names(kind, own))
    if len({point.value for point in declared}) > 1:
        places = " and ".join(sorted(_origin(point) for point in declared))
        raise UserError(f"the {kind} '{name}' is declared by {places}; uninstall one of them.")
    return _loaded(kind, declared[0])


def all_of(kind: Kind) -> dict[str, Any]:
    """Return everything others added, by name. Raises UserError as `find` does."""
    return {name: find(kind, name) for name in names(kind)}


@contextmanager
def blamed(kind: Kind, name: str, made: Any = None, *, inside: bool = False) -> Generator[None, None, None]:
    """Turn what a plug-in raises into one sentence: its name, its package, the error. The traceback stays as the cause.

    Args:
        made: the plug-in, if it was added under another name or under none.
        inside: blame the plug-in only if its own code stands in the traceback, for a stretch that runs vitreg's too.
    Raises:
        UserError: for any exception but a UserError.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever the code of somebody else raises
        home = str(getattr(_added[kind].get(name, made), "__module__", ""))
        if inside and not _passes_through(error, home):
            raise
        points = _declared(kind).get(name, ())
        origin = f"the module {home}" if not points else _origin(points[0])
        raise UserError(f"the {kind} '{name}' of {origin} failed: {_said(error)}.") from error


def _passes_through(error: Exception, home: str) -> bool:
    """Whether code of a module, or of its package, stands in a traceback, also in that of a worker process."""
    package = home.partition(".")[0]
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(str(frame.f_globals.get("__name__", "")).partition(".")[0] == package for frame in frames):
        return True
    file = getattr(sys.modules.get(home), "__file__", None)
    return file is not None and file in str(error)


def _said(error: Exception) -> str:
    """Return an error on one line: its class and first line; of a worker's, whose text is a traceback, the last line."""
    lines = str(error).strip().splitlines()
    if lines and lines[0].startswith("Caught "):
        return lines[-1].rstrip(".")
    return f"{type(error).__name__}: {lines[0]}".rstrip(".") if lines else type(error).__name__


@cache
def _declared(kind: Kind) -> dict[str, tuple[EntryPoint, ...]]:
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=GROUPS[kind]):
        found[point.name] = (*found.get(point.name, ()), point)
    return found


def _loaded(kind: Kind, point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # whatever the module of somebody else raises
        raise UserError(f"the {kind} '{point.name}' of {_origin(point)} cannot be imported: {_said(error)}.") from error


def _origin(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist else point.value
