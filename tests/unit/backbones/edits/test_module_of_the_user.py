"""The module of an edited model is the user's in all but its edits: class, names, flags, ways to call it, copies."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
from tests.unit.backbones.edits.small_edits import Extra, Scale
from torch import Tensor, nn

from vitreg.backbones import Backbone, Edit, load
from vitreg.backbones.edited_module import edited_in_place, edits_of
from vitreg.backbones.reweighted import replaced_parameters, reweighted
from vitreg.errors import UserError

HALF, DOUBLE = Edit("block", 0, Scale(0.5)), Edit("block", 1, Scale(2.0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5, drop_rate=0.5).eval()


def module_of(model: nn.Module, *edits: Edit) -> Any:
    return Backbone(model).edited(edits, "edited").module


def test_it_is_of_its_class_and_answers_to_every_name_with_the_edits(model: Any, images: Tensor) -> None:
    fixed = module_of(model, HALF)
    assert isinstance(fixed, type(model))
    assert str(type(fixed)) == str(type(model))
    assert list(fixed.state_dict()) == list(model.state_dict())
    assert (fixed.num_classes, fixed.training) == (5, False)
    expected = Backbone(model).edited([HALF], "edited")(images).values
    with torch.no_grad():
        torch.testing.assert_close(fixed.forward_features(images), expected)
        torch.testing.assert_close(fixed.forward_head(expected), fixed(images))
        first, last = fixed.get_intermediate_layers(images, n=2)
        plain, _ = model.get_intermediate_layers(images, n=2)
    torch.testing.assert_close(first, plain / 2)
    torch.testing.assert_close(fixed.norm(last), expected[:, 1:])


def test_parts_of_a_forward_with_added_tokens_are_refused(model: Any, images: Tensor) -> None:
    fixed = module_of(model, Edit("input", None, Extra(1)))
    with pytest.raises(UserError, match="get_intermediate_layers would return the tokens that an edit adds"):
        fixed.get_intermediate_layers(images)
    with pytest.raises(UserError, match=r"takes images \[B, C, H, W\] first, not NoneType"):
        fixed()


def test_images_are_taken_by_keyword_and_the_tower_of_a_larger_model_is_edited(images: Tensor) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    vision = {**small, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**vision)).eval()
    text = {**small, "vocab_size": 9, "eos_token_id": 8}
    clip = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision)).eval()
    words = torch.tensor([[1, 8], [2, 8]])
    with torch.no_grad():
        fixed = module_of(vit, HALF)
        assert fixed.config is not None
        torch.testing.assert_close(fixed(pixel_values=images).logits, fixed(images).logits)
        assert not torch.equal(fixed(pixel_values=images).logits, vit(pixel_values=images).logits)
        both = module_of(clip, HALF)
        found = both(input_ids=words, pixel_values=images)
        assert not torch.equal(found.image_embeds, clip(input_ids=words, pixel_values=images).image_embeds)
        torch.testing.assert_close(found.text_embeds, clip(input_ids=words, pixel_values=images).text_embeds)


def test_a_copy_has_parameters_of_its_own_and_the_edits(model: Any, images: Tensor) -> None:
    fixed = module_of(model, HALF)
    other = copy.deepcopy(fixed)
    with torch.no_grad():
        torch.testing.assert_close(other(images), fixed(images))
        other.blocks[1].mlp.fc1.weight.zero_()
        assert not torch.equal(other(images), fixed(images))
        assert torch.equal(fixed(images), module_of(model, HALF)(images))


def test_a_pickle_is_a_repaired_model_without_vitreg_s_class_and_a_shallow_copy_shares_parameters(
    model: Any, images: Tensor
) -> None:
    fixed = module_of(model, HALF)
    with torch.no_grad():
        expected = fixed(images)
        assert torch.equal(pickle.loads(pickle.dumps(fixed))(images), expected)
        with edited_in_place(model, Backbone(model).edited([HALF], "edited").edit_sets):
            kept = pickle.dumps(model)
        assert torch.equal(pickle.loads(kept)(images), expected)
        assert not torch.equal(model(images), expected)
        shallow = copy.copy(fixed)
        assert torch.equal(shallow(images), expected)
        assert shallow.blocks[1].mlp.fc1.weight is model.blocks[1].mlp.fc1.weight


def test_a_backbone_of_an_edited_module_is_edited(model: Any, images: Tensor) -> None:
    again = Backbone(module_of(model, Edit("input", None, Extra(1)), HALF))
    assert again.edit_names == ("edited",)
    assert len(again(images).layout.registers) == 1
    torch.testing.assert_close(
        again(images).values, Backbone(model).edited([Edit("input", None, Extra(1)), HALF], "edited")(images).values
    )
    loaded = load(module_of(model, HALF), device="cpu", precision="fp32")  # a key of stored features holds its edits
    assert loaded.edit_names == ("edited",)
    assert torch.equal(loaded(images).values, Backbone(model).edited([HALF], "edited")(images).values)
    twice = again.edited([DOUBLE], "again").module
    assert not torch.equal(twice(images), module_of(model, Edit("input", None, Extra(1)), HALF)(images))


def test_in_place_the_object_itself_is_edited_flags_hooks_and_all(model: Any, images: Tensor) -> None:
    kind, plain, seen = type(model), model(images), list[Tensor]()
    wanted = [module_of(model, *edits)(images) for edits in ((HALF,), (HALF, DOUBLE))]
    one, two = (Backbone(model).edited(edits, "edited").edit_sets for edits in ((HALF,), (HALF, DOUBLE)))
    with edited_in_place(model, one):
        torch.testing.assert_close(model(images), wanted[0])
        model.blocks[1].register_forward_hook(lambda _module, _given, found: seen.append(found))
        with edited_in_place(model, two):
            torch.testing.assert_close(model(images), wanted[1])
            assert Backbone(model).edit_names == ("edited",)
        torch.testing.assert_close(model(images), wanted[0])
        assert len(seen) == 2
        model.train()
        torch.manual_seed(0)
        assert not torch.equal(model(images), model(images)), "dropout"
    with pytest.raises(RuntimeError, match="stop"), edited_in_place(model, two):
        raise RuntimeError("stop")
    assert model.training
    assert type(model) is kind
    assert edits_of(model) is None
    assert "_vitreg_edits" not in vars(model)
    assert torch.equal(model.eval()(images), plain)


def test_an_entry_that_stands_in_the_object_is_edited_too(model: Any, images: Tensor) -> None:
    """As accelerate's hooks and patched models have it."""
    held = model.forward
    model.forward = lambda x: 3 * held(x)
    with edited_in_place(model, Backbone(model).edited([HALF], "half").edit_sets):
        found = model(images)
    torch.testing.assert_close(model(images), 3 * held(images))
    del model.forward
    torch.testing.assert_close(found, 3 * module_of(model, HALF)(images))


def test_parameters_are_replaced_in_the_object_and_put_back(model: Any, images: Tensor) -> None:
    name, plain, state = "blocks.0.mlp.fc1.weight", model(images), dict(model.named_parameters())
    weights = {name: 2 * state[name].detach()}
    wanted = reweighted(Backbone(model), weights, "other").module(images)
    with replaced_parameters(model, weights, "other"):
        assert torch.equal(model.state_dict()[name], weights[name])
        assert torch.equal(model(images), wanted)
        assert torch.equal(model.forward_head(model.forward_features(images)), wanted)
    assert all(state[each] is parameter for each, parameter in model.named_parameters())
    assert torch.equal(model(images), plain)
    with (
        edited_in_place(model, Backbone(model).edited([HALF], "half").edit_sets),
        pytest.raises(UserError, match="repair the weights first"),
        replaced_parameters(model, weights, "other"),
    ):
        pass
