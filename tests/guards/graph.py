"""Which module imports which, wherever and however: in a function, for types only, through a lazy name, by a string."""

import ast
import fnmatch
import re

from tests.guards.bindings import Bindings
from tests.guards.doors import doors, is_plain


def imports(house, module):
    """The names of the modules that a module imports."""
    bindings = Bindings(house, module)
    names = {*statements(bindings), *lazy_names(bindings), *words(bindings)}
    for _, patterns in own_doors(bindings):
        names |= {name for pattern in patterns for name in matched(house, pattern)}
    return names - {module}


def statements(bindings, *, top_level_only=False):
    """The modules behind `import` and `from`; `from package import module` names the module, not the package."""
    house = bindings.house
    for node in ast.iter_child_nodes(bindings.tree) if top_level_only else bindings.nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = bindings.origin(node)
            for alias in node.names:
                if origin == house.name and (alias.name == "*" or not is_plain(alias.name)):
                    yield from house.homes.values()
                yield house.home_of(f"{origin}.{alias.name}") if origin.split(".")[0] == house.name else origin


def lazy_names(bindings):
    """The modules behind `vitreg.scan` and `getattr(vitreg, "scan")`; all that are lazy where the package is handed on."""
    house, used = bindings.house, set()
    for node in bindings.nodes:
        match node:
            case ast.Attribute(value=value, attr=name) if is_plain(name):
                used.add(id(value))
            case ast.Call(args=[thing, ast.Constant()]) if bindings.dotted(node):
                used.add(id(thing))
            case ast.Assign(targets=[ast.Name()], value=value):  # an alias, which `dotted` follows
                used.add(id(value))
        for dotted in (
            bindings.dotted(node) if isinstance(node, ast.Attribute | ast.Name | ast.Call | ast.Subscript) else ()
        ):
            if dotted.startswith(f"{house.name}."):
                yield house.home_of(dotted)
            elif dotted == house.name and id(node) not in used:
                yield from house.homes.values()


def words(bindings):
    """The modules that a string names in full, as in a table, wherever it is used."""
    house, skipped = bindings.house, lazy_list(bindings)
    for node in bindings.nodes:
        if isinstance(node, ast.Expr):  # a docstring
            skipped.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            named = re.fullmatch(r"([\w.]+)(:\w+)?", node.value)
            if named and named[1] in house.trees:
                yield house.home_of(node.value)


def lazy_list(bindings):
    """The nodes of the lazy list of the package, and of the function that serves it."""
    served = [
        node for node in bindings.tree.body
        if (isinstance(node, ast.FunctionDef) and node.name == "__getattr__")
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES")
    ]  # fmt: skip
    return {id(each) for node in served for each in ast.walk(node)} if bindings.module == bindings.house.name else set()


def own_doors(bindings):
    """The doors of a module but that of the lazy list."""
    lazy = lazy_list(bindings)
    return [(node, patterns) for node, patterns in doors(bindings) if id(node) not in lazy]


def matched(house, pattern):
    """The modules that a pattern may be; a name of another package is itself."""
    if pattern.startswith("*"):
        return []
    return fnmatch.filter(house.trees, pattern) if "*" in pattern else [house.home_of(pattern)]


def unread(house, module):
    """Yield the functions of a module that import by a name which cannot be read."""
    bindings = Bindings(house, module)
    for node, patterns in own_doors(bindings):
        if any(pattern.startswith("*") for pattern in patterns):
            yield function_of(node, bindings.tree)


def function_of(node, tree):
    """The name of the function that a node stands in, with its class; `` at the top of a module."""
    around = [
        each for each in ast.walk(tree)
        if isinstance(each, ast.FunctionDef | ast.ClassDef) and each.lineno <= node.lineno <= each.end_lineno
    ]  # fmt: skip
    return ".".join(each.name for each in sorted(around, key=lambda each: each.lineno))


def graph_of(house):
    """The modules of a house that each of its modules imports."""
    return {module: imports(house, module) & house.trees.keys() for module in house.trees}


def circles(graph):
    """The groups of modules that import each other, directly or over others."""
    return [" <-> ".join(sorted(group)) for group in strongly_connected(graph) if len(group) > 1]


def strongly_connected(graph):
    """Tarjan's algorithm: the groups within which every node reaches every other."""
    number, low, stack, groups = {}, {}, [], []

    def visit(node):
        number[node] = low[node] = len(number)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in number:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == number[node]:
            groups.append(set(stack[stack.index(node) :]))
            del stack[stack.index(node) :]

    for node in graph:
        if node not in number:
            visit(node)
    return groups
