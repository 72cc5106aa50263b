"""Repairs from their folders, for `vitreg.load`: `fixed:DIR`, and a model with `repair=DIR`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any

from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.repair.repair import load_repair


def open_fixed(folder: str, load: Callable[..., Backbone], keywords: dict[str, Any]) -> Backbone:
    """Load the model that a repair was fitted on, and repair it.

    Args:
        load: `vitreg.load`.
        keywords: of `load`, such as device and precision.
    Raises:
        UserError: for a repair of a module, which has no name, and if the model's weights have changed since.
    """
    repair = load_repair(folder)
    base = repair.record.base
    if not base.spec and base.edits:
        raise UserError(
            f"{folder} repairs {base.title}, which has no name; name that model, such as fixed:A of its repair A, and add "
            f"--repair {quote(folder)}."
        )
    if not base.spec:
        raise UserError(f"{folder} repairs a module that has no name; name the model and add --repair {quote(folder)}.")
    if base.file and base.says("weights_size"):
        keywords = {**keywords, "weights_size": base.weights_size, "allow_partial": base.allow_partial}
    backbone = load(base.spec, weights=base.file or None, random=base.random, **keywords)
    fixed = repair.apply(backbone)
    fixed.spec, fixed.notes = f"fixed:{folder}", (*fixed.notes, f"{base.spec}, repaired.")
    return fixed


def with_repair(backbone: Backbone, folder: str | Path) -> Backbone:
    """Return a model repaired by what a folder holds. Raises UserError as `load_repair` and `Repair.apply` do."""
    return load_repair(folder).apply(backbone)
