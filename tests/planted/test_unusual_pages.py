"""Pages and sheets of models of unusual build are drawn whole: what is gone is empty, and no attention is said."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

import vitreg
from vitreg.backbones import Backbone
from vitreg.report.scan.kept import read_examples
from vitreg.testing.toys import TOYS, WHITE, DropsTokens, TokenMixer

pytestmark = pytest.mark.usefixtures("few_resamples", "coarse_figures")


@pytest.fixture(scope="module")
def images():
    """Noise with one white patch in each image, and its cell."""
    pixels = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.3
    cells = [number % 16 for number in range(32)]
    for image, cell in zip(pixels, cells, strict=True):
        row, col = divmod(cell, 4)
        image[:, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8] = WHITE
    return pixels, cells


@pytest.mark.parametrize("toy", TOYS)
def test_the_page_of_a_scan(toy, images, tmp_path):
    model = toy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = vitreg.scan(Backbone(model, model.anatomy()), images[0], out=tmp_path, examples=4)
    assert not found.undrawn
    page = (tmp_path / "report.html").read_text()
    assert ("no attention" in page) == (toy is TokenMixer)
    peak = found.own_median.layer
    gone = np.arange(16) % 3 == 1 if toy is DropsTokens and peak else np.zeros(16, bool)
    shown = read_examples(tmp_path)
    assert len(shown) == 4
    for each in shown:
        cell = images[1][int(each.name.split()[-1])]
        assert np.isnan(each.norms.ravel()).tolist() == gone.tolist()
        assert each.outliers.ravel().nonzero()[0].tolist() == ([] if gone[cell] else [cell])
        assert (each.cls_attention is None) == (toy is TokenMixer)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["model"]["heads"] == (None if toy is TokenMixer else 3)


@pytest.mark.parametrize("toy", TOYS)
def test_sheets_of_maps(toy, images, tmp_path):
    model = toy()
    kinds = ("norm", "pca", "rgb") if toy is TokenMixer else ("norm", "pca", "rgb", "attention")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = vitreg.maps(Backbone(model, model.anatomy()), images[0][:2], what=kinds, layer=2, out=tmp_path, mass=0.6)
    assert {path.name for path in made.paths} == {f"{kind}.png" for kind in kinds}
