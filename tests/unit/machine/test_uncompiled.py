"""Libraries are imported without PyTorch's compiler, which comes as soon as something of it is needed."""

import gc
import subprocess
import sys

import pytest

from vitreg.machine import uncompiled
from vitreg.machine.uncompiled import collector_paused

LEAN = """
import sys
from vitreg.machine.uncompiled import compiler_left_out
with compiler_left_out():
    import torchvision.ops, torch
    assert "torch._dynamo.eval_frame" not in sys.modules
    function = lambda x: x + 1
    assert torch.compiler.disable(function) is function
assert "torch._dynamo" not in sys.modules
assert torch.compiler.disable(function)(1) == 2  # the real one
assert "torch._dynamo.eval_frame" in sys.modules
with compiler_left_out():
    assert "torch._dynamo.eval_frame" in sys.modules  # what is loaded stays
"""
NEEDED = """
import sys
from vitreg.machine.uncompiled import compiler_left_out
with compiler_left_out():
    import torch._dynamo
    torch._dynamo.config.cache_size_limit
    assert "torch._dynamo.eval_frame" in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [LEAN, NEEDED])
def test_pytorch_compiles_all_the_same(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """A package in the place of the compiler."""
    (tmp_path / "compiler_of_tests").mkdir()
    (tmp_path / "compiler_of_tests" / "__init__.py").write_text(
        "SETTING = 3\ndef disable(function):\n    return 'real'"
    )
    (tmp_path / "compiler_of_tests" / "utils.py").write_text(
        "def is_compile_supported(device):\n    return device == 'cpu'"
    )
    names = ("compiler_of_tests", "compiler_of_tests.utils")
    monkeypatch.setattr(uncompiled, "COMPILER", names)
    monkeypatch.syspath_prepend(tmp_path)
    yield names
    for name in names:
        sys.modules.pop(name, None)


def test_the_compiler_is_left_out_while_libraries_are_imported(compiler):
    with uncompiled.compiler_left_out():
        import compiler_of_tests
        from compiler_of_tests.utils import is_compile_supported

        assert compiler_of_tests.disable(len) is len
        assert compiler_of_tests.disable()(len) is len
        assert getattr(compiler_of_tests, "__file__", None) is None
    assert not {*compiler} & {*sys.modules}
    assert is_compile_supported("cpu")  # asked later, of the real one
    assert sys.modules["compiler_of_tests"].disable(len) == "real"


def test_what_else_is_needed_of_the_compiler_loads_it(compiler):
    with uncompiled.compiler_left_out():
        import compiler_of_tests

        assert compiler_of_tests.SETTING == 3
        assert sys.modules["compiler_of_tests"].disable(len) == "real"
    assert sys.modules["compiler_of_tests"].SETTING == 3


def test_a_compiler_that_is_loaded_stays(compiler):
    import compiler_of_tests

    with uncompiled.compiler_left_out():
        assert sys.modules["compiler_of_tests"] is compiler_of_tests
    assert sys.modules["compiler_of_tests"] is compiler_of_tests


def test_the_collector_goes_on_as_it_was():
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
