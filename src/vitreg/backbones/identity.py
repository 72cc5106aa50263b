"""Identity of values across runs: text that is equal exactly for values that behave alike.

A function is identified by its code, defaults, closure and the global names it reads; a library function by its name,
since library versions are recorded too.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DESCRIBED = (bool, int, float, complex, str, bytes, torch.dtype, torch.Size, torch.device, type(None), type(...))
_PLACES = (types.MemberDescriptorType, types.GetSetDescriptorType)


def identity_of(value: Any) -> str | None:
    """Return text that is equal only for equal values, None for values without one: a bare function, a module, a
    file."""
    return _identity(value, frozenset())


def _identity(value: Any, within: frozenset[int]) -> str | None:
    """The identity of a value.

    Args:
        within: functions and classes being identified, by `id`, to stop at recursion.
    """
    if isinstance(value, _DESCRIBED):
        return repr(value)
    if isinstance(value, Tensor | np.ndarray):
        return _of_array(value)
    if is_dataclass(value) and not isinstance(value, type) and value.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        kind = _of_class(type(value), within)
        return (
            None if kind is None else _joined(kind, [(f.name, getattr(value, f.name)) for f in fields(value)], within)
        )
    if isinstance(value, Mapping):
        return _joined("mapping", sorted(value.items(), key=repr), within)
    if isinstance(value, tuple | list):
        return _joined(type(value).__name__, list(enumerate(value)), within)
    return None


def _of_array(value: Tensor | np.ndarray) -> str | None:
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_meta:
            return None
        array = value.detach().cpu().contiguous()
    elif value.dtype.hasobject or value.dtype.kind not in "biufc":
        return None
    else:
        array = torch.from_numpy(np.ascontiguousarray(value))
    data = array.reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{array.dtype}{tuple(array.shape)}{hashlib.sha256(data).hexdigest()}"


def _joined(kind: str, items: Sequence[tuple[Any, Any]], within: frozenset[int]) -> str | None:
    parts = [(_identity(key, within), _identity(value, within)) for key, value in items]
    if any(key is None or value is None for key, value in parts):
        return None
    return f"{kind}({', '.join(f'{key}={value}' for key, value in parts)})"


def _of_class(kind: type, within: frozenset[int]) -> str | None:
    """Identify a class by its name and its methods."""
    words = [_name(kind)]
    for each in kind.__mro__:
        if _of_library(each.__module__) or id(each) in within:
            continue
        for name, member in sorted(vars(each).items()):
            if isinstance(member, _PLACES) or _by_itself(name, member):
                continue
            found = _of_name_outside(member, within | {id(each)})
            if found is None:
                return None
            words.append(f"{name}={found}")
    return " ".join(words)


def _by_itself(name: str, member: Any) -> bool:
    """Whether a member follows from the rest of its class: what Python and dataclasses write there."""
    if not name.startswith(("__", "_abc_")):
        return False
    return not isinstance(member, types.FunctionType) or member.__code__.co_filename == "<string>"


def code_of(module: torch.nn.Module) -> str | None:
    """Return text that is equal only for models that run the same code; "" if all of it is a library's.

    A class is identified by the file it stands in and by the instructions that were loaded from it. One that stands in no
    file, as in a notebook, is identified by all that it reads; None where that is not possible.
    """
    kinds = {type(part) for part in module.modules() if not _of_library(type(part).__module__)}
    words = [_of_source(kind) or _of_class(kind, frozenset()) for kind in sorted(kinds, key=_name)]
    known = [word for word in words if word is not None]
    return (
        None if len(known) < len(words) else hashlib.sha256("\n".join(known).encode()).hexdigest()[:16] if known else ""
    )


def _of_source(kind: type) -> str | None:
    """Identify a class by its file and its loaded instructions, None if it stands in no file."""
    words = [_name(kind)]
    for each in kind.__mro__:
        if _of_library(each.__module__):
            continue
        try:
            words.append(hashlib.sha256(Path(inspect.getfile(each)).read_bytes()).hexdigest())
        except (OSError, TypeError):
            return None
        methods = (inspect.unwrap(member) for _, member in sorted(vars(each).items()) if callable(member))
        words += [_instructions(method.__code__) for method in methods if isinstance(method, types.FunctionType)]
    return " ".join(words)


def _of_name_outside(value: Any, within: frozenset[int]) -> str | None:
    """Identify a value that code reads by name: a function, a class, a library, or anything with an identity."""
    if isinstance(value, property):
        value = value.fget
    elif isinstance(value, functools.cached_property):
        value = value.func
    elif isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, types.ModuleType):
        return value.__name__ if _of_library(value.__name__) else None
    if isinstance(value, type):
        return _name(value) if _of_library(value.__module__) or id(value) in within else _of_class(value, within)
    if isinstance(value, types.FunctionType):
        while hasattr(value, "__wrapped__") and _of_library(value.__globals__.get("__name__")):  # jaxtyping, no_grad
            value = value.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
        own = value.__globals__.get("__name__")
        return _name(value) if _of_library(own) or id(value) in within else _of_code(value, within)
    if isinstance(value, types.BuiltinFunctionType | np.ufunc):
        return _name(value)
    return _identity(value, within)


def _of_code(function: Any, within: frozenset[int]) -> str | None:
    """Identify a user's function by its instructions, its defaults, and the outer values it reads."""
    within = within | {id(function)}
    if not all(map(_of_library, _imported(function.__code__))):  # its values are not known before it runs
        return None
    outside = {name: function.__globals__[name] for name in _read(function.__code__) if name in function.__globals__}
    try:
        outside |= zip(
            function.__code__.co_freevars, (c.cell_contents for c in function.__closure__ or ()), strict=True
        )
    except ValueError:  # a cell that is still empty
        return None
    words = [_instructions(function.__code__), _identity((function.__defaults__, function.__kwdefaults__), within)]
    words += [_of_name_outside(value, within) for _, value in sorted(outside.items())]
    known = [word for word in words if word is not None]
    return hashlib.sha256("\n".join(known).encode()).hexdigest() if len(known) == len(words) else None


def _instructions(code: types.CodeType) -> str:
    constants = [
        _instructions(c)
        if isinstance(c, types.CodeType)
        else f"{sorted(map(repr, c))}"
        if isinstance(c, frozenset)
        else repr(c)
        for c in code.co_consts
    ]
    return f"{code.co_code.hex()} {constants} {code.co_names} {code.co_freevars} {code.co_cellvars}"


def _read(code: types.CodeType) -> Iterator[str]:
    """Yield the global names that code reads, inner functions included."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _read(constant)


def _imported(code: types.CodeType) -> Iterator[str]:
    """Yield the modules that code imports as it runs, inner functions included."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME")
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _imported(constant)


def _of_library(module: str | None) -> bool:
    """Whether code belongs to Python or an installed package, which its version identifies."""
    top = (module or "").partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return True
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return top == "vitreg" or "site-packages" in file or "dist-packages" in file


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"
