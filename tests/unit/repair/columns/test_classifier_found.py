"""A classifier is looked for in models of every kind, and one that cannot run on images alone has none."""

import pytest
import torch
from tests.unit.repair.causal.reading_sinks import SIDE, network
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.repair.columns.logits import classifies

IMAGE = torch.zeros(1, 3, SIDE, SIDE)


def test_a_head_is_a_classifier_and_a_model_without_has_none() -> None:
    assert classifies(Backbone(network()), IMAGE)
    assert not classifies(Backbone(network(classes=0)), IMAGE)


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError, AttributeError])
def test_a_model_that_takes_more_than_images_has_none(error: type[Exception]) -> None:
    """transformers' CLIP fails with an AttributeError where it is given text in the place of pixels."""
    model = network()
    backbone = Backbone(model, find_anatomy(model))

    def fails(_images: Tensor) -> Tensor:
        raise error("pixel_values are missing")

    model.forward = fails
    assert not classifies(backbone, IMAGE)
