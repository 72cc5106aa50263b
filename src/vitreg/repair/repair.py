"""`Repair`: what was fitted, applied to a model, saved as a folder and read again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.backbones.anatomy.find import unwrapped
from vitreg.backbones.edited_module import edited_in_place, edits_of
from vitreg.backbones.edits import Edit
from vitreg.backbones.reweighted import replaced_parameters, reweighted
from vitreg.backbones.weights.into_module import sha256_of_weights
from vitreg.backbones.weights.tensor_files import read_tensor_file
from vitreg.documents import read_json
from vitreg.errors import UserError
from vitreg.notebook import Brief, Shown
from vitreg.quantities import number, percent
from vitreg.repair.method import Fitted
from vitreg.repair.methods import method_named
from vitreg.repair.neurons.listed import list_of
from vitreg.repair.record import SCHEMA, RepairRecord
from vitreg.writing.files import missing, write_text
from vitreg.writing.outputs import Outputs

RECORD, TENSORS, NEURONS = "repair.json", "repair.safetensors", "neurons.json"
Model = TypeVar("Model", Backbone, nn.Module)


@dataclass(frozen=True)
class Repair(Shown):
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
        return f"Repair({self.record.method!r} of {self.record.base.title}{seen})"

    def _brief(self) -> Brief:
        record, effect = self.record, self.record.held_out
        facts: list[tuple[str | None, object]] = [
            ("model", record.base.title),
            ("settings", ", ".join(f"{name} {value}" for name, value in record.settings.items())),
            ("fitted on", f"{record.images} images at {'x'.join(map(str, record.size))}, {record.seconds:.1f} s"),
        ]
        if effect is not None:
            facts += [
                ("held-out images", effect.images),
                ("outliers", f"{percent(effect.before)} before, {percent(effect.share)} after"),
                ("CLS changed by", f"{number(effect.cls_change)} (1 - cosine)"),
            ]
        return Brief(title=f"Repair by {self.name}", sentence=" ".join(record.notes), facts=facts)

    def apply(self, model: Model, *, force: bool = False) -> Model:
        """Return the repaired model; the one given stays unrepaired.

        Both hold the same parameters, but for those that the repair replaces: `.half()` or `load_state_dict` of one changes
        the other too. `copy.deepcopy` of the result has its own.

        Args:
            model: a backbone, or the module of a library or your own, whose outputs keep their form.
            force: skip the comparison of weights and earlier repairs.
        Raises:
            UserError: if the repair belongs to another model, or is damaged.
        """
        if isinstance(model, Backbone):
            return self._of(model, force=force)
        self._refuse_for_modules()
        return self._of(Backbone(model), force=force).module  # type: ignore[return-value]

    @contextlib.contextmanager
    def in_place(self, module: nn.Module, *, force: bool = False) -> Generator[None, None, None]:
        """Repair the very object while the block runs. Raises UserError as `apply`."""
        self._refuse_for_modules()
        module = unwrapped(module)  # compiled and parallel modules call the one they wrap
        self.check(Backbone(module), force=force)
        weights, edits, leaving = self._parts
        with replaced_parameters(module, weights, self.name):
            if not edits:
                yield
                return
            made = edits_of(self._edited(Backbone(module), edits, leaving).module)
            assert made is not None
            with edited_in_place(module, made.sets, made.source):
                yield

    def _refuse_for_modules(self) -> None:
        if any(edit.site == "forward" for edit in self._parts[1]):
            raise UserError(
                f"{self.name} works on the tokens of a whole call, and a module returns what it likes; apply it to "
                "vitreg.load(module), or use distill, or denoise with --position-part."
            )

    def _of(self, backbone: Backbone, *, force: bool) -> Backbone:
        self.check(backbone, force=force)
        weights, edits, leaving = self._parts
        fixed = reweighted(backbone, weights, self.name) if weights else backbone
        return self._edited(fixed, edits, leaving) if edits else fixed

    def _edited(self, backbone: Backbone, edits: Sequence[Edit], leaving: Sequence[Edit]) -> Backbone:
        with self._whole():
            return backbone.edited(edits, self.name, leaving=leaving)

    @property
    def _parts(self) -> tuple[Mapping[str, Tensor], Sequence[Edit], Sequence[Edit]]:
        """The weights, the edits, and those that leave. Raises UserError where the record or the tensors lack something."""
        method, found = method_named(self.record.method), Fitted(self.tensors, self.record.details)
        with self._whole():
            return method.weights(found), method.edits(found), method.leaving(found)

    @contextlib.contextmanager
    def _whole(self) -> Generator[None, None, None]:
        """Say of what a damaged file makes fail that it is damaged."""
        try:
            yield
        except UserError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"this {self.name} repair is damaged; fit the repair again ({type(error).__name__}: {error})."
            ) from error

    @property
    def name(self) -> str:
        """As it stands in the spec of a repaired model."""
        return self.record.method + (" (random control)" if self.record.random else "")

    def check(self, backbone: Backbone, *, force: bool = False) -> None:
        """Raise UserError if the repair belongs to another model, by shape or, unless forced, by weights or earlier repairs."""
        base, anatomy = self.record.base, backbone.anatomy
        if (backbone.depth, anatomy.width) != (base.blocks, base.width):
            raise UserError(
                f"this repair belongs to {base.spec or 'a model'} of {base.blocks} blocks of width {base.width}, and "
                f"{backbone.spec} has {backbone.depth} of width {anatomy.width}."
            )
        if not force and weights_hash(backbone) != base.weights_sha256:
            fitted = f": it was fitted on {base.title}{f' with {base.file}' if base.file else ''}" if base.spec else ""
            half = " Repair a model before it is turned to half precision." if _is_half(backbone) else ""
            raise UserError(
                f"this repair belongs to other weights than those of {backbone.spec}{fitted}; fit it again (or "
                f"`apply(force=True)` in Python).{half}"
            )
        if not force:
            self._refuse_other_edits(backbone)

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

    def _refuse_other_edits(self, backbone: Backbone) -> None:
        """Raise UserError if the model has other repairs than the one that this repair was fitted on."""
        wanted, had = tuple(self.record.base.edits), backbone.edit_names
        if not self.record.base.says("edits") or had == wanted:
            return
        if had != wanted[: len(had)]:
            raise UserError(
                f"{self.name} was fitted on a model {_repaired_by(wanted)}, and {backbone.spec} is one {_repaired_by(had)}; "
                "fit it again on that one."
            )
        first = wanted[len(had) :]
        raise UserError(
            f"{self.name} was fitted on a model {_repaired_by(wanted)}; {' + '.join(first)} comes first: name the model that "
            "it repaired, fixed:A where A is its folder (in Python b.apply(a.apply(backbone)))."
        )


def _repaired_by(names: Sequence[str]) -> str:
    return f"repaired by {' + '.join(names)}" if names else "without a repair"


def _is_half(backbone: Backbone) -> bool:
    return any(each.dtype in (torch.float16, torch.bfloat16) for each in backbone.original.parameters())


def content_hash(details: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return 16 hexadecimal digits that name what a repair computes with.

    Args:
        details: as they stand in repair.json.
    """
    digest = hashlib.sha256(json.dumps(details, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


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
    if record.sha256 and record.sha256 != content_hash(held["details"], tensors):
        raise UserError(f"{place} is damaged: {RECORD} and {TENSORS} are not of one repair; fit the repair again.")
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
