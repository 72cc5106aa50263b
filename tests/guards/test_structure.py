"""The shape of the code base: imports go down, files stay small, public names and verbs are a decision."""

import ast
import functools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src" / "vitreg"
# Side floor `report` stands beside them: it reads records only.
FLOORS = {
    "errors": 0, "plugins": 0, "specs": 0, "documents": 0, "quantities": 0, "notebook": 0, "exits": 0,
    "records": 0, "results": 0, "tokens": 0, "config": 0,
    "schedule": 0,
    "writing": 0, "console": 0, "machine": 0,
    "models": 1, "data": 1,
    "backbones": 2,
    "analysis": 3, "recipes": 3, "probes": 3, "discovery": 3,
    "training": 4, "presets": 4,
    "passes": 5, "features": 5,
    "repair": 6,
    "verbs": 7,
    "cli": 8, "__main__": 8, "testing": 8,
}  # fmt: skip
# What a verb may import of another verb: its public function, and why.
VERBS_MAY_IMPORT = {
    ("train", "vitreg.verbs.scan.look"): "the norms of a run are watched by scans of probe images",
    ("train", "vitreg.verbs.curves"): "the page in the folder of a run is drawn by `curves`",
    ("draw", "vitreg.verbs.compare"): "a comparison is drawn of the scans that it names",
    ("evaluate", "vitreg.verbs.eval.verb"): "its place in 0.1.0",
    ("demo", "vitreg.verbs.scan.verb"): "the demo is two scans",
    ("fix", "vitreg.verbs.maps.verb"): "maps before and after are drawn by `maps`",
}
REPORT_MAY_IMPORT = {"errors", "quantities", "records", "results", "specs", "writing", "report"}
FOREIGN = {"transformers", "open_clip", "webdataset", "skimage", "timm"}


def modules(source=SRC):
    return sorted(source.rglob("*.py"))


@functools.cache
def parsed(text):
    return ast.parse(text)


def name_of(path, source=SRC):
    return ".".join((source.name, *path.relative_to(source).with_suffix("").parts)).removesuffix(".__init__")


def imports(path, source=SRC, *, top_level_only=False):
    """Names of the modules a file imports, wherever the import stands: in a function, for types only, or relative.

    Also seen: a name of the package's lazy list, `vitreg.scan`, and an import by a string, `import_module("vitreg.verbs.x")`.
    """
    tree = parsed(path.read_text())
    package = [*path.relative_to(source.parent).parts[:-1]]
    lazy = homes(source)
    for node in ast.iter_child_nodes(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:  # `from package import module` names the module, not the package
                inside = source.parent / Path(*module.split("."), alias.name)
                if module == source.name and alias.name in lazy:
                    yield lazy[alias.name]
                else:
                    yield f"{module}.{alias.name}" if inside.is_dir() or inside.with_suffix(".py").exists() else module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
    if not top_level_only:
        yield from lazy_names(tree, lazy, source)
        yield from strings_imported(tree)


@functools.cache
def homes(source=SRC):
    """The modules in which the public names of a package live, by the dictionary `_HOMES` of its `__init__`."""
    start = source / "__init__.py"
    tree = parsed(start.read_text()) if start.exists() else ast.Module([], [])
    found = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "_HOMES"]
    return ast.literal_eval(found[0]) if found else {}


def lazy_names(tree, lazy, source=SRC):
    """Modules behind `vitreg.scan` where the package is imported, under whatever name."""
    imported = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names = {alias.asname or source.name for alias in imported if alias.name.split(".")[0] == source.name}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            yield from [lazy[node.attr]] if node.attr in lazy else []


