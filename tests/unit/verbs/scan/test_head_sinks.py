"""What a scan says of the sinks of heads: planted ones are found, and sums equal a loop over images and heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.unit.verbs.scan.sinks_by_edit import with_sinks

import vitreg
from vitreg.analysis import sinks
from vitreg.analysis.tally import Tally
from vitreg.analysis.value_space import ValueSums
from vitreg.backbones import Backbone, Capture, Edit
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.records import SINK_KINDS, ScanResult
from vitreg.testing.toys import WHITE, DropsTokens, RegistersBetween, TokenMixer
from vitreg.verbs.scan.measure import Measure

pytestmark = pytest.mark.usefixtures("few_resamples")


def small(**changes):
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, 24, 3, 3, **changes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return Backbone(model)


def toy(kind):
    model = kind()
    return Backbone(model, model.anatomy())


def images(count=6):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def scanned(backbone, given=None, **options):
    return vitreg.scan(backbone, images() if given is None else given, power=False, **options).head_sinks


def kinds(record):
    return {(block, head): kind for block, head, kind in record.kinds()}


@pytest.mark.parametrize("tokens", [{}, {"registers": 2}, {"cls_token": False, "pool": "mean"}])
def test_sinks_are_found_in_their_blocks_and_heads(tokens):
    found = scanned(with_sinks(small(**tokens), (0, 2)))
    assert kinds(found) == {(0, 0): "no-op", (0, 1): "broadcast", (2, 0): "no-op", (2, 1): "broadcast"}
    assert found.queries == 16 + tokens.get("cls_token", True)
    assert found.value_ratio[1] == [None] * 3
    assert found.value_ratio[0][0] < 0.01
    assert found.value_ratio[0][1] == pytest.approx(1, abs=0.01)
    assert found.stable_rank[0][1] == pytest.approx(1, abs=0.01)
    first = "cls" if tokens.get("cls_token", True) else "patch"
    assert found.places[0] == ({"cls": 0.5, "patch": 0.5} if first == "cls" else {"patch": 1.0})
    assert found.places[1] == {}


@pytest.mark.parametrize("toy_kind", [RegistersBetween, DropsTokens])
def test_places_follow_the_layout(toy_kind):
    """The first and the last token of a block: patch and register, or CLS and a patch of those that are left."""
    found = scanned(with_sinks(toy(toy_kind), (0, 2)))
    assert kinds(found) == {(0, 0): "no-op", (0, 1): "broadcast", (2, 0): "no-op", (2, 1): "broadcast"}
    places = {"patch": 0.5, "register": 0.5} if toy_kind is RegistersBetween else {"cls": 0.5, "patch": 0.5}
    assert found.places[0] == found.places[2] == places


def test_keys_of_no_token_can_be_sinks():
    def added(qkv, _):
        extra = torch.zeros_like(qkv.k[:, :, :1])
        far = qkv.with_keys(extra, extra)
        bias = torch.zeros(1, 1, 1, far.k.shape[2])
        bias[..., -1] = 60
        return far.with_bias(bias)

    found = scanned(small().edited([Edit("attention", 1, added)], "extra"))
    assert kinds(found) == dict.fromkeys([(1, 0), (1, 1), (1, 2)], "no-op")
    assert found.places[1] == {"extra": 1.0}


def test_sinks_stand_on_outliers_where_they_do():
    """White patches are outliers after block 0; block 1 draws head 1 to the last token, which is white in half of the images."""
    given = images(8) * 0.1
    given[:4, :, 24:, 24:] = WHITE  # the last patch
    given[4:, :, :8, :8] = WHITE
    found = scanned(with_sinks(toy(DropsTokens), (1,)), given)
    assert found.on_outliers[0] is None
    assert found.on_outliers[1] == pytest.approx(0.25)  # of the sinks, half are at CLS
    assert [(each.block, each.outliers) for each in found.value_space] == [(1, 4), (2, 4)]  # one in each of 4 images


@pytest.mark.parametrize(("error", "said"), [(UserError("no norm."), "no norm."), (OSError("gone"), "OSError in ")])
def test_what_fails_after_the_pass_costs_no_result(error, said, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr(ValueSums, "add", fails)
    given = images(8) * 0.1
    given[:, :, 8:16, 8:16] = WHITE
    result = vitreg.scan(toy(RegistersBetween), given, power=False)
    assert result.verdict.kind == "position-locked"
    assert result.head_sinks.value_unread.startswith(said)
    assert result.head_sinks.value_space == []


def test_without_examples_values_are_not_read():
    given = images(8) * 0.1
    given[:, :, 8:16, 8:16] = WHITE
    assert "no example image" in scanned(toy(RegistersBetween), given, examples=0).value_unread
    assert scanned(toy(RegistersBetween), images()).value_unread == ""  # no outliers


def test_a_model_whose_attention_cannot_be_read_has_no_sinks():
    assert scanned(toy(TokenMixer)) is None


@pytest.mark.parametrize(
    "backbone", [with_sinks(small(registers=2), (0, 1), every=3), with_sinks(toy(DropsTokens), (0, 2), every=1)]
)
def test_sums_are_those_of_a_loop(backbone):
    """Whatever the size of the batches; every query, key, head and image by itself, from q, k and v."""
    given, size = images(7), (32, 32)
    measure = Measure(backbone, size)
    with Tally(backbone.depth, measure.layout, present=measure.present, heads=measure.heads) as tally:
        for part in torch.arange(7).split(3):
            tally.add(measure(part, tuple(map(str, part.tolist())), given[part]))
    heads, places = np.zeros((3, 3, len(sinks.COUNTS))), np.zeros((3, len(sinks.PLACES)))
    for image in given:
        trace = backbone.trace(image[None], Capture(qkv="all"))
        for block in range(3):
            queries, layout = measure._queries[block], trace.layout_before(block)
            qkv = trace.qkv(block)
            rows, v = qkv.rows()[0].double().numpy(), qkv.v[0].double().numpy()
            heads[block, :, -1] += 1
            for head in range(3):
                for key in range(rows.shape[2]):
                    if sum(rows[head, q, key] >= 0.5 for q in queries) < 0.9 * len(queries):
                        continue
                    norms = np.sqrt((v[head] ** 2).sum(1))
                    lengths = np.linalg.svd(rows[head][queries] @ v[head], compute_uv=False)
                    ratio, rank = norms[key] / norms.mean(), (lengths**2).sum() / lengths[0] ** 2
                    kind = "no-op" if ratio <= 0.2 else "broadcast" if ratio >= 0.5 and rank <= 1.5 else "unclear"
                    heads[block, head, SINK_KINDS.index(kind)] += 1
                    heads[block, head, 3:5] += ratio, rank
                    role = layout.role(key) if key < layout.length else "extra"
                    places[block, sinks.PLACES.index(role)] += 1
    np.testing.assert_allclose(tally.sums.head_sinks, heads, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(tally.sums.sink_places, places)
    by_kind = heads[..., :3].sum((0, 1))
    assert by_kind[0] > 0
    assert by_kind[1] > 0
    assert by_kind.sum() < heads[..., -1].sum()


def test_three_numbers_stay_apart():
    """Norm ratio, largest over median and share of the attention received, of the same outliers."""
    given = images(8) * 0.1
    given[:, :, 8:16, 8:16] = WHITE
    layer = vitreg.scan(toy(RegistersBetween), given, power=False).layers[0]
    assert layer.max_ratio == pytest.approx(layer.max / layer.median, rel=1e-4)
    assert layer.ratio != layer.max_ratio
    assert 0 < layer.received_share < 1
    # One outlier of 16 patches: its share and what it receives beside another patch are two ways to say the same.
    assert layer.received_share == pytest.approx(layer.received / (layer.received + 15), rel=1e-3)


def test_records_without_sinks_still_open():
    result = vitreg.scan(small(), images(), power=False)
    old = result.model_dump(
        mode="json", by_alias=True, exclude={"head_sinks": True, "layers": {"__all__": {"max_ratio", "received_share"}}}
    )
    opened = ScanResult.model_validate(old)
    assert (opened.head_sinks, opened.layers[0].max_ratio, opened.layers[0].received_share) == (None, None, None)
    assert ScanResult.model_validate_json(result.model_dump_json()).head_sinks == result.head_sinks
