"""Checks on the result of an edit's function: its type, its shape, and no in-place writes, so that no edit is silently
lost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitreg.backbones.sites import Site, name_of
from vitreg.backbones.trace import QKV
from vitreg.errors import UserError
from vitreg.tokens import Tokens


def writes_of(value: Any) -> tuple[int, ...]:
    """Return how often each tensor of a value was written in place; empty if PyTorch does not count."""
    if torch.compiler.is_compiling():
        return ()
    tensors = (value.q, value.k, value.v) if isinstance(value, QKV) else (value,)
    return tuple(x._version for x in tensors if not x.is_inference())


def refuse(site: Site, layer: int | None, given: Any, found: Any, *, written: bool) -> None:
    """Refuse a result that cannot replace `given`: the model would fail, broadcast it, or ignore it.

    Args:
        written: whether the function modified its input in place.
    Raises:
        UserError: with the returned and the required value.
    """
    if written:
        raise UserError(
            f"the edit at {name_of(site, layer)} wrote into what it was given, which others read too; return a new value."
        )
    if found is given:
        return
    if isinstance(given, QKV):
        fits, wanted = _fits_attention(given, found), f"a QKV like {said(given)}, keys and values at least as many"
    else:
        free = {"image": (2, 3), "input": (1,), "block": (1,)}.get(site, ())
        sides = ["any" if axis in free else str(side) for axis, side in enumerate(given.shape)]
        fits, wanted = _like(given, found, free), f"{_short(given.dtype)} [{', '.join(sides)}]"
    if not fits:
        raise UserError(f"the edit at {name_of(site, layer)} returned {said(found)}; it returns {wanted}.")


def _like(given: Tensor, found: Any, free: tuple[int, ...] = ()) -> bool:
    if not isinstance(found, Tensor) or found.ndim != given.ndim or found.dtype != given.dtype:
        return False
    return all(axis in free or a == b for axis, (a, b) in enumerate(zip(given.shape, found.shape, strict=True)))


def _fits_attention(given: QKV, found: Any) -> bool:
    return (
        isinstance(found, QKV)
        and _like(given.q, found.q)
        and _like(given.k, found.k, (2,))
        and _like(given.v, found.v, (2,))
        and found.k.shape[2] == found.v.shape[2] >= given.q.shape[2]
    )


def said(value: Any) -> str:
    """A value in words: its type, and of tensors what they hold."""
    if isinstance(value, Tensor):
        return f"{_short(value.dtype)} {list(value.shape)}"
    if isinstance(value, QKV):
        return f"q {said(value.q)}, k {said(value.k)}, v {said(value.v)}"
    if isinstance(value, Tokens):
        return f"Tokens {list(value.values.shape)}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
