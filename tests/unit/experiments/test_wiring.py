"""How registers are wired into a model is found by changing things, and a model wired otherwise is seen to be."""

import pytest
import torch

from vitreg.backbones import Backbone
from vitreg.experiments.pictures import fig06
from vitreg.experiments.pictures.wiring import wiring
from vitreg.models.vit import VisionTransformer
from vitreg.records.reproduction import Measured


def model(**words):
    torch.manual_seed(0)
    return VisionTransformer(32, 8, 48, 2, 3, **{"registers": 3, **words})


def outcomes(module):
    numbers, order = wiring(Backbone(module))
    claims = fig06.EXPERIMENT.claims([Measured(subject="a", numbers=numbers, series={"order": order})])
    return {claim.id: claim.outcome for claim in claims}


@pytest.mark.parametrize("words", [{}, {"pre_norm": True}, {"pool": "mean"}, {"cls_token": False}])
def test_registers_as_in_the_paper(words):
    assert outcomes(model(**words)) == {"no-position": "held", "dropped": "held"}


def test_registers_with_positions_are_not_as_in_the_paper():
    assert outcomes(model(register_positions=True))["no-position"] == "not held"


def test_an_output_that_averages_registers_does_not_drop_them():
    timm = pytest.importorskip("timm")
    words = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 3,
        "reg_tokens": 3,
        "num_classes": 5,
    }
    for over, outcome in ((False, "held"), (True, "not held")):
        pooled = timm.models.VisionTransformer(**words, global_pool="avg", pool_include_prefix=over)
        torch.nn.init.normal_(pooled.head.weight)
        assert outcomes(pooled.eval())["dropped"] == outcome


def test_of_a_model_without_registers_nothing_is_said():
    assert set(outcomes(model(registers=0)).values()) == {"not testable here"}


def test_nothing_stays_changed_and_the_order_is_the_models():
    module = model()
    before = {name: each.clone() for name, each in module.state_dict().items()}
    numbers, order = wiring(Backbone(module))
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    assert order == [1, 1, 2, 3, 0, 16]  # a class token, three registers, 16 patches
    assert (numbers["rows"], numbers["cols"], numbers["patch_height"], numbers["blocks"]) == (4, 4, 8, 2)


def test_the_scheme_is_drawn_from_the_order():
    from vitreg.experiments.pictures.scheme import Scheme, figure

    numbers, order = wiring(Backbone(model()))
    scheme = Scheme.of(Measured(subject="of $mine", numbers=numbers, series={"order": order}))
    assert scheme.runs == (("cls", 1), ("register", 3), ("patch", 16))
    assert scheme.placed == {"patch"}
    texts = {text.get_text() for text in figure(scheme).axes[0].texts}
    assert {"3 registers", "16 patches", "class token", "dropped", "used", "of $mine"} <= texts
