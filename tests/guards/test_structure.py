"""The shape of the code base: imports go down, files stay small, public names and verbs are a decision."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src" / "vitreg"
FLOORS = {
    "errors": 0, "exits": 0, "specs": 0, "terminal": 0, "interrupts": 0, "documents": 0, "measured": 0, "precision": 0, "quantities": 0,
    "records": 0, "results": 0, "files": 0, "ledger": 0, "outputs": 0, "tokens": 0, "runtime": 0, "config": 0, "schedule": 0,
    "models": 1, "data": 1,
    "backbones": 2,
    "analysis": 3, "recipes": 3, "probes": 3, "discovery": 3,
    "train": 4,
    "presets": 5, "verbs": 5,
    "cli": 6, "__main__": 6, "testing": 6,
}  # fmt: skip
REPORT_MAY_IMPORT = {"errors", "quantities", "records", "results", "files", "report"}
FOREIGN = {"transformers", "open_clip", "webdataset", "skimage", "timm"}


def modules(source=SRC):
    return sorted(source.rglob("*.py"))


@functools.cache
def parsed(text):
    return ast.parse(text)


def name_of(path, source=SRC):
    return ".".join((source.name, *path.relative_to(source).with_suffix("").parts)).removesuffix(".__init__")


def part_of(path):
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports(path, source=SRC, *, top_level_only=False):
    """Names of the modules a file imports, wherever the import stands: in a function, for types only, or relative."""
    tree = parsed(path.read_text())
    package = [*path.relative_to(source.parent).parts[:-1]]
    for node in ast.iter_child_nodes(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:  # `from package import module` names the module, not the package
                inside = source.parent / Path(*module.split("."), alias.name)
                yield f"{module}.{alias.name}" if inside.is_dir() or inside.with_suffix(".py").exists() else module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


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


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_go_down(path):
    part = part_of(path)
    if part == "__init__":
        return
    for module in imports(path):
        if not module.startswith("vitreg."):
            continue
        target = module.split(".")[1]
        if part == "report":
            assert target in REPORT_MAY_IMPORT, f"{path.name} imports {module}: report reads records only"
        elif target == "report":
            assert FLOORS[part] >= 5, f"{path.name} imports {module}"
        else:
            assert FLOORS[target] <= FLOORS[part], (
                f"{path.name} (floor {FLOORS[part]}) imports {module} (floor {FLOORS[target]})"
            )


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SRC)))
def test_foreign_libraries_are_imported_where_they_are_used(path):
    loaded = {module.split(".")[0] for module in imports(path, top_level_only=True)}
    assert not loaded & FOREIGN


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SRC)))
def test_no_file_is_longer_than_400_lines_and_each_says_what_it_holds(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    assert ast.get_docstring(parsed(text)), "a module begins with two or three sentences on what it holds"


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
    ],
)
def test_a_planted_circle_is_found_wherever_its_import_stands(tmp_path, line):
    house = tmp_path / "house"
    house.mkdir()
    for name, text in {"__init__": "", "a": "from house.b import y", "b": "from house.c import z", "c": ""}.items():
        (house / f"{name}.py").write_text(text)
    assert circles(house) == []
    (house / "c.py").write_text(line)
    assert circles(house) == ["house.a <-> house.b <-> house.c"]


def test_public_names():
    import vitreg

    assert sorted(vitreg.__all__) == [
        "Backbone", "Capture", "Edit", "Place", "ScanOptions", "TokenLayout", "Tokens", "UserError", "__version__",
        "doctor", "load", "maps", "scan",
    ]  # fmt: skip
    for name in vitreg.__all__:
        assert getattr(vitreg, name) is not None


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
        "export",
        "demo",
        "version",
    ]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("vitreg", {"torch"}),
        ("vitreg.cli", {"torch"}),
        ("vitreg.report", {"torch"}),
        ("vitreg.backbones.load", {"timm", "transformers", "open_clip"}),
    ],
    ids=["vitreg", "cli", "report", "backbones"],
)
def test_importing_stays_cheap(module, forbidden):
    code = f"import sys, {module}; print([name for name in {forbidden} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
