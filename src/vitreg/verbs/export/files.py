"""Weights alone as a file of safetensors, and how the tokens of a model are named in the metadata of every export."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.backbones.weights.into_module import load_weights
from vitreg.errors import UserError
from vitreg.tokens import TokenLayout
from vitreg.verbs.export.model import Answers, Model, answers

SCHEMA = "vitreg.export/1"  # marks every export, so a later export may replace it


def described(layout: TokenLayout) -> dict[str, object]:
    """Return which token plays which role, as JSON for the metadata of an export.

    Tokens are named by their places in the sequence. `cls` and `registers` are lists of places, and so is `other`, for
    tokens of neither kind; `grid` is [rows, columns] of the patches. Where the patches follow one another row by row,
    `patches` is [place of the first, place after the last]. Where they do not, `patch_index` stands instead: the place
    of each patch, as `TokenLayout.patch_index` gives it, -1 for a patch that is not in the sequence.
    """
    found: dict[str, object] = {"cls": list(layout.cls), "registers": list(layout.registers), "grid": list(layout.grid)}
    if layout.other:
        found["other"] = list(layout.other)
    if isinstance(layout.patches, slice):
        return {**found, "patches": [layout.patches.start, layout.patches.stop]}
    return {**found, "patch_index": layout.patch_index.tolist()}


def write_safetensors(model: Model, place: Path) -> list[str]:
    """Write the weights: those of vitreg's own ViT by timm's names, others by their own.

    Raises:
        UserError: for registers that the model has no place for.
    """
    if model.registers is not None:
        raise UserError(
            f"{model.backbone.spec} has no parameter for the registers of its repair; export it to timm, hf or onnx."
        )
    state = model.backbone.original.state_dict() if model.network is None else model.network.published_state()
    save_file(
        {name: value.detach().clone().contiguous() for name, value in state.items()},  # clone: two names, one tensor
        place,
        metadata={"format": "pt", "schema": SCHEMA, "vitreg": json.dumps(described(model.layout))},
    )
    return []


@torch.no_grad()
def answers_of_safetensors(model: Model, place: Path, images: Tensor) -> Answers:
    """Load the file strictly into a copy that had other weights, and run it."""
    if model.network is not None:
        network = copy.deepcopy(model.network)
        network.init_weights()
        load_weights(network, place, grid=network.grid, strict=True)
        return answers(network, images)
    other = copy.deepcopy(model.backbone.original)
    for each in other.parameters():
        each.zero_()
    other.load_state_dict(load_file(place), strict=True)
    return Model(Backbone(other), None, None, model.size).answers(images)
