"""A package as the guards see it: its modules, their syntax trees, and the names that it imports when they are first used."""

import ast
import functools
from pathlib import Path

CODE = ("exec", "eval", "compile")
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
        """The module behind a dotted name: `vitreg.tokens` of `vitreg.tokens.Tokens`, `vitreg.Tokens`, `vitreg:Tokens`."""
        parts = dotted.replace(":", ".").split(".")
        if parts[0] != self.name:
            return dotted
        if len(parts) > 1 and parts[1] in self.homes:
            return self.homes[parts[1]]
        starts = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        return next((start for start in starts if start in self.trees), self.name)


@functools.cache
def parsed(text):
    """The syntax tree of a file, at its end the code that it runs from strings: `exec("import x")` imports x."""
    tree = ast.parse(text)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)] if any(map(text.count, CODE)) else []
    tree.body += [line for call in calls for line in code_of(call) or ()]
    return tree


def code_of(call):
    """The statements that `exec`, `eval` or `compile` of a constant runs, as if they stood at the call; None of another call."""
    match call:
        case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name), args=[ast.Constant(str() as code), *_]) if (
            name in CODE
        ):
            try:
                lines = ast.parse(code.strip()).body
            except SyntaxError:  # a pattern of `re.compile`
                return None
            for node in (each for line in lines for each in ast.walk(line) if hasattr(each, "lineno")):
                node.lineno, node.end_lineno = call.lineno, call.end_lineno
            return lines
    return None


def module_of(path, source):
    return ".".join((source.name, *path.relative_to(source).with_suffix("").parts)).removesuffix(".__init__")


@functools.cache
def vitreg():
    return House(SRC)
