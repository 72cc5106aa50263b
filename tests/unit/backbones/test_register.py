"""A class that a stranger describes is taken like any other model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitreg
from vitreg import plugins
from vitreg.backbones.anatomy import find
from vitreg.errors import UserError
from vitreg.testing.toys import RegistersBetween, ToyViT

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(find, "_registered", {})


def test_the_examples_of_the_documents_run_and_do_what_they_say():
    text = (Path(__file__).parents[3] / "docs/models.md").read_text()
    names: dict[str, Any] = {"__name__": __name__}
    for block in text.split("```python")[1:]:
        exec(compile(block.split("```")[0], "docs/models.md", "exec"), names)
    assert names["report"]["attention"] == "held"
    assert names["result"].model.tokens == {"cls": 1, "registers": 0, "other": 0, "patches": 64}
    assert names["layout"].patch(1, 0) == 5
    anatomy = text.split("def anatomy(vit):")[1].split("\n\n\n")[0]
    assert len(anatomy.strip().splitlines()) + 2 <= 10  # with the line of `def` and that of `register`


def test_an_instance_is_loaded_and_its_precision_chosen():
    vitreg.register(RegistersBetween, RegistersBetween.anatomy)
    model = RegistersBetween()
    loaded = vitreg.load(model)
    assert loaded.module is model
    assert loaded.prepared().size == (32, 32)
    assert vitreg.load(model, precision="bf16").dtype == torch.bfloat16  # a copy, described anew
    assert next(model.parameters()).dtype == torch.float32
    wrapper = nn.Module()
    wrapper.module = model
    assert vitreg.load(wrapper).anatomy.tower is model


def test_a_subclass_counts_until_it_is_registered_itself():
    vitreg.register(ToyViT, ToyViT.anatomy)
    assert vitreg.load(RegistersBetween()).anatomy.library == "toy"

    class Other(ToyViT):
        pass

    calls = []
    vitreg.register(Other, lambda vit: calls.append(vit) or vit.anatomy())
    vitreg.load(Other())
    assert calls
    calls.clear()
    vitreg.load(ToyViT())
    assert not calls


def test_what_is_registered_comes_before_what_vitreg_knows_itself():
    from vitreg.models.vit import VisionTransformer

    known = find.find_anatomy(VisionTransformer(32, 8, 24, 2, 3))
    vitreg.register(VisionTransformer, lambda _vit: known)
    assert find.find_anatomy(VisionTransformer(32, 8, 24, 2, 3)) is known


def test_mistakes_are_one_sentence():
    with pytest.raises(UserError, match=r"takes a class of nn\.Module, not"):
        vitreg.register(ToyViT(), ToyViT.anatomy)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a function from a ToyViT to its Anatomy, not None"):
        vitreg.register(ToyViT, None)  # type: ignore[arg-type]
    vitreg.register(ToyViT, lambda _vit: {})  # type: ignore[arg-type, return-value]
    with pytest.raises(UserError, match=r"registered for ToyViT returned \{\}; it returns a vitreg\.Anatomy"):
        vitreg.load(ToyViT())


def test_an_anatomy_may_be_a_plug_in(monkeypatch):
    with pytest.raises(UserError, match=r"vitreg\.register\(CLASS, FUNCTION\)"):
        vitreg.load(ToyViT())
    monkeypatch.setitem(plugins._added["anatomy"], "toys", lambda m: m.anatomy() if isinstance(m, ToyViT) else None)
    assert vitreg.load(ToyViT()).anatomy.library == "toy"
    with pytest.raises(UserError, match="not a Vision Transformer known here"):
        vitreg.load(nn.Linear(2, 2))
