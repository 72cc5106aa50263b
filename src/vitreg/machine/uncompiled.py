"""Imports of libraries in a process that compiles nothing: PyTorch's compiler, a second of every import of timm and
torchvision, stays out.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER = ("torch._dynamo", "torch._dynamo.utils")


@contextmanager
def compiler_left_out() -> Generator[None, None, None]:
    """Import libraries without PyTorch's compiler, for a process that ends without compiling.

    Libraries ask the compiler for two things as they are imported: to leave a function uncompiled, which without it every
    function is, and whether a device can be compiled for, which they ask again later. Anything else loads the compiler.
    """
    if COMPILER[0] in sys.modules:
        yield
        return
    absent = {name: _Absent(name) for name in COMPILER}
    sys.modules.update(absent)
    try:
        yield
    finally:
        _bring_back(absent)


@contextmanager
def collector_paused() -> Generator[None, None, None]:
    """Import without the garbage collector, which would walk all modules again and again and find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Absent(ModuleType):
    """Stands for a module of the compiler until something of it is needed."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # a package, so that its modules can be imported

    def disable(self, function: Any = None, *_: object, **__: object) -> Any:
        """Return the function, which nothing compiles."""
        return (lambda each: each) if function is None else function

    def is_compile_supported(self, *device: object) -> Any:
        """Ask the compiler, now that it matters."""
        return self._real("is_compile_supported")(*device)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._real(name)

    def _real(self, name: str) -> Any:
        _bring_back({each: module for each in COMPILER if isinstance(module := sys.modules.get(each), _Absent)})
        return getattr(importlib.import_module(self.__name__), name)


def _bring_back(absent: dict[str, Any]) -> None:
    """Let the next import find the compiler."""
    for name, module in absent.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
