"""`Repair`: what was fitted, applied to a model, saved as a folder and read again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.backbones.edited_module import edited_in_place, edits_of
from vitreg.backbones.reweighted import replaced_parameters, reweighted
from vitreg.backbones.weights.into_module import sha256_of_weights
from vitreg.backbones.weights.tensor_files import read_tensor_file
from vitreg.documents import read_json
from vitreg.errors import UserError
from vitreg.repair.method import Fitted
from vitreg.repair.methods import method_named
from vitreg.repair.neurons.listed import list_of
from vitreg.repair.record import SCHEMA, RepairRecord
from vitreg.writing.files import missing, write_text
from vitreg.writing.outputs import Outputs

RECORD, TENSORS, NEURONS = "repair.json", "repair.safetensors", "neurons.json"
Model = TypeVar("Model", Backbone, nn.Module)


@dataclass(frozen=True)
class Repair:
    """A fitted repair.

    Args:
        record: the method, its settings, the model it belongs to and what it did on held-out images.
        tensors: what its edits compute with, or the new weights.
    """

    record: RepairRecord
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        effect = self.record.held_out
        seen = "" if effect is None else f", outliers {effect.before:.2%} -> {effect.share:.2%} held out"
        return f"Repair({self.record.method!r} of {self.record.base.spec or 'a module'}{seen})"

    def apply(self, model: Model, *, force: bool = False) -> Model:
        """Return the repaired model; the one given stays as it is.

        Args:
            model: a backbone, or the module of a library or your own, whose outputs keep their form.
            force: skip the comparison of weights.
        Raises:
            UserError: if the repair belongs to another model.
        """
        if isinstance(model, Backbone):
            return self._of(model, force=force)
        self._refuse_for_modules()
        return self._of(Backbone(model), force=force).module  # type: ignore[return-value]

    @contextlib.contextmanager
    def in_place(self, module: nn.Module, *, force: bool = False) -> Generator[None, None, None]:
        """Repair the very object while the block runs. Raises UserError as `apply`."""
        self._refuse_for_modules()
        self.check(Backbone(module), force=force)
        method, found = method_named(self.record.method), self._found
        with replaced_parameters(module, method.weights(found), self.name):
            edits = method.edits(found)
            if not edits:
                yield
                return
            made = edits_of(Backbone(module).edited(edits, self.name, leaving=method.leaving(found)).module)
            assert made is not None
            with edited_in_place(module, made.sets, made.source):
                yield

    def _refuse_for_modules(self) -> None:
        if any(edit.site == "forward" for edit in method_named(self.record.method).edits(self._found)):
            raise UserError(
                f"{self.name} works on the tokens of a whole call, and a module returns what it likes; apply it to "
                "vitreg.load(module), or use distill, or denoise with --position-part."
            )

    def _of(self, backbone: Backbone, *, force: bool) -> Backbone:
        self.check(backbone, force=force)
        method = method_named(self.record.method)
        found = self._found
        weights, edits = method.weights(found), method.edits(found)
        fixed = reweighted(backbone, weights, self.name) if weights else backbone
        return fixed.edited(edits, self.name, leaving=method.leaving(found)) if edits else fixed

    @property
    def _found(self) -> Fitted:
        return Fitted(self.tensors, self.record.details)

    @property
    def name(self) -> str:
        """As it stands in the spec of a repaired model."""
        return self.record.method + (" (random control)" if self.record.random else "")

    def check(self, backbone: Backbone, *, force: bool = False) -> None:
        """Raise UserError if the repair belongs to another model, by shape or, unless forced, by weights."""
        base, anatomy = self.record.base, backbone.anatomy
        if (backbone.depth, anatomy.width) != (base.blocks, base.width):
            raise UserError(
                f"this repair belongs to {base.spec or 'a model'} of {base.blocks} blocks of width {base.width}, and "
                f"{backbone.spec} has {backbone.depth} of width {anatomy.width}."
            )
        if not force and weights_hash(backbone) != base.weights_sha256:
            raise UserError(
                f"this repair belongs to other weights than those of {backbone.spec}: it was fitted on "
                f"{base.spec or 'a module'}{f' with {base.file}' if base.file else ''}; fit it again (or `apply(force=True)` in Python)."
            )

    def save(self, folder: str | Path) -> Path:
        """Write the repair as a folder: its record, its tensors, and the list of the neurons it edits. Returns the folder.

        Raises:
            UserError: if it cannot be written, or holds files of those names that vitreg did not write.
        """
        outputs = Outputs(Path(folder).expanduser(), "fix", (RECORD, TENSORS, NEURONS))
        outputs.check()

        def write(place: Path) -> None:
            save_file({name: value.contiguous() for name, value in self.tensors.items()}, place / TENSORS)
            write_text(place / RECORD, self.record.model_dump_json(indent=1) + "\n")
            neurons = list_of(self.record)
            if neurons is not None:
                write_text(place / NEURONS, neurons.model_dump_json(by_alias=True) + "\n")

        outputs.publish(write)
        return outputs.folder


def load_repair(folder: str | Path) -> Repair:
    """Read a repair that `Repair.save` or `vitreg fix` wrote.

    Raises:
        UserError: if it is missing, damaged, or of another version.
    """
    place = Path(folder).expanduser()
    if not (place / RECORD).is_file():
        raise (
            missing(place, "folder of a repair")
            if not place.exists()
            else UserError(f"{place} holds no {RECORD}, so it is no repair.")
        )
    held = read_json(place / RECORD)
    schema = held.get("schema") if isinstance(held, dict) else None
    if schema != SCHEMA:
        raise UserError(
            f"{place / RECORD} is of the version {json.dumps(schema)}, and this vitreg reads {SCHEMA}; fit it again."
        )
    try:
        record = RepairRecord.model_validate(held)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{place / RECORD} is damaged: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}."
        ) from None
    tensors = read_tensor_file(place / TENSORS)
    method_named(record.method)
    return Repair(record, tensors)


def weights_hash(backbone: Backbone) -> str:
    """Return the hash of a model's weights, as it was loaded."""
    return backbone.weights_sha256 or sha256_of_weights(backbone.anatomy.tower)


@contextlib.contextmanager
def repaired(model: Model, repair: Repair, *, force: bool = False) -> Generator[Model, None, None]:
    """Repair the very object given, a backbone or a module, while the block runs; also after an exception it is as before.

    Raises:
        UserError: as `Repair.apply`.
    """
    if isinstance(model, Backbone):
        with _taken_from(model, repair.apply(model, force=force)):
            yield model
        return
    with repair.in_place(model, force=force):
        yield model


@contextlib.contextmanager
def _taken_from(model: Backbone, fixed: Backbone) -> Generator[None, None, None]:
    """Let a backbone be another one while the block runs."""
    before = dict(model.__dict__)
    try:
        model.__dict__.clear()
        model.__dict__.update(fixed.__dict__)
        yield
    finally:
        model.__dict__.clear()
        model.__dict__.update(before)
