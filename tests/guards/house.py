"""A package as the guards see it: its modules, their syntax trees, and the names that it imports when they are first used."""

import ast
import functools
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src" / "vitreg"


class House:
    """A package on disk.

    Attributes:
        name: of the package.
        paths: the file of each module.
        trees: its syntax tree.
        homes: the modules in which the public names live, by the dictionary `_HOMES` of the package.
    """

    def __init__(self, source):
        self.name = source.name
        self.paths = {module_of(path, source): path for path in sorted(source.rglob("*.py"))}
        self.trees = {module: parsed(path.read_text()) for module, path in self.paths.items()}
        start = self.trees.get(self.name, ast.Module([], [])).body
        found = [node.value for node in start if isinstance(node, ast.Assign) and node.targets[0].id == "_HOMES"]
        self.homes = ast.literal_eval(found[0]) if found else {}

    def package_of(self, module):
        """The package that the relative imports of a module start at."""
        return module if self.paths[module].stem == "__init__" else module.rpartition(".")[0]

    def home_of(self, dotted):
        """The module behind a dotted name: `vitreg.tokens` of `vitreg.tokens.Tokens`, and of `vitreg.Tokens`."""
        parts = dotted.partition(":")[0].split(".")
        if parts[0] != self.name:
            return dotted
        if len(parts) > 1 and parts[1] in self.homes:
            return self.homes[parts[1]]
        starts = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        return next((start for start in starts if start in self.trees), self.name)


@functools.cache
def parsed(text):
    return ast.parse(text)


def module_of(path, source):
    return ".".join((source.name, *path.relative_to(source).with_suffix("").parts)).removesuffix(".__init__")


@functools.cache
def vitreg():
    return House(SRC)
