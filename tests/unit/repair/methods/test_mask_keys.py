"""Mask keys: other patches see no outlier, and attention among the rest is what it would be without them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from vitreg.backbones import Capture
from vitreg.backbones.edits import Place
from vitreg.backbones.trace import QKV
from vitreg.errors import UserError
from vitreg.repair.methods.mask_keys import METHOD
from vitreg.repair.per_image.detect import Detector
from vitreg.repair.per_image.hiding import MARKED, HideKeys
from vitreg.repair.settings import MaskKeysSettings
from vitreg.repair.table.on_planted import Patient, patient
from vitreg.tokens import TokenLayout

pytestmark = pytest.mark.usefixtures("planted_once")


@pytest.fixture(scope="module")
def high(photographs: list[Path]) -> Iterator[Patient]:
    with patient("high-norm", 0, photographs[:12]) as found:
        yield found


@pytest.mark.parametrize("masked", ["none", "bool", "float", "causal", "extra keys"])
@pytest.mark.parametrize("queries", ["patches", "all"])
def test_attention_is_that_of_the_naive_loop(queries: Literal["patches", "all"], masked: str) -> None:
    draw = torch.Generator().manual_seed(0)
    layout = TokenLayout.prefixed((2, 3), cls_tokens=1, registers=1, other=1).without([5])  # patch 2 is gone
    count, extra = layout.length, 2 if masked == "extra keys" else 0
    q, k, v = (torch.randn(2, 3, count, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    allowed = torch.rand(count, count, generator=draw) < 0.8
    allowed[:, 0] = allowed[:, 4] = True
    qkv = QKV(q, k, v, 0.5, allowed if masked == "bool" else None, causal=masked == "causal")
    if masked == "float":
        qkv = replace(qkv, mask=torch.randn(count, count, generator=draw, dtype=torch.float64))
    if extra:
        qkv = qkv.with_keys(*(torch.randn(2, 3, extra, 4, generator=draw, dtype=torch.float64) for _ in range(2)))
    marked = torch.zeros(2, 6, dtype=torch.bool)
    marked[0, 1] = marked[0, 5] = marked[0, 2] = True  # a patch that is gone hides nothing
    place = Place(layer=3, layout=layout, state={MARKED: marked})
    rows = HideKeys(queries)(qkv, place)
    patches = {
        layout.patch(row, col): row * 3 + col for row in range(2) for col in range(3) if layout.patch(row, col) >= 0
    }

    for image in range(2):
        for head in range(3):
            for query in range(count):
                logits = []
                for key in range(count + extra):
                    logit = 0.5 * float(qkv.q[image, head, query] @ qkv.k[image, head, key])
                    logit += float(qkv.mask[query, key]) if masked == "float" and qkv.mask is not None else 0
                    out = key in patches and bool(marked[image, patches[key]])
                    if queries == "patches" and (query == key or query not in patches):
                        out = False
                    out = out or (masked == "bool" and not allowed[query, key]) or (masked == "causal" and key > query)
                    logits.append(-torch.inf if out else logit)
                wanted = torch.tensor(logits, dtype=torch.float64).softmax(0)
                torch.testing.assert_close(rows.rows([query])[image, head, 0].double(), wanted, atol=1e-6, rtol=1e-5)
                torch.testing.assert_close(
                    rows.attend()[image, head, query], wanted @ qkv.v[image, head], atol=1e-6, rtol=1e-5
                )


def test_a_query_without_any_other_key_stays_a_number() -> None:
    q = torch.ones(1, 1, 4, 2)
    place = Place(layer=0, layout=TokenLayout.prefixed((2, 2)), state={MARKED: torch.ones(1, 4, dtype=torch.bool)})
    assert HideKeys("all")(QKV(q, q, q, 1.0), place).attend().isfinite().all()


def test_planted_sinks_get_no_attention_from_patches(high: Patient) -> None:
    after = high.after("mask-keys")
    onset = high.truth.layers.start
    assert after.repair.record.details["hidden_in"] == list(range(onset + 1, 12))
    assert after.effect.share == after.effect.before > 0.002  # the norms stay
    assert after.normal >= 0.99
    fixed, base = after.repair.apply(high.subject.backbone), high.subject.backbone
    pixels = next(iter(high.subject.batches("held_out")))
    capture, queries = Capture(rows=([onset, onset + 1], range(197))), range(197)
    sinks = high.truth.outliers(pixels)
    seen = {}
    for name, model in {"before": base, "after": fixed}.items():
        trace = model.trace(pixels, capture)
        seen[name] = [
            torch.stack([
                trace.attention(block, queries)[image, :, 1:, 1:][:, ~marked][:, :, marked].sum(-1).mean()
                for image, marked in enumerate(sinks) if marked.any()
            ]).mean().item()
            for block in (onset, onset + 1)
        ]  # fmt: skip
    assert seen["before"][1] > 0.1
    assert seen["after"][1] == 0
    assert seen["after"][0] == pytest.approx(seen["before"][0])


def test_what_appears_after_the_last_block_is_refused(high: Patient) -> None:
    subject = replace(high.subject)
    outliers = high.subject.outliers
    subject.__dict__["outliers"] = replace(outliers, record=outliers.record.model_copy(update={"onset": 11}))
    with pytest.raises(UserError, match="use substitute"):
        METHOD.fit(subject, MaskKeysSettings())


@pytest.mark.slow
def test_each_image_alone_gives_the_same(high: Patient) -> None:
    pixels = next(iter(high.subject.batches("held_out")))
    for method in ("substitute", "clip-norm", "mask-keys"):
        fixed = high.after(method, detector="lof").repair.apply(high.subject.backbone)
        alone = torch.cat([fixed(image[None]).values for image in pixels])
        torch.testing.assert_close(fixed(pixels).values, alone, atol=1e-4, rtol=1e-4)


def test_detectors_know_both_sides() -> None:
    tokens, layout = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]), TokenLayout.prefixed((2, 2))
    high, low = (Detector("norm", side, 3.0, 0.05, 30)(tokens, layout)[0].tolist() for side in ("high", "low"))
    assert (high, low) == ([False, False, True, True], [True, True, False, False])
