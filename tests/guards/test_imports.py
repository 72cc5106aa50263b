"""Imports go down the floors and in no circle, wherever they stand and however the name is come by."""

import functools

import pytest
from tests.guards.bindings import Bindings
from tests.guards.floors import BACKWARDS, FLOORS, FOREIGN, REPORT_MAY_IMPORT, UNREAD, VERBS_MAY_IMPORT
from tests.guards.graph import circles, graph_of, statements, strongly_connected, unread
from tests.guards.house import SRC, House, vitreg
from tests.guards.rules import climbs, lawful, may_import, trained_by, verb_of


@functools.cache
def graph():
    return graph_of(vitreg())


def test_imports_go_down():
    assert climbs(lawful(vitreg(), graph())) == []


def test_no_circles():
    assert circles(lawful(vitreg(), graph())) == []


def test_names_of_modules_can_be_read():
    assert {(module, function) for module in graph() for function in unread(vitreg(), module)} == {*UNREAD}


def test_what_is_excepted_is_imported_and_would_break_a_rule():
    together = {module: group for group in strongly_connected(graph()) for module in group}
    for module, imported in (*BACKWARDS, *trained_by(vitreg())):
        assert imported in graph()[module]
        assert imported in together[module] or not may_import(module, imported)


SETTINGS = "recipes/settings/new.py"


@pytest.mark.parametrize(
    ("place", "lines", "lawfully"),
    [
        (SETTINGS, "class New:\n    built_by: ClassVar[str] = 'house.recipes.new:New'", True),
        (SETTINGS, "class New:\n    built_by = 'house.recipes.new:New'", True),
        (SETTINGS, "class New:\n    home = 'house.recipes.new:New'", False),
        ("training/new.py", "class New:\n    built_by = 'house.recipes.new:New'", False),
    ],
)
def test_settings_of_a_new_recipe_may_name_the_module_that_trains_by_them_and_nothing_else_may(
    tmp_path, monkeypatch, place, lines, lawfully
):
    monkeypatch.setattr("tests.guards.rules.SETTINGS_OF_RECIPES", "house.recipes.settings")
    settings = "house." + place.removesuffix(".py").replace("/", ".")
    files = dict.fromkeys(
        ("__init__.py", "recipes/__init__.py", "recipes/settings/__init__.py", "training/__init__.py"), ""
    )
    house = planted(tmp_path, "house", files | {place: lines, "recipes/new.py": f"from {settings} import New"})
    assert (circles(lawful(house, graph_of(house))) == []) == lawfully


def test_what_verbs_may_import_of_each_other_is_imported():
    imported = {
        (verb_of(module), each) for module in graph() if module.startswith("vitreg.verbs.") for each in graph()[module]
    }
    assert imported >= set(VERBS_MAY_IMPORT)


def test_floors_are_those_of_the_tree():
    parts = {module.split(".")[1] for module in vitreg().trees if "." in module}
    assert parts == {*FLOORS, "report"}
    assert parts > REPORT_MAY_IMPORT


def test_foreign_libraries_are_imported_where_they_are_used():
    loaded = {
        module: {each.split(".")[0] for each in statements(Bindings(vitreg(), module), top_level_only=True)}
        for module in vitreg().trees
    }
    assert {module: found & FOREIGN for module, found in loaded.items() if found & FOREIGN} == {}


def planted(folder, name, files):
    """A package with these files, and the public names of vitreg."""
    for place, text in files.items():
        path = folder / name / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return House(folder / name)


