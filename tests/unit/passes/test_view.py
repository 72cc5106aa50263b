"""`View`: size, layout, preprocessing and batch of one model, resolved once, against what the model itself says."""

import pytest
import torch
from PIL import Image

from vitreg.backbones import Backbone, Edit
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.passes import view as views
from vitreg.passes.view import images_at_once, view_of, view_of_tensors


def backbone(side=64, patch=16, width=32, **arguments):
    torch.manual_seed(0)
    model = VisionTransformer(side, patch, width, 2, 2, **arguments)
    return Backbone(model, preprocess=Preprocess((side, side), (side, side), IMAGENET.mean, IMAGENET.std))


def test_a_view_is_what_the_model_gets():
    model = backbone(registers=2)
    view = view_of(model, size=(50, 70), policy="pad")
    assert view.size == (64, 80)
    assert view.layout.grid == (4, 5)
    pixels = view.fit(view.pictures(Image.new("RGB", (200, 100), "teal"))[None])
    assert pixels.shape[2:] == view.size
    assert model(pixels).values.shape[1] == view.layout.length == 1 + 2 + 20
    assert view.shown(pixels).shape == (1, 64, 80, 3)


def test_another_size_is_another_view_of_the_same_model():
    view = view_of(backbone(), batch=7)
    other = view.at(32, 96)
    assert (other.size, other.layout.grid) == ((32, 96), (2, 6))
    assert other.pictures(Image.new("RGB", (40, 40))).shape == (3, 32, 96)
    assert view.size == (64, 64)
    assert other.backbone is view.backbone


class OneMore:
    """One token of zeros before the patches."""

    def __call__(self, tokens, place):
        return torch.cat([tokens[:, :1], tokens[:, :1] * 0, tokens[:, 1:]], 1)

    def layout(self, before):
        return before.with_registers(1)


def test_an_edited_model_has_its_own_layout():
    edited = backbone().edited([Edit("input", None, OneMore())], "one more")
    assert view_of(edited).layout.length == view_of(backbone()).layout.length + 1


def test_tensors_are_fitted_and_shown_too():
    view = view_of_tensors(backbone(), torch.zeros(3, 3, 70, 70))
    assert view.size == (64, 64)
    assert view.shown(view.fit(torch.rand(3, 3, 70, 70))).shape == (3, 64, 64, 3)
    with pytest.raises(UserError, match=r"floating point tensor \[n, 3, H, W\]"):
        view_of_tensors(backbone(), torch.zeros(3, 70, 70))


def test_a_size_of_fewer_than_four_patches_is_refused():
    with pytest.raises(UserError, match="fewer than 4 patches of 16x16"):
        view_of(backbone(), size=(16, 32))


@pytest.mark.parametrize(
    ("side", "memory", "expected"), [(64, 2**40, 247), (640, 2**40, 2), (64, 17 * 32 * 64 * 40, 10)]
)
def test_the_batch_fills_the_caches_and_stays_within_a_quarter_of_the_memory(monkeypatch, side, memory, expected):
    monkeypatch.setattr(views, "_memory", lambda _device: memory)
    assert images_at_once(backbone(side=64), (side, side)) == expected


def test_one_image_goes_always(monkeypatch):
    monkeypatch.setattr(views, "_memory", lambda _device: 1)
    assert images_at_once(backbone(), (64, 64)) == 1
    assert view_of(backbone(), batch=5).batch == 5


def test_the_machine_tells_its_memory():
    assert views._memory(torch.device("cpu")) > 2**29
