"""A run whose network has a part of somebody's own is opened with their code, if it is trusted."""

import sys

import pytest
import torch

import vitreg
from vitreg import UserError
from vitreg.models.settings import ModelConfig
from vitreg.models.vit import VisionTransformer
from vitreg.training import checkpoint

CODE = "from torch import nn\ndef norm(width, eps):\n    return nn.LayerNorm(width, eps=eps, bias=False)\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "norms_of_mine.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = ModelConfig(width=32, depth=2, heads=4, patch=8, image_size=32, norm="norms_of_mine:norm")
    network = VisionTransformer(**model.arguments()).eval()
    folder = tmp_path / "run"
    folder.mkdir()
    checkpoint.publish(folder, network.published_state(), {"model": model.published_arguments(), "step": 3})
    yield folder, network
    sys.modules.pop("norms_of_mine", None)


def test_it_runs_with_the_part(run):
    folder, network = run
    images = torch.randn(1, 3, 32, 32)
    opened = vitreg.load(f"run:{folder}", trust=True, precision="fp32")
    torch.testing.assert_close(opened(images).values, network.forward_features(images))


def test_without_trust_nothing_is_imported(run):
    folder, _ = run
    sys.modules.pop("norms_of_mine")
    with pytest.raises(UserError, match=r"runs the code of norms_of_mine:norm; add trust"):
        vitreg.load(f"run:{folder}")
    assert "norms_of_mine" not in sys.modules


def test_a_part_that_is_gone_is_one_sentence(run):
    folder, _ = run
    (folder.parent / "norms_of_mine.py").unlink()
    sys.modules.pop("norms_of_mine")
    with pytest.raises(UserError, match="no module 'norms_of_mine'"):
        vitreg.load(f"run:{folder}", trust=True)
