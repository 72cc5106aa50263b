"""What the names of a file stand for: what it imports, under whatever name, and what it assigns."""

import ast
import functools

BUILTINS = {"__import__", "getattr", "exec", "eval", "compile"}
OPENS = {"importlib.import_module", "builtins.__import__", "sys.modules.get", "pkgutil.resolve_name"}


class Bindings:
    """The names of a module, whatever their scope: a name that is bound twice stands for both.

    Attributes:
        bound: the dotted names that a name stands for, such as `importlib.import_module` for `im`.
        assigned: the expressions assigned to a name.
        looped: the expressions that a name runs over, in a loop or a comprehension.
        opaque: names that get their values elsewhere, such as parameters.
        stars: modules all of whose names are imported.
        nodes: of the whole tree.
    """

    def __init__(self, house, module):
        self.house, self.module, self.tree = house, module, house.trees[module]
        self.bound, self.assigned, self.looped, self.opaque, self.stars = {}, {}, {}, set(), set()
        self.nodes = nodes_of(self.tree)
        for node in self.nodes:
            self._take(node)
        for _ in range(3):  # an alias of an alias of an alias
            for name, values in self.assigned.items():
                for value in values:
                    self.bound[name] = self.bound.get(name, set()) | self.dotted(value)

    def _take(self, node):
        match node:
            case ast.ImportFrom(names=[ast.alias(name="*")]):
                self.stars.add(self.origin(node))
            case ast.ImportFrom(names=names):
                for alias in names:
                    self._bind(alias.asname or alias.name, f"{self.origin(node)}.{alias.name}")
            case ast.Import(names=names):
                for alias in names:
                    first = alias.name.split(".")[0]
                    self._bind(alias.asname or first, alias.name if alias.asname else first)
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._assign(target, value, self.assigned)
            case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
                self._assign(target, value, self.assigned)
            case ast.For(target=target, iter=table) | ast.AsyncFor(target=target, iter=table):
                self._assign(target, table, self.looped)
            case ast.comprehension(target=target, iter=table):
                self._assign(target, table, self.looped)
            case ast.arg(arg=name):
                self.opaque.add(name)
            case ast.AugAssign(target=target) | ast.withitem(optional_vars=ast.expr() as target):
                self.opaque |= names_in(target)

    def _assign(self, target, value, into):
        if isinstance(target, ast.Name):
            into.setdefault(target.id, []).append(value)
        elif isinstance(target, ast.Tuple) and into is self.looped:  # as in `for name, module in TABLE.items()`
            for each in target.elts:
                self._assign(each, value, into)
        else:
            self.opaque |= names_in(target)

    def _bind(self, name, dotted):
        self.bound.setdefault(name, set()).add(dotted)

    def origin(self, node):
        """The module that a `from` imports from."""
        package = self.house.package_of(self.module).split(".")
        above = package[: len(package) - node.level + 1] if node.level else []
        return ".".join([*above, *([node.module] if node.module else [])])

    def dotted(self, node):
        """The dotted names that an expression may stand for: `im`, `vitreg.data`, `getattr(vitreg, "data")`."""
        match node:
            case ast.Name(id=name):
                if name in self.bound or name in self.opaque:
                    return self.bound.get(name, set())
                builtin = {f"builtins.{name}"} if name in BUILTINS else set()
                return builtin | {f"{star}.{name}" for star in self.stars}
            case ast.Attribute(value=value, attr=attribute):
                return {f"{each}.{attribute}" for each in self.dotted(value)}
            case ast.Call(func=called, args=[thing, ast.Constant(value=str() as word)]) if self.gets(called):
                return {f"{each}.{word}" for each in self.dotted(thing)}
            case ast.Call(func=called, args=[ast.Constant(value=str() as word)]) if self.dotted(called) & OPENS:
                return {word.replace(":", ".")}
            case ast.Subscript(value=table, slice=ast.Constant(value=str() as word)) if "sys.modules" in self.dotted(
                table
            ):
                return {word}
        return set()

    def gets(self, called):
        return "builtins.getattr" in self.dotted(called)


@functools.cache
def nodes_of(tree):
    """The nodes of a tree, listed once: the guards go over them often, and walking takes longer than what they look for."""
    return list(ast.walk(tree))


def names_in(node):
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
