"""`Method`: what a repair is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vitreg.backbones.edits import Edit
from vitreg.repair.settings import MethodSettings
from vitreg.repair.subject import Subject


@dataclass(frozen=True)
class Fitted:
    """What a method found.

    Args:
        tensors: what its edits compute with.
        details: what it chose, as JSON values, for the record; with the tensors it is all that its edits need.
        notes: sentences for the reader of the record.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


def _no_edits(_found: Fitted) -> list[Edit]:
    return []


def _no_weights(_found: Fitted) -> Mapping[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Method:
    """A repair.

    Args:
        name: as the command line says it.
        settings: its dataclass of settings.
        fit: (subject, settings) -> what was found. Raises UserError where the model or its images cannot be repaired so.
        edits: what a repaired model does while it runs.
        leaving: edits that take added tokens out again after the last block, for code that expects the tokens of the model.
        weights: parameters of the tower that change, by name; [] of edits then.
        needs_outliers: whether it is fitted to outliers; without any there is nothing to repair.
        fewest: images below which it cannot be fitted.
        choose: (subject, settings, fit) -> a `Repair` by another method, in place of `fit`. The function that it is handed
            fits a method by name: (subject, name) -> `Repair`.
    """

    name: str
    settings: type[MethodSettings]
    fit: Callable[[Subject, Any], Fitted]
    edits: Callable[[Fitted], Sequence[Edit]] = _no_edits
    leaving: Callable[[Fitted], Sequence[Edit]] = _no_edits
    weights: Callable[[Fitted], Mapping[str, Tensor]] = _no_weights
    needs_outliers: bool = True
    fewest: int = 4
    choose: Callable[[Subject, Any, Callable[[Subject, str], Any]], Any] | None = None
