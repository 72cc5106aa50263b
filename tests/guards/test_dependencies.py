"""What pyproject.toml asks for is what the code imports: no more, no less, and extras only where they are used."""

import ast
import functools
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from tests.guards.house import vitreg

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Imported by name at run time or by other libraries for us, so no import statement shows them.
BY_OTHERS = {"onnxscript": "torch.onnx writes with it", "tensorboard": "torch.utils.tensorboard imports it"}


DISTRIBUTIONS = functools.cache(packages_distributions)


def names_of(requirements):
    return {re.match(r"[\w-]+", each)[0].lower().replace("_", "-") for each in requirements}


RUNTIME = names_of(PROJECT["dependencies"])
EXTRAS = {name: names_of(asked) for name, asked in PROJECT["optional-dependencies"].items() if name != "dev"}


@functools.cache
def imported(*, at_once):
    """Distributions that the source imports: at once when a module is imported, or anywhere."""
    distributions, found = DISTRIBUTIONS(), set()
    for tree in vitreg().trees.values():
        for node in ast.iter_child_nodes(tree) if at_once else ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules = [node.module]
            for top in {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - {"vitreg"}:
                found |= {name.lower().replace("_", "-") for name in distributions.get(top, [top])}
    return found


def test_what_a_module_imports_at_once_is_a_dependency():
    assert imported(at_once=True) <= RUNTIME


def test_what_is_imported_anywhere_is_a_dependency_or_in_an_extra():
    assert imported(at_once=False) <= RUNTIME.union(*EXTRAS.values())


def test_every_dependency_is_imported():
    assert imported(at_once=False) >= RUNTIME


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_is_imported_somewhere(extra):
    assert EXTRAS[extra] <= imported(at_once=False) | set(BY_OTHERS)


def test_every_extra_says_what_it_is_for():
    text = (ROOT / "pyproject.toml").read_text()
    for extra in EXTRAS:
        line = next(line for line in text.splitlines() if line.startswith(f"{extra} = "))
        assert re.search(r"#\s+\S+", line), extra
