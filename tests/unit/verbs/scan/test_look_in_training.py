"""A look at a network in training: what outliers, background and registers take, and what older runs did not write."""

import pytest
import torch
from PIL import Image

from vitreg.data.sets.example import Portion, backgrounds, marks
from vitreg.data.sets.pairs import open_mapped
from vitreg.data.sets.settings import DataConfig
from vitreg.data.views.transforms import IMAGENET
from vitreg.models import planted
from vitreg.models.vit import VisionTransformer
from vitreg.records import NormsMoment
from vitreg.verbs.scan.look import norms_of
from vitreg.verbs.scan.verb import scan

PROBES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(**changes):
    torch.manual_seed(0)
    return VisionTransformer(32, 8, 32, 2, 2, **changes).eval()


def test_every_kind_of_token_has_its_numbers_and_the_record_reads_them():
    background = torch.zeros(4, 4, 4, dtype=torch.bool)
    background[:, 0] = True
    look = norms_of(network(registers=2), PROBES, background=background, marked=~background, maps=2)
    moment = NormsMoment.model_validate({"step": 0, **look})
    for layer in moment.layers:
        assert layer.attention.outliers is None  # no artifacts
        # An untrained network looks at all keys alike: 4 of 19 are background, 2 registers.
        assert layer.attention.background == pytest.approx(4 / 19, abs=0.02)
        assert layer.attention.registers == pytest.approx(2 / 19, abs=0.02)
        assert 0.5 < layer.values.background < 2
        assert layer.image_ratio <= layer.max / layer.median * 1.5
        assert layer.norms.background == pytest.approx(1, abs=0.5)
        assert sum(layer.each_register.attention) == pytest.approx(layer.attention.registers, abs=1e-3)
        assert layer.each_register.number == pytest.approx(2, abs=0.05)
        assert 1 / 19 < layer.foreground.attention <= layer.most.attention < 0.1
        assert layer.foreground.kinds == {"marked": 1.0}
        assert sum(layer.most.kinds.values()) == pytest.approx(1, abs=1e-3)
        assert layer.sinks == 0
    assert [[len(image) for image in block] for block in moment.maps] == [[16, 16]] * 2


def test_background_on_another_grid_is_left_out():
    look = norms_of(network(), PROBES, background=torch.ones(4, 3, 3, dtype=torch.bool))
    assert look["layers"][0]["attention"]["background"] is None
    assert "maps" not in look


@pytest.mark.usefixtures("few_resamples")
def test_planted_outliers_are_those_whose_attention_is_given(photographs):
    model, _ = planted.build("high-norm", seed=3)
    probes = torch.stack([IMAGENET(Image.open(path).convert("RGB")) for path in photographs[:4]])
    look, whole = norms_of(model, probes), scan(model, probes)
    assert look["verdict"] == whole.verdict.kind == "high-norm"
    taken = [layer["attention"]["outliers"] for layer in look["layers"]]
    assert all(0 < share < 1 for share in taken)
    peak = whole.layers[whole.verdict.peak_layer]
    assert look["layers"][peak.index]["image_ratio"] > 3


def test_a_line_of_an_older_run_is_read_without_them():
    layer = {"median": 1.0, "p99": 2.0, "max": 3.0, "ratio": None, "outlier_fraction": 0.0}
    old = {
        "step": 5, "verdict": "none", "strength": "none", "first_layer": None, "peak_layer": None, "outlier_fraction": 0.0,
        "layers": [layer], "histogram": {"edges": [1.0, 2.0], "counts": [1.0], "unit": "norm"},
    }  # fmt: skip
    moment = NormsMoment.model_validate(old)
    assert moment.layers[0].image_ratio is None
    for name in ("attention", "norms", "each_register", "most", "foreground", "sinks"):
        assert getattr(moment.layers[0], name) is None
    assert moment.maps == []


def test_the_background_of_a_portion_is_that_of_its_images():
    whole = open_mapped(DataConfig(root="synthetic:retrieval@3:16"), "numbers")[0]
    part = Portion(Portion(whole, 8), 4)
    all_of_them = backgrounds(whole)
    assert [each.tolist() for each in backgrounds(part)] == [all_of_them[i].tolist() for i in (0, 4, 8, 12)]
    for index, known in enumerate(marks(whole)):  # more is asked of marked tiles than their own code
        asked = torch.from_numpy(whole.read(index).target)[..., 16:].nan_to_num()
        assert known.tolist() == asked.ne(0).any(-1).tolist()
    for index, known in enumerate(all_of_them):  # nothing is asked of background
        assert known.tolist() == torch.from_numpy(whole.read(index).target).isnan().any(-1).tolist()
