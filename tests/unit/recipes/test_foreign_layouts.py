"""A base whose patches stand between other tokens, or are dropped, is pooled over its patches alone."""

from __future__ import annotations

import pytest
import torch

import vitreg
from vitreg.backbones.anatomy import find
from vitreg.errors import UserError
from vitreg.recipes.foreign import ForeignNetwork
from vitreg.testing.toys import DropsTokens, RegistersBetween, ToyViT


@pytest.mark.parametrize("toy", [ToyViT, RegistersBetween, DropsTokens])
def test_pooling_reads_what_the_layout_names(toy, monkeypatch):
    monkeypatch.setattr(find, "_registered", {})
    vitreg.register(toy, toy.anatomy)
    images = torch.randn(2, 3, 32, 32)
    tokens = vitreg.load(toy())(images)
    for pool, wanted in (("cls", tokens.cls), ("mean", tokens.mean_patch)):
        network = ForeignNetwork(toy(), 32, pool=pool)
        torch.testing.assert_close(network.pooled(network.forward_features(images)), wanted)
        small = network.forward_features(torch.randn(2, 3, 16, 24))
        if toy is ToyViT:
            assert network.pooled(small).shape == (2, 48)
        else:
            with pytest.raises(UserError, match="known for images of 32x32 pixels only"):
                network.pooled(small)
