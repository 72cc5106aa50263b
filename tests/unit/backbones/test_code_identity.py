"""What tells models of no library apart: their code, their layout, forwards that were replaced; and edits by all that they read."""

import importlib
import sys
import types

import pytest
import torch
from torch import nn

from vitreg.backbones import Backbone, Edit
from vitreg.backbones.identity import code_of, identity_of
from vitreg.models.vit import VisionTransformer


def network(code):
    """A class of a user's module, from its code."""
    module = types.ModuleType("their_models")
    exec("import torch\nfrom torch import nn\n" + code, module.__dict__)
    module.Net.__module__ = "their_models"
    return module.Net()


ONE = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
    def forward(self, x):
        return self.layer(x) * 1.0
"""


def test_a_model_of_a_library_has_no_code_of_its_own():
    assert code_of(VisionTransformer(32, 8, 24, 1, 2)) == ""
    assert code_of(nn.Linear(2, 2)) == ""


def test_another_forward_is_another_code_and_the_same_is_the_same():
    first, again, other = network(ONE), network(ONE), network(ONE.replace("1.0", "1.5"))
    assert code_of(first) == code_of(again) != ""
    assert code_of(first) != code_of(other)
    inside = nn.Sequential(nn.Identity(), other)
    assert code_of(inside) not in ("", code_of(nn.Sequential(nn.Identity(), first)))


def test_code_that_imports_as_it_runs_cannot_be_identified():
    lazy = ONE.replace("        return", "        from their_settings import SCALE\n        return")
    assert code_of(network(lazy)) is None
    assert code_of(network(ONE.replace("        return", "        import math\n        return"))) != ""


@pytest.fixture
def from_file(tmp_path, monkeypatch):
    """The class of a module in a file, imported anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files of one second and size would be taken for one another

    def load(code):
        (tmp_path / "hub_like.py").write_text(
            "import logging\nfrom torch import nn\nlogger = logging.getLogger()\n" + code
        )
        sys.modules.pop("hub_like", None)
        importlib.invalidate_caches()
        return importlib.import_module("hub_like").Net()

    yield load
    sys.modules.pop("hub_like", None)


def test_a_model_in_a_file_is_identified_whatever_it_reads(from_file):
    """As repositories of torch.hub, which read their logger."""
    logged = ONE.replace("        return", "        logger.debug('x')\n        return")
    first = code_of(from_file(logged))
    assert first
    assert code_of(from_file(logged)) == first
    assert code_of(from_file(logged.replace("1.0", "1.5"))) != first


def test_a_file_that_was_changed_after_it_was_imported_is_not_what_runs(from_file, tmp_path):
    loaded = from_file(ONE)
    (tmp_path / "hub_like.py").write_text((tmp_path / "hub_like.py").read_text().replace("1.0", "1.5"))
    mixed = code_of(loaded)
    assert mixed != code_of(from_file(ONE.replace("1.0", "1.5")))


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def __getitem__(self, place):
        return 2.0


class Other(Scaled):
    def __getitem__(self, place):
        return 3.0


def test_methods_with_names_of_python_are_read():
    assert identity_of((1,)) == identity_of((1,))
    from vitreg.backbones.identity import _of_class

    assert _of_class(Scaled, frozenset()).partition(" ")[2] != _of_class(Other, frozenset()).partition(" ")[2]


def test_a_replaced_forward_features_is_seen():
    model = VisionTransformer(32, 8, 24, 1, 2)
    assert Backbone(model).hooked is None
    before = model.forward_features
    model.forward_features = lambda images: before(images) * 3
    assert Backbone(model).hooked == "VisionTransformer"


def test_places_in_a_picture_are_refused_where_images_are_edited():
    from vitreg.errors import UserError
    from vitreg.verbs.discover.model import DiscoverModel

    edited = Backbone(VisionTransformer(32, 8, 24, 1, 2)).edited(
        [Edit("image", None, lambda images, place: images)], "ring"
    )
    with pytest.raises(UserError, match=r"boxes of .* would lie in the wrong place: an edit changes its images"):
        DiscoverModel(edited, 32)
    assert torch.is_tensor(edited(torch.zeros(1, 3, 32, 32)).values)
