"""Nothing that happens to the standard streams, and no name of a file, may cost a result or take over a terminal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.patience import PATIENCE

from vitreg.console.exits import Exit
from vitreg.errors import UserError
from vitreg.writing.files import printable

ROOT = Path(__file__).resolve().parents[3]
VERB = """
import sys, vitreg.cli
from pathlib import Path
from vitreg.console.terminal import say

def run(argv):
    say("scanning", error=True)
    open("opened", "w").write("by the verb")  # on a descriptor that a closed stream leaves free
    say("mild × artifacts")
    for _ in range(2000):
        print("a line that a reader may not want")
    Path("result.json").write_text("{}")
    say("the result is in result.json")
    return 3

vitreg.cli.run = run
from vitreg.__main__ import main
main()
"""
"""A verb that prints on both streams, writes its result, says where, and ends with a code of its own."""

ENDS = {
    "": (3, "the result is in result.json\n", "scanning\n"),
    "2>&-": (3, "the result is in result.json\n", ""),
    ">&-": (3, "", "scanning\n"),
    "<&- >&- 2>&-": (3, "", ""),
    "2>/dev/full": (3, "the result is in result.json\n", ""),
    "| head -1": (3, "mild × artifacts\n", "scanning\n"),
    "| true": (3, "", "scanning\n"),
}


def shell(tmp_path, streams, code=VERB, **environment):
    (tmp_path / "verb.py").write_text(code)
    return subprocess.run(
        ["bash", "-c", f"{sys.executable} verb.py {streams}; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT / "src")} | environment,
        capture_output=True, encoding="utf-8", timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("streams", ENDS)
def test_streams_that_are_closed_full_or_left_cost_neither_result_nor_exit_code(tmp_path, streams):
    code, last, said = ENDS[streams]
    done = shell(tmp_path, streams)
    assert done.returncode == code
    assert done.stdout.endswith(last)
    assert done.stderr == said
    assert (tmp_path / "result.json").read_text() == "{}"
    assert (tmp_path / "opened").read_text() == "by the verb"


def test_a_full_disk_behind_standard_output_ends_with_a_sentence_and_the_name_of_the_result(tmp_path):
    done = shell(tmp_path, ">/dev/full", VERB.replace("return 3", "return 0"))
    assert done.returncode == Exit.MISTAKE
    assert "vitreg: standard output takes no more (No space left on device); it was to read:" in done.stderr
    assert done.stderr.endswith("the result is in result.json\n")
    assert "Traceback" not in done.stderr


def test_a_full_disk_does_not_hide_the_exit_code_of_the_verb(tmp_path):
    assert shell(tmp_path, ">/dev/full").returncode == Exit.OVER_BUDGET


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C"}])
def test_a_character_that_the_encoding_lacks_is_escaped(tmp_path, environment):
    done = shell(tmp_path, "", VERB.replace("×", "×" if "ascii" in environment.values() else "→"), **environment)
    assert done.returncode == Exit.OVER_BUDGET
    assert ("mild \\xd7 artifacts" in done.stdout) or ("mild \\u2192 artifacts" in done.stdout)
    assert done.stdout.endswith("the result is in result.json\n")


@pytest.mark.parametrize("columns", ["1", "5", "0", "-3", "wide", "100000000"])
def test_help_ends_at_any_width(tmp_path, columns):
    done = shell(tmp_path, "--help", "from vitreg.__main__ import main\nmain()", COLUMNS=columns)
    assert done.returncode == 0
    assert "usage: vitreg" in done.stdout


def test_help_that_nobody_reads_to_the_end_is_quiet(tmp_path):
    done = shell(tmp_path, "scan --help | true", "from vitreg.__main__ import main\nmain()")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name, ü × 猫.jpg", "plain name, ü × 猫.jpg"),
        ("a\x1b]0;title\x07\x1b[31mred.jpg", r"a\x1b]0;title\x07\x1b[31mred.jpg"),
        ("two\nlines\r\t.jpg", r"two\nlines\r\t.jpg"),
        ("c1 \x9b31m", r"c1 \x9b31m"),
        ("gpj.\u202eevil", r"gpj.\u202eevil"),
        ("no text \udcff", r"no text \udcff"),
    ],
)
def test_a_name_cannot_take_over_the_terminal(name, shown):
    assert printable(name) == shown
    assert printable(printable(name)) == shown


def test_a_mistake_with_such_a_name_is_one_line(vitreg, monkeypatch):
    def run(_argv):
        raise UserError("no file a\x1b[2Jb\nc.")

    monkeypatch.setattr("vitreg.cli.run", run)
    done = vitreg("scan")
    assert (done.returncode, done.stderr) == (2, "vitreg: no file a\\x1b[2Jb\\nc.\n")


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("doctor", "nothing was written"),
        ("maps", "nothing was written"),
        ("eval m zeroshot d", "nothing was written"),
        ("eval m knn d", "features of whole shards are kept, and the same command goes on from them"),
        ("extract", "features of whole shards are kept, and the same command goes on from them"),
        ("train", "a checkpoint that was written is kept, and vitreg train --resume goes on from it"),
    ],
)
def test_ctrl_c_says_that_it_interrupted_and_what_is_kept(vitreg, monkeypatch, words, kept):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vitreg.cli._run", interrupted)
    done = vitreg(*words.split())
    assert done.returncode == Exit.INTERRUPTED
    assert done.stderr.startswith(f"vitreg: interrupted; {kept}")
    assert done.stderr.count("\n") == 1


def test_the_documented_exit_codes_are_those_of_the_code():
    rows = [
        line.split("|")[1:3] for line in (ROOT / "docs/terminal.md").read_text().splitlines() if line.startswith("| ")
    ]
    documented = {int(code): name.strip().strip("`") for code, name in rows if code.strip().isdigit()}
    assert documented.pop(1) == "-"
    assert documented == {int(each): each.name for each in Exit}
