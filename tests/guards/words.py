"""The strings that an expression may be, read from the constants and tables of the whole package."""

import ast
import itertools

from tests.guards.bindings import Bindings

COPIES = {"dict", "tuple", "list", "set", "sorted", "frozenset"}


class Reader:
    """Reads the expressions of a module. What cannot be read is `*`, also as a part: `vitreg.verbs.*`.

    Args:
        open_names: names that are being read, which may stand in their own values.
    """

    def __init__(self, bindings, open_names=()):
        self.bindings, self.open_names = bindings, {*open_names}

    def words(self, node):
        """The strings that an expression may be."""
        match node:
            case ast.Constant(value=str() as word):
                return {word}
            case ast.JoinedStr(values=parts):
                return self._joined(part.value if isinstance(part, ast.FormattedValue) else part for part in parts)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._joined((left, right))
            case ast.IfExp(body=first, orelse=other):
                return self.words(first) | self.words(other)
            case ast.Name(id="__name__"):
                return {self.bindings.module}
            case ast.Name(id="__package__"):
                return {self.bindings.house.package_of(self.bindings.module)}
            case ast.Attribute(value=module, attr="__name__"):
                return self.bindings.dotted(module) or {"*"}
            case ast.Subscript(value=table):
                return self.entries(table)
            case ast.Call(func=ast.Attribute(value=table, attr="get"), args=[_, *other]):
                return self.entries(table).union(*map(self.words, other))
            case ast.Name() | ast.Attribute():
                return self._looked_up(node, Reader.words)
        return {"*"}

    def entries(self, node):
        """The strings of a table, keys and values."""
        match node:
            case ast.Dict(keys=keys, values=values):
                return set().union(*(self._nested(each) for each in (*keys, *values)))
            case ast.Tuple(elts=values) | ast.List(elts=values) | ast.Set(elts=values):
                return set().union(*map(self._nested, values))
            case ast.BinOp(left=left, op=ast.BitOr() | ast.Add(), right=right):
                return self.entries(left) | self.entries(right)
            case ast.Call(func=ast.Attribute(value=table, attr="items" | "values" | "keys"), args=[]):
                return self.entries(table)
            case ast.Call(func=ast.Name(id=name), args=[table], keywords=[]) if name in COPIES:
                return self.entries(table)
            case ast.Name() | ast.Attribute():
                return self._looked_up(node, Reader.entries)
        return {"*"}

    def _nested(self, node):
        return self.entries(node) if isinstance(node, ast.Tuple | ast.List) else self.words(node)

    def _joined(self, parts):
        combined = itertools.product(*(sorted(self.words(part)) for part in parts))
        return {"".join(words) for words in itertools.islice(combined, 10_000)}

    def _looked_up(self, node, read):
        """Read what a name is assigned, here or in the module that it is imported from."""
        found, here = set(), self.bindings
        if isinstance(node, ast.Name):
            if node.id in self.open_names:
                return found
            inside = Reader(here, {*self.open_names, node.id})
            found = {"*"} if node.id in here.opaque else set()
            found = found.union(*(read(inside, value) for value in here.assigned.get(node.id, ())))
            found = found.union(*(inside.entries(table) for table in here.looped.get(node.id, ())))
        for dotted in here.dotted(node) if not found else ():
            module, _, name = dotted.rpartition(".")
            if module in here.house.trees and module != here.module:
                found |= read(Reader(Bindings(here.house, module)), ast.Name(name, ast.Load()))
        return found or {"*"}
