"""Which imports break the rules of the floors."""

import ast

from tests.guards.floors import BACKWARDS, FLOORS, REPORT_MAY_IMPORT, SETTINGS_OF_RECIPES, VERBS_MAY_IMPORT


def lawful(house, graph):
    """The graph of a house without the imports that are excepted."""
    excepted = {*BACKWARDS, *trained_by(house)}
    return {module: {each for each in found if (module, each) not in excepted} for module, found in graph.items()}


def trained_by(house):
    """Yield each module of settings with a module that trains by them: `built_by` of one of its recipes."""
    for module in house.trees:
        for recipe in house.trees[module].body if module.startswith(f"{SETTINGS_OF_RECIPES}.") else ():
            for node in recipe.body if isinstance(recipe, ast.ClassDef) else ():
                match node:
                    case ast.AnnAssign(target=ast.Name("built_by"), value=ast.Constant(value=str() as place)):
                        trains = place.partition(":")[0]
                    case ast.Assign(targets=[ast.Name("built_by")], value=ast.Constant(value=str() as place)):
                        trains = place.partition(":")[0]
                    case _:
                        continue
                if trains.startswith(f"{SETTINGS_OF_RECIPES.rpartition('.')[0]}."):
                    yield module, trains


def climbs(graph):
    """Imports from a floor above, and from inside another verb; `vitreg` itself imports nothing but names asked of it."""
    return [
        f"{module} imports {imported}"
        for module, found in graph.items()
        for imported in sorted(found)
        if module.count(".") and imported.count(".") and not may_import(module, imported)
    ]


def may_import(module, imported):
    part, target = module.split(".")[1], imported.split(".")[1]
    if part == "report":
        return target in REPORT_MAY_IMPORT
    if target == "report":
        return FLOORS[part] >= FLOORS["passes"]
    if part == target == "verbs":
        return verb_of(module) == verb_of(imported) or (verb_of(module), imported) in VERBS_MAY_IMPORT
    return FLOORS[target] <= FLOORS[part]


def verb_of(module):
    return [*module.split("."), "", ""][2]