ANY = "training/new.py"


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("analysis/new.py", "from vitreg.passes.bench import Bench"),
        ("data/new.py", "def later():\n    import vitreg.verbs.scan.verb"),
        ("verbs/maps/new.py", "from vitreg.verbs.scan import readout"),
        ("verbs/maps/new.py", "from vitreg.verbs.scan.verb import scan"),
        ("verbs/new.py", "from vitreg.verbs.scan.measure import Measure"),
        ("verbs/maps/new.py", "import vitreg\n\nvitreg.scan(None, None)"),
        ("report/new.py", "from vitreg.backbones import Backbone"),
        (ANY, "from vitreg.report import draw_scan"),
        # the public names of the package
        (ANY, "import vitreg\n\ndef later():\n    return vitreg.scan(None, None)"),
        (ANY, "import vitreg as v\n\nlater = v.scan"),
        (ANY, "import vitreg.errors\n\nlater = vitreg.scan"),
        (ANY, "from vitreg import scan"),
        (ANY, "from vitreg import *"),
        (ANY, "from .. import scan"),
        (ANY, "import vitreg\n\ngetattr(vitreg, 'scan')"),
        (ANY, "import vitreg\n\ndef later(name):\n    return getattr(vitreg, name)"),
        (ANY, "import vitreg\n\nhouse = vitreg\nhouse.scan(None, None)"),
        (ANY, "import vitreg\n\nvars(vitreg)['scan']"),
        (ANY, "import vitreg\n\nvitreg.__getattr__('scan')"),
        (ANY, "import importlib\n\nimportlib.import_module('vitreg').scan"),
        (ANY, "import importlib\n\ngetattr(importlib.import_module('vitreg'), 'scan')"),
        # a name in a string
        (ANY, "import importlib\n\nimportlib.import_module('vitreg.verbs.scan.verb')"),
        (ANY, "import importlib as il\n\nil.import_module('vitreg.verbs.scan.verb')"),
        (ANY, "from importlib import import_module\n\nimport_module(f'vitreg.verbs.{1}')"),
        (ANY, "from importlib import import_module as im\n\nim('vitreg.verbs.' + name)"),
        (ANY, "from importlib import import_module as im\n\nim('..verbs.scan.verb', package='vitreg.training')"),
        (ANY, "from importlib import import_module as im\n\nim('.' + 'scan', 'vitreg.verbs')"),
        (ANY, "from importlib import import_module as im\n\nim('..verbs', __package__)"),
        (ANY, "from importlib import import_module\n\nim = import_module\nim(f'vitreg.verbs.{1}')"),
        (ANY, "__import__('vitreg.verbs.scan.verb')"),
        (ANY, "import builtins\n\nbuiltins.__import__(f'vitreg.verbs.{1}')"),
        (ANY, "import pkgutil\n\npkgutil.resolve_name('vitreg.scan')"),
        (ANY, "import sys\n\nsys.modules['vitreg.verbs.' + 'scan']"),
        (ANY, "import sys\n\nsys.modules.get(f'vitreg.verbs.{1}')"),
        # the package, taken from what is loaded
        (ANY, "import sys\n\nsys.modules['vitreg'].scan"),
        (ANY, "import sys\n\nloaded = sys.modules['vitreg']\nloaded.scan"),
        (ANY, "import sys\n\nsys.modules.get('vitreg').scan"),
        (ANY, "from sys import modules as m\n\nm['vitreg'].scan"),
        (ANY, "import sys\n\nloaded = sys.modules\nloaded['vitreg'].scan"),
        (ANY, "import sys\n\nloaded = sys.modules\nloaded['vitreg.verbs.scan.verb']"),
        (ANY, "import pkgutil\n\npkgutil.resolve_name('vitreg:scan')"),
        (ANY, "import pkgutil\n\npkgutil.resolve_name('vitreg').scan"),
        (ANY, "TABLE = {'a': 'vitreg:scan'}"),
        (ANY, "from importlib import *\n\nimport_module('vitreg.verbs.scan.verb')"),
        (ANY, "from vitreg import __getattr__\n\n__getattr__('scan')"),
        # code in a string
        (ANY, "exec('import vitreg.verbs.scan.verb')"),
        (ANY, "def later():\n    exec('from vitreg import scan')"),
        (ANY, "import builtins\n\nbuiltins.exec('import vitreg\\nvitreg.scan')"),
        (ANY, "import vitreg\n\neval('vitreg.scan')"),
        (ANY, "eval('__import__(\"vitreg.verbs.scan.verb\")')"),
        (ANY, "exec(compile('import vitreg.verbs.scan.verb', '', 'exec'))"),
        # a name in a variable, a constant or a table
        (ANY, "NAME = 'vitreg.verbs.scan.verb'\n\ndef later():\n    return __import__(NAME)"),
        (ANY, "ROOM = 'vitreg.verbs'\n\ndef later():\n    room = ROOM + '.scan'\n    return __import__(room)"),
        (ANY, "TABLE = {'a': 'vitreg.verbs.scan.verb:scan', 'b': 'vitreg.errors:UserError'}"),
        (ANY, "TABLE = {'a': 'scan', 'b': 'maps'}\n\ndef later(name):\n    return __import__(f'vitreg.verbs.{TABLE[name]}')"),
        (ANY, "for name in ('scan', 'maps'):\n    __import__('vitreg.verbs.' + name)"),
        (ANY, "from vitreg.config import TABLE\n\ndef later(name):\n    return __import__(TABLE[name] + '.verb')"),
        (ANY, "from vitreg import config\n\ndef later(name):\n    return __import__(config.TABLE.get(name) + '.verb')"),
        (ANY, "from importlib.metadata import EntryPoint\n\nEntryPoint('a', 'vitreg.verbs.' + 'scan:scan', 'group').load()"),
    ],
)  # fmt: skip
def test_a_planted_climb_is_found(tmp_path, place, line):
    real = (
        "__init__.py",
        "errors.py",
        "verbs/scan/verb.py",
        "verbs/scan/readout.py",
        "verbs/scan/measure.py",
        "passes/bench.py",
    )
    files = {each: (SRC / each).read_text() if each == "__init__.py" else "" for each in real}
    files |= {
        f"{each}/__init__.py": "" for each in ("verbs", "verbs/scan", "report", "backbones", "passes", "training")
    }
    files["config.py"] = "TABLE = {'a': 'vitreg.' + 'verbs.scan'}"
    assert climbs(graph_of(planted(tmp_path, "vitreg", files))) == []
    house = planted(tmp_path, "vitreg", files | {place: line})
    assert climbs(graph_of(house))
    assert not [*unread(house, "vitreg." + place.removesuffix(".py").replace("/", "."))]


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
        "from house import *",
        "import house\n\ngetattr(house, 'x')",
        "import importlib\n\nimportlib.import_module('house.a')",
        "from importlib import import_module as im\n\nim('.a', __package__)",
        "from importlib import import_module as im\n\nim('.' + NAME, package='house')\nNAME = 'a'",
        "__import__(f'house.{name}')",
        "TABLE = {'later': 'house.a:x'}",
    ],
)
def test_a_planted_circle_is_found_wherever_its_import_stands(tmp_path, line):
    files = {
        "__init__.py": "_HOMES = {'x': 'house.a'}",
        "a.py": "from house.b import y",
        "b.py": "from house.c import z",
        "c.py": "",
    }
    assert circles(graph_of(planted(tmp_path, "house", files))) == []
    assert circles(graph_of(planted(tmp_path, "house", files | {"c.py": line}))) == ["house.a <-> house.b <-> house.c"]


