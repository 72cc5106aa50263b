"""The shape of the code base: files stay small, folders are rooms, public names and verbs are a decision."""

import ast
import subprocess
import sys
from collections import Counter

import pytest
from tests.guards.house import SRC, vitreg


def test_no_file_is_longer_than_400_lines_and_each_says_what_it_holds():
    """A module begins with two or three sentences on what it holds."""
    texts = {module: path.read_text() for module, path in vitreg().paths.items()}
    assert [name for name, text in texts.items() if text.count("\n") > 400] == []
    assert [name for name, tree in vitreg().trees.items() if not ast.get_docstring(tree)] == []


def test_no_function_is_longer_than_60_lines():
    functions = [
        (f"{module}.{each.name}", each.end_lineno - each.lineno)
        for module, tree in vitreg().trees.items()
        for each in ast.walk(tree)
        if isinstance(each, ast.FunctionDef)
    ]
    assert [name for name, length in functions if length >= 60] == []


def test_verbs_are_less_than_a_fifth():
    lines = {path: path.read_text().count("\n") for path in vitreg().paths.values()}
    assert sum(count for path, count in lines.items() if SRC / "verbs" in path.parents) < sum(lines.values()) / 5


def test_no_four_files_of_a_folder_share_a_prefix():
    """A prefix that four files share would be a folder. How many files there may be, `test_rooms` says."""
    for folder in {path.parent for path in vitreg().paths.values()}:
        names = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
        prefixes = Counter(
            name.split("_")[0] for name in names if "_" in name or name in {n.split("_")[0] for n in names}
        )
        assert max(prefixes.values(), default=0) < 4, (folder, prefixes)


def test_public_names():
    import vitreg

    assert sorted(vitreg.__all__) == [
        "Anatomy", "Backbone", "Capture", "DiscoverOptions", "Edit", "EvalOptions", "ExtractOptions", "MapsOptions", "Place",
        "Repair", "ScanOptions", "TokenLayout", "Tokens", "Trace", "UserError", "__version__",
        "badge",
        "compare", "curves", "demo", "discover", "doctor", "draw", "evaluate", "evaluate_all", "explore", "export", "extract", "fit_repair",
        "fix", "lab", "load", "load_repair", "look", "maps", "plugin", "register", "repaired", "repairs", "reproduce", "scan", "train",
        "zoo",
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
        "look",
        "explore",
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
        "reproduce",
        "lab",
        "zoo",
        "demo",
        "version",
    ]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("vitreg", {"torch"}),
        ("vitreg.cli", {"torch"}),
        ("vitreg.report", {"torch"}),
        (
            ", ".join(
                f"vitreg.verbs.{name}.verb" for name in ("scan", "extract", "eval", "repairs", "train", "discover")
            ),
            {"timm", "transformers", "open_clip", "torchvision", "torch._dynamo"},
        ),
    ],
    ids=["vitreg", "cli", "report", "verbs"],
)
def test_importing_stays_cheap(module, forbidden):
    code = f"import sys, {module}; print([name for name in {forbidden} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
