"""An edit that is lost never looks like one that was made: what cannot stand in a value's place is refused."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tests.apart import apart
from tests.patience import PATIENCE
from torch import Tensor

from vitreg.backbones import Backbone, Capture, Edit, Place
from vitreg.backbones.sites import IN_BLOCKS, SITES, Site
from vitreg.backbones.trace import QKV
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.tokens import Tokens


@pytest.fixture
def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(32, 8, 24, 3, 3, registers=2).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def at(site: Site, function: Any) -> Edit:
    return Edit(site, 1 if site in IN_BLOCKS else None, function)


def tensors(value: Any, change: Any) -> Any:
    """The value with its tensors changed."""
    if isinstance(value, QKV):
        return replace(value, q=change(value.q), k=change(value.k), v=change(value.v))
    return replace(value, values=change(value.values)) if isinstance(value, Tokens) else change(value)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    "wrong",
    [lambda _: None, lambda value: tensors(value, lambda x: x[:1]), lambda _: [1.0]],
    ids=["nothing", "one image", "a list"],
)
def test_what_cannot_stand_in_the_place_of_a_value_is_refused(vit, images, site, wrong) -> None:
    def edit(value: Any, place: Place) -> Any:
        return wrong(value if place.run is None else place.run(value))

    with pytest.raises(UserError, match=r"returned .*it returns"):
        Backbone(vit).edited([at(site, edit)], "wrong")(images)


@pytest.mark.parametrize("site", [site for site in SITES if site not in ("forward", "attention")])
def test_another_type_or_fewer_numbers_are_refused(vit, images, site) -> None:
    for change in (lambda x: x.double(), lambda x: x.mean(-1)):
        with pytest.raises(UserError, match=r"returned .*it returns"):
            Backbone(vit).edited([at(site, lambda value, _place, change=change: change(value))], "wrong")(images)


def test_attention_takes_no_fewer_keys_than_there_are_tokens(vit, images) -> None:
    edit = at("attention", lambda qkv, _: replace(qkv, k=qkv.k[:, :, :5], v=qkv.v[:, :, :5]))
    with pytest.raises(UserError, match="keys and values at least as many"):
        Backbone(vit).trace(images, Capture(rows={1: [0]}), [edit])


@pytest.mark.parametrize("site", [site for site in SITES if site != "forward"])
@pytest.mark.parametrize("inference", [False, True])
def test_an_edit_that_writes_into_what_it_is_given_is_refused(vit, images, site, inference) -> None:
    def write(value: Any, _place: Place) -> Any:
        for x in (value.q, value.k, value.v) if isinstance(value, QKV) else (value,):
            x.mul_(0.5)
        return value

    edited = Backbone(vit).edited([at(site, write)], "in place")
    with torch.inference_mode(inference), pytest.raises(UserError, match="wrote into what it was given"):
        edited.trace(images, Capture(norms="all"))


def test_threads_that_share_the_module_of_an_edited_model_each_get_its_output(vit, images) -> None:
    module = Backbone(vit).edited([at("block", lambda hidden, _: hidden * 0.5)], "halved").module
    wanted = module(images)
    wrong: list[object] = []
    ready = threading.Barrier(4)

    def run() -> None:
        ready.wait(PATIENCE)
        for _ in range(40):
            try:
                found = module(images)
            except BaseException as error:  # one thread's recorder in the hooks of another fails in many ways
                wrong.append(error)
                return
            if not torch.equal(found, wanted):
                wrong.append(found)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not wrong


def test_threads_that_look_into_a_model_leave_compiled_models_compiled(vit, images) -> None:
    def threads_look() -> None:
        import torch._dynamo

        first, second = threading.Event(), threading.Event()

        def look(mine: threading.Event, others: threading.Event) -> None:
            def meet(hidden: Tensor, _place: Place) -> Tensor:
                mine.set()
                assert others.wait(PATIENCE)
                return hidden

            Backbone(vit).trace(images, Capture(norms="all"), [at("block", meet)])

        for _ in range(10):
            first.clear()
            second.clear()
            threads = [threading.Thread(target=look, args=pair) for pair in ((first, second), (second, first))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            assert torch._dynamo.eval_frame._stance.stance == "default"

    apart(threads_look)


def test_gradients_of_a_model_that_runs_its_blocks_again_for_them_are_refused() -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=0).eval()
    pictures = torch.randn(1, 3, 32, 32)
    edited = Backbone(network).edited([at("mlp", lambda hidden, _: hidden * 0.25)], "quarter")
    edited(pictures, grad=True).values.sum().backward()
    network.set_grad_checkpointing(True)
    for run in (lambda: edited(pictures, grad=True), lambda: edited.module(pictures)):
        with pytest.raises(UserError, match="set_grad_checkpointing"):
            run()
    assert torch.isfinite(edited(pictures).values).all()
    assert Backbone(network)(pictures, grad=True).values.requires_grad


FACTOR = 2.0


def _helper(value: Tensor) -> Tensor:
    return value * FACTOR


class TestIdentityOfWhatAnEditDoes:
    def of(self, function: Any) -> str | None:
        return Backbone(VisionTransformer(32, 8, 24, 3, 3)).edited([Edit("block", 1, function)], "name").edits_identity

    def scaled(self, factor: Any) -> Any:
        @dataclass(frozen=True)
        class Scale:
            def __call__(self, value: Tensor, _place: Place) -> Tensor:
                return value * factor

        return Scale()

    def test_what_a_function_closes_over_shows(self) -> None:
        assert None is not self.of(self.scaled(0.5)) == self.of(self.scaled(0.5)) != self.of(self.scaled(2.0))
        assert self.of(self.scaled(threading.Lock())) is None

    def test_a_class_of_the_same_name_that_does_something_else_has_another(self) -> None:
        @dataclass(frozen=True)
        class Edited:
            def __call__(self, value: Tensor, _place: Place) -> Tensor:
                return value * 2

        first = self.of(Edited())

        @dataclass(frozen=True)
        class Edited:  # type: ignore[no-redef]  # as in a notebook, where a cell is run again
            def __call__(self, value: Tensor, _place: Place) -> Tensor:
                return value * 3

        assert None is not first != self.of(Edited()) is not None

    def test_values_and_helpers_outside_of_a_class_show(self, monkeypatch) -> None:
        @dataclass(frozen=True)
        class Helped:
            def __call__(self, value: Tensor, _place: Place) -> Tensor:
                return _helper(value)

        first = self.of(Helped())
        monkeypatch.setitem(globals(), "FACTOR", 3.0)
        assert None is not first != self.of(Helped()) is not None
        monkeypatch.setitem(globals(), "FACTOR", threading.Lock())
        assert self.of(Helped()) is None

    @pytest.mark.parametrize("value", [torch.eye(2).to_sparse(), torch.empty(2, device="meta"), {1, 2}])
    def test_values_that_cannot_be_told_apart_have_none(self, value) -> None:
        assert self.of(self.scaled(value)) is None
