"""Imports by a name that is computed: every way into a module but the statement, and the names that may go through it.

A name is read as a pattern: `vitreg.cli.verbs.*` of `f"vitreg.cli.verbs.{verb}"` is every module of that package. One
that begins with `*` cannot be read.

These are the ways that somebody takes who needs a module, not those of somebody who hides one. Left out are what only
the import system calls (`importlib._bootstrap._gcd_import`, loaders and finders, `__spec__.loader`), libraries that import on
their own (`pydoc.locate`, `pickle`, `unittest.mock.patch`), what a module holds for others (`vitreg.cli.vitreg`), and
attributes that a value brings along (`type(x).__module__`).
"""

import ast

from tests.guards.house import code_of
from tests.guards.words import Reader

DOORS = {
    "importlib.import_module": 0,
    "importlib.__import__": 0,
    "importlib.reload": 0,
    "importlib.metadata.EntryPoint": 1,
    "importlib.util.spec_from_file_location": 0,
    "builtins.__import__": 0,
    "builtins.exec": 0,
    "builtins.eval": 0,
    "builtins.compile": 0,
    "pkgutil.resolve_name": 0,
    "runpy.run_module": 0,
    "runpy.run_path": 0,
    "sys.modules.get": 0,
    "sys.modules": 0,
}
"""What opens a module by its name, and which argument is the name."""

RUN = {"builtins.exec", "builtins.eval", "builtins.compile"}
"""Doors that are given code: that of a constant stands in the tree of its module, whatever else cannot be read."""

HANDED_ON = {*DOORS, "importlib", "builtins", "runpy"} - {"importlib.metadata.EntryPoint"}
"""What could be opened anywhere once it is handed on, with the modules that doors lie in. An EntryPoint is also a type."""


def doors(bindings):
    """Yield each door of a module: its node, and the patterns of the names that go through it."""
    used = set()
    for node in bindings.nodes:  # from outside in
        named = isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)
        if named and id(node) not in used and bindings.dotted(node) & HANDED_ON:
            yield node, {"*"}  # to be opened elsewhere: `map(import_module, names)`
        match node:
            case ast.Call(func=opened) | ast.Subscript(value=opened):
                used.add(id(opened))
                for door in sorted(bindings.dotted(opened) & {*DOORS}):
                    yield node, run(node, bindings) if door in RUN else asked(node, door, Reader(bindings))
            case ast.Attribute(value=value, attr=name) if is_plain(name):
                used.add(id(value))
            case ast.Assign(targets=[ast.Name()], value=value):  # an alias, which `dotted` follows
                used.add(id(value))
            case ast.Compare(comparators=others):  # `"torch" in sys.modules` opens nothing
                used |= {id(each) for each in others}


def is_plain(name):
    """Whether an attribute is one thing of what it is taken of, as `__dict__` is not."""
    return not name.startswith("__") or name in ("__import__", "__version__")


def run(node, bindings):
    """No pattern for code that can be read, or that another door has made."""
    match node:
        case ast.Call(args=[ast.Call(func=made), *_]) if "builtins.compile" in bindings.dotted(made):
            return set()
    return {"*"} if code_of(node) is None else set()


def asked(node, door, reader):
    """The patterns of the names that are asked for."""
    if isinstance(node, ast.Subscript):
        return reader.words(node.slice)
    given = dict(enumerate(node.args)) | {each.arg: each.value for each in node.keywords}
    if door.endswith("__import__") and len(given) > 1:
        return {"*"}  # its list of names and its level say the rest
    name = given.get(DOORS[door], given.get("name", given.get("value")))
    package = given.get(1, given.get("package"))
    starts = {"*"} if package is None else reader.words(package)
    words = {"*"} if name is None else reader.words(name)
    return {full for word in words for full in (absolute(word, starts) if word.startswith(".") else [word])}


def absolute(word, packages):
    """A relative name, in each of the packages that it may start at."""
    up = len(word) - len(word.lstrip(".")) - 1
    for package in packages:
        parts = package.split(".")
        yield ".".join([*parts[: len(parts) - up], word.lstrip(".")])
