"""Sinks seen by 17 sampled queries against those seen by all queries, on 20 photographs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from PIL import Image

import vitreg
from vitreg.analysis import sinks
from vitreg.backbones import Backbone, Capture, Edit
from vitreg.backbones.trace import ReadRows
from vitreg.verbs.scan.measure import sampled_queries

pytestmark = pytest.mark.slow
IMAGES = 20


@dataclass(frozen=True)
class Pulls:
    """Draws each head to the first token, between not at all and wholly, so that many queries are near one half."""

    def __call__(self, qkv, place):
        heads = qkv.q.shape[1]
        pull = 3.5 + 0.4 * place.layer + 0.8 * torch.arange(heads)
        bias = torch.zeros(1, heads, 1, qkv.k.shape[2])
        bias[0, :, 0, 0] = pull
        return qkv.with_bias(bias + qkv.q.float().std(-1, keepdim=True) * bias * 0.05)


def both_ways(backbone: Backbone, photographs) -> tuple[int, int, int, int]:
    """Return how many heads have a sink by both, by one way only, agree on its kind, and how many there are in all."""
    layout = backbone.layout(backbone.anatomy.native_size)
    queries, prepared = [*layout.cls[:1], *sampled_queries(layout)], backbone.prepared()
    capture = Capture(
        rows=("all", range(layout.length)), read=lambda rows: torch.ones(rows.shape[:2], dtype=torch.bool)
    )
    both = one = same = count = 0
    for path in photographs:
        with Image.open(path) as picture:
            trace = backbone.trace(prepared(picture.convert("RGB"))[None], capture)
        for block in range(backbone.depth):
            read = trace.read_rows(block)
            some = ReadRows(read.image, read.head, read.weights[:, queries], read.mixed[:, queries], read.value_norms)
            found = [sinks.find_sinks(each) for each in (read, some)]
            every, sampled = (
                {
                    int(head): (int(key), int(kind))
                    for head, key, kind in zip(each.head, each.key, each.kind, strict=True)
                }
                for each in found
            )
            both += len(every.keys() & sampled.keys())
            one += len(every.keys() ^ sampled.keys())
            same += sum(every[head] == sampled[head] for head in every.keys() & sampled.keys())
            count += len(read.head)
    return both, one, same, count


def test_sampled_queries_see_the_sinks_of_a_planted_model(test_data):
    photographs = sorted((test_data / "photos").rglob("*.jpg"))[:IMAGES]
    backbone = vitreg.load("planted:high-norm", precision="fp32")
    pulled = backbone.edited([Edit("attention", block, Pulls()) for block in range(backbone.depth)], "pulled")
    both, one, same, count = both_ways(pulled, photographs)
    assert 0.2 < both / count < 0.8
    assert one <= 0.1 * both
    assert same >= 0.95 * both


def test_sampled_queries_see_the_sinks_of_a_trained_model(test_data):
    photographs = sorted((test_data / "photos").rglob("*.jpg"))[:IMAGES]
    weights = test_data / "models" / "deit_tiny_patch16_224.safetensors"
    both, one, same, count = both_ways(
        vitreg.load("timm:deit_tiny_patch16_224", weights=weights, precision="fp32"), photographs
    )
    assert one <= 0.01 * count
    assert same == both
