"""The models of a look: those named or chosen, and each repair behind the model it was fitted on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vitreg.backbones import Backbone
from vitreg.backbones.loading.load import opened
from vitreg.errors import UserError
from vitreg.passes.view import View, view_of
from vitreg.repair.repair import Repair, load_repair
from vitreg.verbs.look.choice import Subject, chosen, offline
from vitreg.verbs.look.options import LookOptions

Model = str | Path | nn.Module | Backbone


@dataclass(frozen=True, slots=True)
class Looker:
    """A loaded model, and how it sees photos.

    Args:
        base: the number of the model that it repairs; None for a model as it is.
    """

    name: str
    view: View
    base: int | None = None

    @property
    def backbone(self) -> Backbone:
        """The model."""
        return self.view.backbone


def lookers(
    models: Sequence[Model], weights: str | Path | None, options: LookOptions, loading: dict[str, Any]
) -> tuple[list[Looker], str]:
    """Load the models named, or those chosen where none is, and their repairs.

    Args:
        weights: a checkpoint for the one model named.
    Returns:
        the models in the order of their rows, and a sentence on the choice; empty if they were named.
    Raises:
        UserError: for a model that cannot be loaded or take photos of this size, and a repair of another model.
    """
    repairs = [(folder, load_repair(folder)) for folder in options.repair]
    named: list[tuple[Model | Subject, str]] = [(model, "") for model in models]
    said = ""
    if not models and repairs:
        named = [(spec, "") for spec in dict.fromkeys(_base_of(folder, repair) for folder, repair in repairs)]
    elif not models:
        subjects, said = chosen()
        named = [(subject, subject.title) for subject in subjects]
    found = [_loaded(model, title, weights, options, loading) for model, title in named]
    rows: list[Looker] = []
    fixed = [(folder, repair, _number_of(folder, repair, found)) for folder, repair in repairs]
    shown = _told_apart([folder for folder, _ in repairs])
    for number, looker in enumerate(found):
        base = len(rows)
        rows.append(looker)
        for folder, repair, owner in fixed:
            if owner == number:
                view = view_of(repair.apply(looker.backbone), size=options.pixels, policy=options.fit)
                rows.append(Looker(f"{looker.name}, repaired: {repair.name} ({shown[folder]})", view, base))
    return rows, said


def _loaded(
    model: Model | Subject, title: str, weights: str | Path | None, options: LookOptions, loading: dict[str, Any]
) -> Looker:
    if isinstance(model, Subject):
        with offline() if model.cached else contextlib.nullcontext():
            backbone = opened(model.spec, model.weights, loading)
    else:
        backbone = opened(model, weights, loading, size=options.pixels)
    return Looker(title or backbone.spec, view_of(backbone, size=options.pixels, policy=options.fit))


def _told_apart(folders: Sequence[Path]) -> dict[Path, str]:
    """Return the name of each folder, for pages that others see; its path where two names are equal."""
    names = [folder.resolve().name for folder in folders]
    return {
        folder: name if names.count(name) == 1 else str(folder) for folder, name in zip(folders, names, strict=True)
    }


def _base_of(folder: Path, repair: Repair) -> str:
    if not repair.record.base.spec:
        raise UserError(f"{folder} repairs a module that has no name; name the model with -m.")
    return repair.record.base.spec


def _number_of(folder: Path, repair: Repair, found: Sequence[Looker]) -> int:
    """Return which of the models a repair was fitted on. Raises UserError if none is."""
    refused = None
    for number, looker in enumerate(found):
        try:
            repair.check(looker.backbone)
        except UserError as error:
            refused = refused or error
        else:
            return number
    raise UserError(f"{folder}: {refused}")