@pytest.mark.parametrize(
    "line",
    [
        "import_module(name)",
        "import_module(place.partition(':')[0])",
        "import_module(f'{room}.scan')",
        "import_module('.'.join(('vitreg', 'verbs')))",
        "import_module('vitreg.%s' % name)",
        "import_module('.verbs', package=name)",
        "import_module([name, room][0])",
        "list(map(import_module, name))",
        "list(map(importlib.import_module, name))",
        "importlib.__dict__[name]",
        "getattr(importlib, name)('vitreg.verbs')",
        "vars(importlib)",
        "__import__('verbs', globals(), locals(), ['scan'], 1)",
        "exec(name)",
        "eval(name)",
        "exec(compile(name, '', 'exec'))",
        "exec(CODE)",
        "exec('import ' + name)",
        "sys.modules[name]",
        "sys.modules.get(name)",
        "dict(sys.modules)",
        "EntryPoint('a', name, 'group').load()",
        "runpy.run_module(name)",
    ],
)
def test_a_name_that_cannot_be_read_is_found(tmp_path, line):
    heads = (
        "import importlib, runpy, sys\nfrom importlib import import_module\nfrom importlib.metadata import EntryPoint\n"
        "CODE = 'import vitreg'\n"
    )
    house = planted(
        tmp_path, "house", {"__init__.py": "", "a.py": f"{heads}\ndef later(name, room, place):\n    {line}"}
    )
    assert [*unread(house, "house.a")] == ["later"]
