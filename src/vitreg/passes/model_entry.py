"""The model's entry in the record of an evaluation."""

from __future__ import annotations

from vitreg.backbones import Backbone
from vitreg.results import EvalModel


def model_entry(backbone: Backbone) -> EvalModel:
    """Return the model's entry in an evaluation record: spec, library, shape, weights and notes."""
    anatomy = backbone.anatomy
    return EvalModel(
        spec=backbone.spec,
        library=anatomy.library,
        blocks=backbone.depth,
        width=anatomy.width,
        registers=len(anatomy.layout(anatomy.native_size).registers),
        patch=anatomy.patch,
        weights=backbone.weights_source,
        weights_sha256=backbone.weights_sha256,
        notes=list(backbone.notes),
    )
