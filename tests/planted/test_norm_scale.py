"""A model whose residual stream is 2^k times as large gets the same answer: ratios of norms have no unit."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitreg.models import planted
from vitreg.verbs.demo.verb import write_photographs
from vitreg.verbs.scan.verb import ScanOptions, scan

pytestmark = pytest.mark.usefixtures("few_resamples", "planted_once")

POWERS = (-40, 23, 66, 100)  # 1e-12, 1e7, 1e20, 1e30


class ScaleFreeNorm(nn.LayerNorm):
    """LayerNorm of x / scale: at 1e20 the variance that torch computes would leave float32."""

    scale = 1.0

    def forward(self, x):
        return F.layer_norm(x / self.scale, self.normalized_shape, self.weight, self.bias, self.eps)


@torch.no_grad()
def scaled(model, scale):
    model = copy.deepcopy(model)
    writers = [model.patch_embed.proj, *(m for b in model.blocks for m in (b.attn.proj, b.mlp.fc2))]
    written = [w for layer in writers for w in (layer.weight, layer.bias) if w is not None]
    for weight in (*written, model.pos_embed, model.cls_token):
        weight *= scale
    for module in list(model.modules()):
        if isinstance(module, nn.LayerNorm):
            module.__class__, module.scale = ScaleFreeNorm, scale
    return model


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    pytest.importorskip("skimage")
    return write_photographs(tmp_path_factory.mktemp("photographs"))[:5]


def answer(model, photographs, out=None):
    from vitreg.backbones import Backbone
    from vitreg.data.views.transforms import IMAGENET

    result = scan(Backbone(model, preprocess=IMAGENET), photographs, out=out, options=ScanOptions(power=False))
    words = result.verdict.model_dump(
        include={"kind", "strength", "sentence", "first_layer", "peak_layer", "undecided"}
    )
    numbers = {"confidence": result.verdict.confidence, **result.verdict.effects, "auc": result.redundancy.auc or 0}
    shares = [number for layer in result.layers for number in (layer.outlier_fraction, layer.ratio or 0, layer.sinks)]
    return result, words, {**numbers, **dict(enumerate(shares))}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["clean", "high-norm", "low-norm", "position-locked"],
)
def test_the_verdict_does_not_depend_on_the_size_of_the_norms(kind, photographs):
    model = planted.clean(3) if kind == "clean" else planted.build(kind, 3)[0]
    plain, words, numbers = answer(model, photographs)
    assert plain.verdict.kind == ("none" if kind == "clean" else kind)
    for power in POWERS if kind == "high-norm" else (POWERS[0], POWERS[-1]):
        found, said, measured = answer(scaled(model, 2.0**power), photographs)
        assert said == words, power
        assert measured == pytest.approx(numbers, rel=1e-3), power  # a logarithm may round into the next bin
        assert found.layers[5].median == pytest.approx(plain.layers[5].median * 2.0**power, rel=1e-5)
        assert found.layers[5].histogram.counts == pytest.approx(plain.layers[5].histogram.counts, abs=2)


@pytest.mark.slow
def test_the_page_and_the_record_hold_norms_of_any_size(photographs, tmp_path):
    model = scaled(planted.build("high-norm", 3)[0], 2.0**100)
    answer(model, photographs[:4], out=tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["verdict"]["ratio"] > 6
    assert (tmp_path / "report.html").exists()


def test_tokens_without_any_norm_are_counted_and_their_ratio_stays_a_number(photographs):
    from tests.unit.verbs.scan.test_readout import LAYERS, LAYOUT, read

    rng = np.random.default_rng(0)
    norms = rng.lognormal(3, 0.12, (LAYERS, 20, LAYOUT.length))
    blank = np.zeros((20, LAYOUT.length), bool)
    blank[:, LAYOUT.patches] = rng.random((20, LAYOUT.num_patches)) < 0.03
    norms[2][blank] = 0
    readout, layers = read(norms, norms[0], 20)
    assert (readout.verdict.kind, readout.verdict.peak_layer) == ("low-norm", 2)
    assert (layers[2].min, layers[2].ratio) == (0, 65536)
    assert layers[2].outlier_fraction == pytest.approx(blank[:, LAYOUT.patches].mean())