def strings_imported(tree):
    """Modules imported by a string; of an f-string its beginning, which names the package."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        word = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
        if called in ("import_module", "__import__") and isinstance(word, ast.Constant) and isinstance(word.value, str):
            yield word.value.rstrip(".")


def circles(source=SRC):
    """Groups of modules that import each other, directly or over others."""
    names = {name_of(path, source) for path in modules(source)}
    graph = {
        name_of(path, source): {m for m in imports(path, source) if m in names and m != name_of(path, source)}
        for path in modules(source)
    }
    return [" <-> ".join(sorted(group)) for group in strongly_connected(graph) if len(group) > 1]


def strongly_connected(graph):
    """Tarjan's algorithm: the groups within which every node reaches every other."""
    number, low, stack, groups = {}, {}, [], []

    def visit(node):
        number[node] = low[node] = len(number)
        stack.append(node)
        for target in graph[node]:
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


def climbs(path, source=SRC):
    """What a file imports from a floor above its own, or from inside another verb."""
    part, *below = path.relative_to(source).with_suffix("").parts
    for module in imports(path, source):
        top, target, *inside = [*module.split("."), ""]
        if top != source.name or not target or part == "__init__":
            continue
        if part == "report":
            allowed = target in REPORT_MAY_IMPORT
        elif target == "report":
            allowed = FLOORS[part] >= FLOORS["passes"]
        elif part == target == "verbs":
            allowed = below[0] == inside[0] or (below[0], module) in VERBS_MAY_IMPORT
        else:
            allowed = FLOORS[target] <= FLOORS[part]
        if not allowed:
            yield f"{part}/{'/'.join(below)} imports {module}"


def test_imports_go_down():
    assert [climb for path in modules() for climb in climbs(path)] == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("analysis/new.py", "from vitreg.passes.bench import Bench"),
        ("data/new.py", "def later():\n    import vitreg.verbs.scan.verb"),
        ("verbs/maps/new.py", "from vitreg.verbs.scan import readout"),
        ("verbs/maps/new.py", "from vitreg.verbs.scan.verb import scan"),
        ("verbs/new.py", "from vitreg.verbs.scan.measure import Measure"),
        ("report/new.py", "from vitreg.backbones import Backbone"),
        ("training/new.py", "from vitreg.report import draw_scan"),
        ("training/new.py", "import vitreg\n\ndef later():\n    return vitreg.scan(None, None)"),
        ("training/new.py", "import vitreg as v\n\nlater = v.scan"),
        ("training/new.py", "import vitreg.errors\n\nlater = vitreg.scan"),
        ("training/new.py", "from vitreg import scan"),
        ("verbs/maps/new.py", "import vitreg\n\nvitreg.scan(None, None)"),
        ("training/new.py", "import importlib\n\nimportlib.import_module('vitreg.verbs.scan.verb')"),
        ("training/new.py", "from importlib import import_module\n\nimport_module(f'vitreg.verbs.{1}')"),
        ("training/new.py", "__import__('vitreg.verbs.scan.verb')"),
    ],
)
def test_a_planted_climb_is_found(tmp_path, place, line):
    planted = tmp_path / "vitreg" / place
    planted.parent.mkdir(parents=True)
    planted.write_text(line)
    (tmp_path / "vitreg" / "__init__.py").write_text((SRC / "__init__.py").read_text())
    assert list(climbs(planted, tmp_path / "vitreg"))


def test_what_verbs_may_import_of_each_other_is_imported():
    imported = {
        (path.relative_to(SRC / "verbs").with_suffix("").parts[0], module)
        for path in modules(SRC / "verbs")
        for module in imports(path)
    }
    assert imported >= set(VERBS_MAY_IMPORT)


def test_foreign_libraries_are_imported_where_they_are_used():
    loaded = {
        name_of(path): {module.split(".")[0] for module in imports(path, top_level_only=True)} for path in modules()
    }
    assert {name: found & FOREIGN for name, found in loaded.items() if found & FOREIGN} == {}


def test_no_file_is_longer_than_400_lines_and_each_says_what_it_holds():
    """A module begins with two or three sentences on what it holds."""
    texts = {name_of(path): path.read_text() for path in modules()}
    assert [name for name, text in texts.items() if text.count("\n") > 400] == []
    assert [name for name, text in texts.items() if not ast.get_docstring(parsed(text))] == []


