"""Lists of neurons that write outliers, kept beside a repair and given again: the schema ``vitreg.neurons/1``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from vitreg.backbones import Backbone
from vitreg.backbones.weights.into_module import sha256_of_weights
from vitreg.documents import read_json
from vitreg.errors import UserError
from vitreg.records import Record
from vitreg.repair.neurons.scores import Neuron, hidden_units
from vitreg.repair.record import RepairRecord

SCHEMA = "vitreg.neurons/1"


class NeuronList(Record):
    """Neurons of one model.

    Args:
        source: found by vitreg (ours), or stated in a publication.
        model: its spec; "" for a module that a caller held.
        weights_sha256: of its tower's tensors; "" if only the name of the model is known.
        score: by which they were ranked.
        order: (block, hidden unit of its MLP), the best first.
    """

    schema_: Literal["vitreg.neurons/1"] = Field(default="vitreg.neurons/1", alias="schema")
    source: Literal["ours", "published"]
    model: str
    weights_sha256: str = ""
    blocks: int
    width: int
    score: str = ""
    order: list[Neuron] = Field(min_length=1)


def list_of(record: RepairRecord) -> NeuronList | None:
    """Return the neurons that a repair edits; None for a repair that edits none, and for a control."""
    order, base = record.details.get("order"), record.base
    if not order or record.random:
        return None
    return NeuronList(
        source="ours", model=base.spec, weights_sha256=base.weights_sha256, blocks=base.blocks, width=base.width,
        score=record.settings.get("score", ""), order=[(block, unit) for block, unit in order],
    )  # fmt: skip


def read_list(file: Path, backbone: Backbone) -> NeuronList:
    """Read the neurons of a model.

    Args:
        file: as `Repair.save` writes it.
    Raises:
        UserError: for a file that is no such list, or one of a model of another shape.
    """
    held = read_json(file)
    schema = held.get("schema") if isinstance(held, dict) else None
    if schema != SCHEMA:
        raise UserError(
            f"{file} is no list of neurons ({SCHEMA}) but of the kind {json.dumps(schema)}; vitreg fix test-time writes one, "
            "neurons.json."
        )
    try:
        found = NeuronList.model_validate(held)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{file} is damaged: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}.") from None
    anatomy, name = backbone.anatomy, found.model or "a module"
    if (backbone.depth, anatomy.width) != (found.blocks, found.width):
        raise UserError(
            f"{file} lists neurons of {name}, which has {found.blocks} blocks of width {found.width}; {backbone.spec} has "
            f"{backbone.depth} of width {anatomy.width}."
        )
    units = hidden_units(backbone)
    strange = [
        (block, unit) for block, unit in found.order if not (0 <= block < len(units) and 0 <= unit < units[block])
    ]
    if strange:
        block, unit = strange[0]
        raise UserError(f"{file} lists neuron {unit} of block {block}, and {backbone.spec} has no such neuron.")
    return found


def others(found: NeuronList, backbone: Backbone) -> str:
    """Return a sentence if the list was found on other weights, else ""."""
    own = backbone.weights_sha256 or sha256_of_weights(backbone.anatomy.tower)
    if not found.weights_sha256 or found.weights_sha256 == own:
        return ""
    return f"The neurons are those of {found.model or 'a module'} with other weights than these."


def by_lot(order: Sequence[Neuron], backbone: Backbone, seed: int) -> list[Neuron]:
    """Return as many neurons of the same blocks, none of the list."""
    units, taken = hidden_units(backbone), set(order)
    blocks = sorted({block for block, _ in order})
    free = [(block, unit) for block in blocks for unit in range(units[block]) if (block, unit) not in taken]
    return [free[index] for index in np.random.default_rng(seed).permutation(len(free))[: len(order)]]
