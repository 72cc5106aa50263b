"""What the names of a file stand for: what it imports, under whatever name, and what it assigns."""

import ast

BUILTINS = {"__import__", "getattr", "exec", "eval"}


class Bindings:
    """The names of a module, whatever their scope: a name that is bound twice stands for both.

    Attributes:
        bound: the dotted names that a name stands for, such as `importlib.import_module` for `im`.
        assigned: the expressions assigned to a name.
        looped: the expressions that a name runs over, in a loop or a comprehension.
        opaque: names that get their values elsewhere, such as parameters.
    """

    def __init__(self, house, module):
        self.house, self.module, self.tree = house, module, house.trees[module]
        self.bound, self.assigned, self.looped, self.opaque = {}, {}, {}, set()
        for node in ast.walk(self.tree):
            self._take(node)
        for _ in range(3):  # an alias of an alias of an alias
            for name, values in self.assigned.items():
                for value in values:
                    self.bound[name] = self.bound.get(name, set()) | self.dotted(value)

    def _take(self, node):
        match node:
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
                builtin = {f"builtins.{name}"} if name in BUILTINS and name not in self.bound else set()
                return self.bound.get(name, set()) | builtin
            case ast.Attribute(value=value, attr=attribute):
                return {f"{each}.{attribute}" for each in self.dotted(value)}
            case ast.Call(func=called, args=[thing, ast.Constant(value=str() as word)]) if self.gets(called):
                return {f"{each}.{word}" for each in self.dotted(thing)}
            case ast.Call(func=called, args=[ast.Constant(value=str() as word)]) if self.imports(called):
                return {word}
        return set()

    def gets(self, called):
        return "builtins.getattr" in self.dotted(called)

    def imports(self, called):
        return bool(self.dotted(called) & {"importlib.import_module", "builtins.__import__"})


def names_in(node):
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
