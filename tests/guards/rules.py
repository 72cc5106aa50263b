"""Which imports break the rules of the floors."""

from tests.guards.floors import BACKWARDS, FLOORS, REPORT_MAY_IMPORT, VERBS_MAY_IMPORT


def lawful(graph):
    """A graph without the imports that are excepted."""
    return {module: {each for each in found if (module, each) not in BACKWARDS} for module, found in graph.items()}


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
