"""Edits of a running model: order, state, layouts, identity, threads; and nothing of them is left behind."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.backbones.edits.small_edits import Extra, Scale, Shift
from torch import Tensor, nn

from vitreg.backbones import Backbone, Capture, Edit, Place
from vitreg.backbones.sites import IN_BLOCKS, SITES, Site
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer

pytestmark = pytest.mark.usefixtures("few_resamples", "blank_figures")


def test_nested_edits_run_from_the_inner_model_outwards_and_those_of_a_set_in_their_order(vit, images) -> None:
    calls: list[str] = []

    def tell(word: str) -> Edit:
        return Edit("block", 1, lambda hidden, _: calls.append(word) or hidden)

    inner = Backbone(vit).edited([tell("first"), tell("second")], "inner")
    outer = inner.edited([tell("third")], "outer")
    outer.trace(images, Capture(), [tell("fourth")])
    assert calls == ["first", "second", "third", "fourth"]


def test_edits_of_a_set_share_a_state_that_ends_with_the_forward(vit, images) -> None:
    def mark(hidden: Tensor, place: Place) -> Tensor:
        assert not place.state
        place.state["largest"] = hidden.norm(dim=-1).argmax(1)
        return hidden

    def read(hidden: Tensor, place: Place) -> Tensor:
        assert set(place.state) == {"largest"}
        return hidden

    def stranger(hidden: Tensor, place: Place) -> Tensor:
        assert not place.state
        return hidden

    edited = Backbone(vit).edited([Edit("block", 0, mark), Edit("mlp", 1, read)], "marks")
    edited = edited.edited([Edit("block", 2, stranger)], "another set")
    for _ in range(2):
        edited(images)


def test_an_edited_model_is_a_backbone_of_its_own_and_the_first_stays_as_it_was(vit, images) -> None:
    plain = Backbone(vit, spec="mine")
    before = plain(images).values
    edited = plain.edited([Edit("block", 0, Scale(0.5))], "halved")
    by_hand = vit.norm(vit.blocks[2](vit.blocks[1](0.5 * vit.blocks[0](vit.embed(images)))))
    torch.testing.assert_close(edited(images).values, by_hand)
    assert torch.equal(edited(images).values, edited.trace(images, Capture(norms="all")).final.values)
    assert edited.spec == "mine + halved"
    assert "halved" in edited.notes[-1]
    assert torch.equal(plain(images).values, before)
    assert plain.spec == "mine"


def test_tokens_are_added_before_the_patches_and_every_layout_says_so(vit, images) -> None:
    edited = Backbone(vit).edited([Edit("input", None, Extra(2))], "two more")
    layout = edited.layout((32, 32))
    assert layout.registers == (1, 2, 3, 4)
    assert layout.patches == slice(5, 21)
    tokens = edited(images)
    assert tokens.layout == layout
    trace = edited.trace(images, Capture(input=True, hidden="all", rows=("all", [20])))
    assert torch.equal(trace.input[:, 3:5], torch.zeros(2, 2, 24))
    assert trace.attention(0, [20]).shape == (2, 3, 1, 21)
    x = vit.embed(images)
    x = torch.cat([x[:, :3], torch.zeros(2, 2, 24), x[:, 3:]], 1)
    for block in vit.blocks:
        x = block(x)
    torch.testing.assert_close(tokens.values, vit.norm(x))


def test_a_ring_around_the_image_gives_a_larger_grid(vit, images) -> None:
    def ring(pictures: Tensor, _place: Place) -> Tensor:
        return torch.nn.functional.pad(pictures, (8, 8, 8, 8))

    edited = Backbone(vit).edited([Edit("image", None, ring)], "ring")
    assert edited.layout((32, 32)).grid == edited(images).layout.grid == (6, 6)


def test_a_function_that_changes_the_number_of_tokens_says_the_layout(vit, images) -> None:
    edited = Backbone(vit).edited([Edit("block", 0, lambda hidden, _: hidden[:, 1:])], "drop")
    with pytest.raises(UserError, match=r"the output of block 0 returned 18 tokens.*19.*layout\(before\)"):
        edited(images)


def test_the_whole_call_may_run_several_times_within_its_edit(vit, images) -> None:
    def flipped_too(given: Tensor, place: Place) -> Any:
        assert place.run is not None
        there, back = place.run(given), place.run(given.flip(-1))
        return replace(there, values=(there.values + back.values) / 2)

    plain = Backbone(vit)
    edited = plain.edited([Edit("forward", None, flipped_too)], "two views").edited(
        [Edit("block", 0, Scale(2))], "scaled"
    )
    scaled = plain.edited([Edit("block", 0, Scale(2))], "scaled")
    wanted = (scaled(images).values + scaled(images.flip(-1)).values) / 2
    assert torch.equal(edited(images).values, wanted)
    trace = edited.trace(images, Capture(hidden=[-1]))
    assert torch.equal(trace.final.values, wanted)
    assert torch.equal(trace.hidden(-1), scaled.trace(images, Capture(hidden=[-1])).hidden(-1))


def test_a_hundred_random_nestings_leave_the_model_and_its_output_bit_equal(vit, images) -> None:
    draw = random.Random(0)
    backbone = Backbone(vit)
    before = backbone(images).values
    state = {name: (value.clone(), value.data_ptr()) for name, value in vit.state_dict().items()}

    def fail(value: Any, _place: Place) -> Any:
        raise ZeroDivisionError

    def some() -> Edit:
        site: Site = draw.choice([site for site in SITES if site != "forward"])
        function = fail if draw.random() < 0.2 else Extra(1) if site == "input" else Scale(draw.choice([0.5, 1.0, 2.0]))
        return Edit(site, draw.randrange(3) if site in IN_BLOCKS else None, function)

    failed = 0
    for _ in range(100):
        edited = backbone
        for depth in range(draw.randint(1, 4)):
            edited = edited.edited([some() for _ in range(draw.randint(1, 3))], f"set {depth}")
        try:
            edited(images)
        except ZeroDivisionError:
            failed += 1
        assert torch.equal(backbone(images).values, before)
    assert 10 < failed < 90
    assert all(
        torch.equal(value, state[name][0]) and value.data_ptr() == state[name][1]
        for name, value in vit.state_dict().items()
    )
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vit.modules())


def test_threads_do_not_see_one_anothers_edits(vit, images) -> None:
    vit.train()
    backbones = [Backbone(vit), *(Backbone(vit).edited([Edit("block", 1, Scale(f))], str(f)) for f in (0.5, 2.0))]
    wanted = [backbone(images).values for backbone in backbones]
    wrong: list[int] = []
    ready = threading.Barrier(len(backbones))

    def run(index: int) -> None:
        ready.wait(30)
        for _ in range(30):
            found = backbones[index].trace(images, Capture(norms="all")).final.values
            if not torch.equal(found, wanted[index]):
                wrong.append(index)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(backbones))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong
    assert all(module.training for module in vit.modules())
    assert torch.backends.mha.get_fastpath_enabled()


class TestIdentity:
    def of(self, *edits: Edit) -> str | None:
        return Backbone(VisionTransformer(32, 8, 24, 3, 3)).edited(edits, "name").edits_identity

    def test_equal_edits_have_equal_identities_and_any_difference_shows(self) -> None:
        one = self.of(Edit("block", 1, Scale(0.5)))
        assert one == self.of(Edit("block", 1, Scale(0.5)))
        others = [
            self.of(Edit("block", 1, Scale(0.25))),
            self.of(Edit("block", 2, Scale(0.5))),
            self.of(Edit("mlp", 1, Scale(0.5))),
            self.of(Edit("block", 1, Scale(0.5)), Edit("block", 1, Scale(0.5))),
            self.of(Edit("block", 1, Shift(torch.zeros(24)))),
            self.of(Edit("block", 1, Shift(torch.zeros(1, 24)))),
            self.of(Edit("block", 1, Shift(torch.zeros(24, dtype=torch.float64)))),
            self.of(Edit("block", 1, Shift(torch.ones(24)))),
        ]
        assert len({one, *others}) == len(others) + 1
        assert None not in others

    def test_a_model_without_edits_has_the_empty_identity(self) -> None:
        assert Backbone(VisionTransformer(32, 8, 24, 3, 3)).edits_identity == ""

    @pytest.mark.parametrize("function", [lambda value, _: value, Scale.__call__, nn.Identity(), Shift(lambda: 0)])  # type: ignore[arg-type]
    def test_what_cannot_be_told_apart_has_none(self, function: Any) -> None:
        assert self.of(Edit("block", 1, function)) is None
        assert self.of(Edit("block", 0, Scale(1.0)), Edit("block", 1, function)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("blocks", 1), "no site 'blocks' to edit; the sites are forward, image, input"),
        (("block", None), "'block' is in a block, so it needs its index"),
        (("input", 0), "'input' is in no block: its layer is None"),
    ],
)
def test_a_site_that_does_not_exist_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Edit(arguments[0], arguments[1], lambda value, _: value)


def test_a_block_that_does_not_exist_is_refused_at_once(vit) -> None:
    with pytest.raises(UserError, match="no block 9"):
        Backbone(vit).edited([Edit("block", 9, Scale(1.0))], "none")


def test_readers_that_know_one_layout_refuse_tokens_that_come_and_go(vit) -> None:
    backbone = Backbone(vit).edited([Edit("input", None, Extra(1)), Edit("block", 1, Extra(1))], "growing")
    assert [len(layout.registers) for layout in backbone.layouts((32, 32))] == [3, 3, 4, 4]
    with pytest.raises(UserError, match="different tokens in different blocks"):
        backbone.one_layout((32, 32))
    assert Backbone(vit).one_layout((32, 32)) == Backbone(vit).layout((32, 32))


def test_a_scan_and_maps_take_an_edited_model(vit, images) -> None:
    import vitreg

    def large(hidden: Tensor, place: Place) -> Tensor:
        hidden = hidden.clone()
        hidden[:, place.layout.patches.start] *= 100
        return hidden

    edited = Backbone(vit).edited([Edit("block", 1, large)], "one patch x100")
    result = vitreg.scan(edited, torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(2)))
    assert (result.verdict.kind, result.verdict.first_layer) == ("position-locked", 1)
    assert "one patch x100" in result.model.spec


def test_the_example_of_the_documents_runs_and_does_what_it_says() -> None:
    text = (Path(__file__).parents[4] / "docs/edits.md").read_text()
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(text.split("```python")[1].split("```")[0], "docs/edits.md", "exec"), names)
    norms = names["clipped"].trace(names["images"], Capture(norms="all")).norms(-1)
    plain = names["backbone"].trace(names["images"], Capture(norms="all")).norms(-1)
    assert float((norms / norms.median(1, keepdim=True).values).max()) < 2.01
    assert torch.equal(norms < plain * 0.999, plain > 2.0 * plain.median(1, keepdim=True).values)
    assert names["clipped"].edits_identity
