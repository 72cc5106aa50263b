"""Border: the ring's tokens are registers and leave, patches lie where they lay, and the additions are merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vitreg.backbones import Backbone
from vitreg.backbones.anatomy.parts import substituted
from vitreg.backbones.edits import Edit, Place
from vitreg.errors import UserError
from vitreg.models import planted
from vitreg.models.vit import VisionTransformer
from vitreg.repair.fitting import fit_repair
from vitreg.repair.methods.border import AddRing, DropRing, LowRank, ring_of
from vitreg.repair.table.on_planted import patient
from vitreg.tokens import TokenLayout

pytestmark = pytest.mark.usefixtures("planted_once")


@pytest.fixture(scope="module")
def small() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer((24, 32), 8, 24, 2, 3, registers=1).eval()


def test_the_outermost_patches_are_registers_and_leave_again() -> None:
    whole = TokenLayout.prefixed((5, 6), cls_tokens=1, registers=2)
    found = AddRing((8, 8)).layout(whole)
    assert found.grid == (3, 4)
    ring = [whole.patch(r, c) for r in range(5) for c in range(6) if r in (0, 4) or c in (0, 5)]
    assert found.registers == (1, 2, *ring)
    assert all(found.patch(r, c) == whole.patch(r + 1, c + 1) for r in range(3) for c in range(4))
    assert ring_of(found) == ring
    left = DropRing().layout(found)
    assert left == TokenLayout.prefixed((3, 4), cls_tokens=1, registers=2)
    tokens = torch.arange(33.0).reshape(1, 33, 1)
    dropped = DropRing()(tokens, Place(layer=1, layout=found))
    assert dropped[0, :, 0].tolist() == [i for i in range(33) if i not in ring]
    with pytest.raises(UserError, match="among those of the border"):
        ring_of(TokenLayout.prefixed((3, 4), registers=1))


def test_the_ring_is_zero_one_patch_wide_and_leaves_out_what_no_patch_covers() -> None:
    images, layout = torch.randn(2, 3, 17, 25), TokenLayout.prefixed((2, 3))
    found = AddRing((8, 8))(images, Place(layer=None, layout=layout))
    assert found.shape == (2, 3, 32, 40)
    assert torch.equal(found[..., 8:24, 8:32], images[..., :16, :24])
    assert float(found.abs().sum()) == pytest.approx(float(images[..., :16, :24].abs().sum()), rel=1e-5)


def test_patches_stay_where_they_lie_in_the_picture(small: VisionTransformer) -> None:
    backbone = Backbone(small)
    edited = backbone.edited([Edit("image", None, AddRing((8, 8)))], "border")
    edited.refuse_edited_images("boxes")
    assert edited.layout((24, 32)).grid == (3, 4)
    assert edited.covered((24, 32)) == (24, 32)
    # Each patch alone is bright; it is the patch that changes most before attention mixes them.
    for place in range(12):
        images = torch.zeros(1, 3, 24, 32)
        row, col = divmod(place, 4)
        images[..., row * 8 : row * 8 + 8, col * 8 : col * 8 + 8] = 5
        changed = edited.trace(images).layout_before(0).take(_input(edited, images) - _input(edited, images * 0))
        assert int(changed[0].norm(dim=-1).argmax()) == place
    other = Edit("image", None, _Shifted())
    with pytest.raises(UserError, match="wrong place"):
        backbone.edited([other], "shifted").refuse_edited_images("boxes")


class _Shifted:
    def __call__(self, images: torch.Tensor, _place: Place) -> torch.Tensor:
        return images.roll(1, -1)


def _input(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    from vitreg.backbones import Capture

    return backbone.trace(images, Capture(input=True)).input


def test_additions_of_low_rank_are_the_naive_sum_and_zero_at_first(small: VisionTransformer) -> None:
    backbone, images = Backbone(small), torch.randn(1, 3, 24, 32)
    low = LowRank(backbone, 2, 0)
    assert all(torch.equal(value, small.get_parameter(name)) for name, value in low.merged().items())
    assert len(low.merged()) == 4  # fused qkv and proj of two blocks
    for b in low.b:
        torch.nn.init.normal_(b)
    names = list(low.merged())
    for index, name in enumerate(names):
        wanted = small.get_parameter(name) + sum(
            torch.outer(low.b[index][:, rank], low.a[index][rank]) for rank in range(2)
        )
        torch.testing.assert_close(low.merged()[name], wanted)
    before = backbone(images).values
    with substituted(*low.changed()):
        inside = backbone(images).values
    assert not torch.allclose(inside, before)
    assert torch.equal(backbone(images).values, before)


@pytest.mark.parametrize("random", [False, True])
def test_it_is_trained_and_its_control_is_the_border_alone(random: bool, photographs: list[Path]) -> None:
    model = planted.build("position-locked", 0, image_size=112)[0]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    repair = fit_repair(model, photographs, "border", limit=16, control=random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    losses = repair.record.details["losses"]
    assert random or losses[1] < losses[0]
    same = [torch.equal(value, state[name]) for name, value in repair.tensors.items()]
    assert len(same) == 24
    assert all(same) if random else not any(same)

    images = torch.randn(2, 3, 112, 112)
    fixed = repair.apply(Backbone(model))(images)
    assert len(fixed.layout.registers) == repair.record.details["tokens added"] == 32
    assert fixed.patches.shape == Backbone(model)(images).patches.shape
    assert repair.apply(model)(images).shape == model(images).shape
    torch.testing.assert_close(repair.apply(model)(images), fixed.cls, atol=1e-5, rtol=1e-4)


def test_models_it_cannot_surround_are_told_so(photographs: list[Path]) -> None:
    import vitreg

    backbone = vitreg.load(planted.build("position-locked", 0)[0])
    anatomy = backbone.anatomy
    backbone.anatomy = replace(anatomy, resizable=False)
    with pytest.raises(UserError, match="one size only"):
        fit_repair(backbone, photographs, "border", limit=12)
    backbone.anatomy = replace(anatomy, attention=())
    with pytest.raises(UserError, match="not recognised"):
        fit_repair(backbone, photographs, "border", limit=12)


@pytest.mark.parametrize("random", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_an_empty_border_takes_the_outliers_of_a_model_that_compares_patches(
    random: bool, photographs: list[Path]
) -> None:
    """The emptiest patches of the picture are outliers, and those of the ring are emptier, trained or not."""
    with patient("comparing", 0, photographs[:12]) as case:
        found = case.after("border", random=random)
        assert found.effect.before > 0.002
        assert found.effect.worst_share < 0.1 * found.effect.before
        assert found.normal >= 0.99
        assert found.outliers >= 0.9 > found.before
    with patient("high-norm", 0, photographs[:12]) as other:
        left = other.after("border", random=True).effect
        assert left.share > 0.3 * left.before  # each of its outliers comes from its patch alone
