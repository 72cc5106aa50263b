"""The suite tells the truth however it is started and whatever else the machine does."""

import ast
import signal
import subprocess
import sys
from pathlib import Path

from tests.patience import PATIENCE
from tests.repetitions import listed

TESTS = Path(__file__).resolve().parents[1]


def test_ctrl_c_arrives_here_and_in_what_a_test_starts_also_in_the_background_of_a_shell():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "True\n"


def test_no_test_waits_in_a_loop_of_its_own():
    """A loop that sleeps until something happens hangs where it never does; `patience.until` has an end."""
    for path in TESTS.rglob("*.py"):
        text = path.read_text()
        for loop in ast.walk(ast.parse(text)) if "time.sleep" in text else ():
            if isinstance(loop, ast.While) and path.name != "patience.py":
                calls = [ast.unparse(call.func) for call in ast.walk(loop) if isinstance(call, ast.Call)]
                assert "time.sleep" not in calls, f"{path.name}:{loop.lineno}"


def test_no_test_counts_on_a_clock_to_interrupt_it():
    for path in TESTS.rglob("*.py"):
        text = path.read_text()
        assert path == Path(__file__) or not ("setitimer" in text or "signal.alarm" in text), path.name


def test_no_two_files_of_tests_share_a_name():
    """pytest would collect neither the second nor anything else, and running one of their folders shows nothing of it."""
    packaged = [path for path in TESTS.rglob("test_*.py") if not (path.parent / "__init__.py").exists()]
    names = [path.name for path in packaged]
    assert {name for name in names if names.count(name) > 1} == set()


def test_every_repetition_of_the_slow_tests_exists():
    """One that was renamed would run with the default tests again, and nobody would see why they take longer."""
    files = {path.stem: path.read_text() for path in TESTS.rglob("test_*.py")}
    for entry in listed():
        file, *_, test = entry.partition("[")[0].split("::")
        assert f"def {test}(" in files.get(file, ""), entry
