"""No flag that nothing reads: every field of every verb's options is read somewhere in the code."""

import ast
import functools

import pytest
from tests.guards.house import SRC, parsed

READ_BY_NAME = {
    ("Command", "resume"): "run_train takes the word out of the line; the class is the manual of train",
}
"""Fields that are read in another way than as an attribute, and how."""


def options_modules(source=SRC):
    """The files of options, and those of the command line, whose classes have flags of their own."""
    return sorted(
        {
            *source.rglob("options.py"),
            *(source / "verbs/eval/settings").glob("*.py"),
            *(source / "cli/verbs").glob("*.py"),
        }
    )


def classes(path):
    """Yield the dataclasses of a file with the names of their fields."""
    for node in ast.walk(parsed(path.read_text())):
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in node.decorator_list):
            named = [
                each for each in node.body if isinstance(each, ast.AnnAssign) and "ClassVar" not in ast.unparse(each)
            ]
            yield node.name, [each.target.id for each in named]


@functools.cache
def read(path):
    """The names of the attributes that a file reads, also by getattr."""
    found = set()
    for node in ast.walk(parsed(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", "") == "getattr"
            and isinstance(node.args[1], ast.Constant)
        ):
            found.add(node.args[1].value)
    return found


def unread(source=SRC, known=READ_BY_NAME):
    """Fields that are read nowhere outside the modules of options; a command of the command line reads its own.

    Fields are told apart by their names alone: what another class has under the name counts as read.
    """
    modules = options_modules(source)
    outside = {
        name for path in source.rglob("*.py") if path not in modules or "cli" in path.parts for name in read(path)
    }
    fields = {(name, field) for path in modules for name, found in classes(path) for field in found}
    return sorted((name, field) for name, field in fields if field not in outside and (name, field) not in known)


def test_every_flag_is_read():
    assert unread() == []


def test_the_exceptions_are_needed():
    assert {*unread(known=())} == {*READ_BY_NAME}


@pytest.mark.parametrize("place", ["verbs/new/options.py", "verbs/eval/settings/new.py", "cli/verbs/new.py"])
def test_a_planted_flag_that_nothing_reads_is_found(tmp_path, place):
    planted = tmp_path / place
    planted.parent.mkdir(parents=True)
    (tmp_path / "verb.py").write_text("def verb(options): return options.size")
    planted.write_text("@dataclass(frozen=True)\nclass New:\n    size: int = 3\n    colour: str = 'red'\n")
    assert unread(tmp_path) == [("New", "colour")]