def test_no_function_is_longer_than_60_lines():
    functions = [
        (f"{name_of(path)}.{each.name}", each.end_lineno - each.lineno)
        for path in modules()
        for each in ast.walk(parsed(path.read_text()))
        if isinstance(each, ast.FunctionDef)
    ]
    assert [name for name, length in functions if length >= 60] == []


def test_verbs_are_less_than_a_fifth():
    lines = {path: path.read_text().count("\n") for path in modules()}
    assert sum(count for path, count in lines.items() if SRC / "verbs" in path.parents) < sum(lines.values()) / 5


def test_folders_are_rooms():
    """No folder has more than 15 files, and no four files of a folder share a prefix, which would be a folder."""
    for folder in {path.parent for path in modules()}:
        names = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
        assert len(names) <= 15, folder
        prefixes = Counter(
            name.split("_")[0] for name in names if "_" in name or name in {n.split("_")[0] for n in names}
        )
        assert max(prefixes.values(), default=0) < 4, (folder, prefixes)


def test_no_circles():
    assert circles() == []


@pytest.mark.parametrize(
    "line",
    [
        "from house.a import x",
        "def later():\n    from house.a import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.a import x",
        "from .a import x",
        "from . import a",
        "import house.a",
        "import house\n\ndef later():\n    return house.x",
        "from house import x",
        "import importlib\n\nimportlib.import_module('house.a')",
    ],
)
def test_a_planted_circle_is_found_wherever_its_import_stands(tmp_path, line):
    house = tmp_path / "house"
    house.mkdir()
    lazy = "_HOMES = {'x': 'house.a'}"
    for name, text in {"__init__": lazy, "a": "from house.b import y", "b": "from house.c import z", "c": ""}.items():
        (house / f"{name}.py").write_text(text)
    assert circles(house) == []
    (house / "c.py").write_text(line)
    assert circles(house) == ["house.a <-> house.b <-> house.c"]


def test_public_names():
    import vitreg

    assert sorted(vitreg.__all__) == [
        "Anatomy", "Backbone", "Capture", "DiscoverOptions", "Edit", "EvalOptions", "ExtractOptions", "MapsOptions", "Place",
        "Repair", "ScanOptions", "TokenLayout", "Tokens", "Trace", "UserError", "__version__",
        "compare", "curves", "demo", "discover", "doctor", "draw", "evaluate", "evaluate_all", "export", "extract", "fit_repair",
        "fix", "load", "load_repair", "maps", "plugin", "register", "repaired", "repairs", "scan", "train",
    ]  # fmt: skip
    for name in vitreg.__all__:
        assert getattr(vitreg, name) is not None
        # A package of that name would stand in the place of the function as soon as anything imports it.
        assert not (SRC / name).is_dir()
        assert not (SRC / f"{name}.py").exists()


def test_every_verb_is_a_public_function():
    import vitreg
    from vitreg.cli import VERBS

    assert {*VERBS} - {"version", "eval"} | {"evaluate"} <= set(vitreg.__all__)


def test_verbs():
    from vitreg.cli import VERBS

    assert list(VERBS) == [
        "scan",
        "compare",
        "maps",
        "doctor",
        "eval",
        "discover",
        "extract",
        "train",
        "curves",
        "draw",
        "export",
        "fix",
        "repairs",
        "demo",
        "version",
    ]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("vitreg", {"torch"}),
        ("vitreg.cli", {"torch"}),
        ("vitreg.report", {"torch"}),
        ("vitreg.backbones.loading.load, vitreg.verbs.scan.verb", {"timm", "transformers", "open_clip", "torchvision"}),
    ],
    ids=["vitreg", "cli", "report", "backbones"],
)
def test_importing_stays_cheap(module, forbidden):
    code = f"import sys, {module}; print([name for name in {forbidden} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
