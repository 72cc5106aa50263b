"""A classifier is looked for in models of every kind, and one that cannot run on images alone has none."""

import open_clip
import pytest
import timm
import torch
from tests.unit.repair.causal.reading_sinks import SIDE, WIDTH, network
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.backbones.edits import Edit
from vitreg.repair.logits import classifies
from vitreg.repair.methods.border import AddRing

IMAGE = torch.zeros(1, 3, SIDE, SIDE)


def test_a_head_is_a_classifier_and_a_model_without_has_none() -> None:
    assert classifies(Backbone(network()), IMAGE)
    assert not classifies(Backbone(network(classes=0)), IMAGE)


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError, AttributeError, AssertionError])
def test_a_model_that_takes_more_than_images_has_none(error: type[Exception]) -> None:
    """transformers' CLIP fails with an AttributeError where it is given text in the place of pixels."""
    model = network()
    backbone = Backbone(model, find_anatomy(model))

    def fails(_images: Tensor) -> Tensor:
        raise error("pixel_values are missing")

    model.forward = fails
    assert not classifies(backbone, IMAGE)


def test_an_embedding_is_no_class_though_a_linear_layer_gives_it() -> None:
    """Towers of SigLIP pool by attention, whose linear layers have the width of the output; open_clip's project."""
    pooled = timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, patch_size=8, num_classes=0, global_pool="map"
    ).eval()
    assert not classifies(Backbone(pooled), IMAGE)
    tower = open_clip.model._build_vision_tower(
        24, open_clip.CLIPVisionCfg(image_size=SIDE, patch_size=8, width=32, layers=2, head_width=16)
    ).eval()
    assert not classifies(Backbone(tower), IMAGE)
    projected = timm.create_model(
        "eva02_base_patch16_clip_224", img_size=SIDE, embed_dim=32, depth=2, num_heads=2
    ).eval()
    assert projected.pretrained_cfg["num_classes"] == projected.num_classes == 512
    assert not classifies(Backbone(projected), IMAGE)
    own = timm.create_model(
        "eva02_base_patch16_clip_224", img_size=SIDE, embed_dim=32, depth=2, num_heads=2, num_classes=7
    ).eval()
    assert classifies(Backbone(own), IMAGE)  # a head of one's own, on the same tower


def test_the_mean_of_two_heads_is_a_classifier() -> None:
    distilled = timm.create_model(
        "deit_tiny_distilled_patch16_224",
        img_size=SIDE,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        num_classes=5,
    ).eval()
    for head in (distilled.head, distilled.head_dist):
        torch.nn.init.normal_(head.weight)
    assert classifies(Backbone(distilled), IMAGE)


def rewriting() -> nn.Module:
    """A model without a head, whose last block ends with a linear layer on the class token: what the model returns."""
    model = network(classes=0)
    last = model.blocks[-1]

    class Rewriting(type(last)):
        def forward(self, tokens: Tensor, **words: object) -> Tensor:
            tokens = super().forward(tokens, **words)
            return torch.cat([self.own(tokens[:, 0])[:, None], tokens[:, 1:]], 1)

    last.__class__, last.own, model.norm = Rewriting, nn.Linear(WIDTH, WIDTH), nn.Identity()
    return model.eval()


def test_an_edited_model_is_judged_by_the_original() -> None:
    """The edited module is a copy, so its blocks are not those that the anatomy knows."""
    unchanged = [Edit("mlp", 0, lambda hidden, _place: hidden)]
    assert classifies(Backbone(network()).edited(unchanged, "nothing"), IMAGE)
    for headless in (network(classes=0), rewriting()):
        backbone = Backbone(headless)
        assert not classifies(backbone, IMAGE)
        assert not classifies(backbone.edited(unchanged, "nothing"), IMAGE)


def test_an_edited_model_that_cannot_answer_has_no_classifier() -> None:
    """This module of timm takes one size, which a border changes; one of the whole call has no module."""
    backbone = Backbone(network())
    assert not classifies(backbone.edited([Edit("image", None, AddRing((8, 8)))], "border"), IMAGE)
    assert not classifies(
        backbone.edited([Edit("forward", None, lambda image, place: place.run(image))], "whole"), IMAGE
    )
