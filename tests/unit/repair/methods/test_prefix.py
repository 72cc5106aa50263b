"""Prefix: cached keys are further keys, deleted outliers are as if dropped, and both halves are judged alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vitreg.backbones import Capture
from vitreg.backbones.edits import Edit, Place
from vitreg.backbones.trace import QKV
from vitreg.errors import UserError
from vitreg.repair.method import Fitted
from vitreg.repair.methods.prefix import METHOD, CachedKeys, edits
from vitreg.repair.per_image.detect import detector_from
from vitreg.repair.repair import load_repair
from vitreg.repair.settings import PrefixSettings
from vitreg.repair.table.on_planted import Outcome, Patient, patient
from vitreg.tokens import TokenLayout

pytestmark = pytest.mark.usefixtures("planted_once")


@pytest.fixture(scope="module")
def high(photographs: list[Path]) -> Iterator[Patient]:
    with patient("high-norm", 0, photographs[4:16]) as found:
        yield found


@pytest.fixture(scope="module")
def after(high: Patient) -> Outcome:
    return high.after("prefix", candidates=2)


@dataclass(frozen=True)
class Drop:
    """Tokens that really leave the sequence, of a single image."""

    indices: tuple[int, ...]

    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        return tokens[:, [index for index in range(place.layout.length) if index not in self.indices]]

    def layout(self, before: TokenLayout) -> TokenLayout:
        return before.without(self.indices)


def test_no_outlier_is_left_and_both_halves_are_judged(after: Outcome) -> None:
    assert after.effect.before > 0.002
    assert after.effect.worst_share == 0
    assert after.normal >= 0.99
    controls = after.repair.record.details["controls"]
    assert controls["prefix"]["share"] == controls["prefix"]["before"] == after.effect.before
    assert controls["deletion"]["worst_share"] == 0


def test_deleted_outliers_are_as_if_dropped(high: Patient, after: Outcome) -> None:
    base, record = high.subject.backbone, after.repair.record
    found = Fitted(after.repair.tensors, record.details)
    onset = record.details["block"]
    pixels = torch.cat(list(high.subject.batches("held_out")))
    trace = base.trace(pixels, Capture(hidden=[onset]))
    marked = detector_from(record.details)(trace.hidden(onset), trace.layout_after(onset))
    true = high.truth.outliers(pixels)
    assert true.any(1).sum() >= 3
    assert torch.equal((marked & true).any(1), true.any(1))
    for prefix in (False, True):
        fixed = base.edited(edits(found, prefix=prefix), "deletion")(pixels).values
        for image in range(len(pixels)):
            gone = tuple(1 + place for place in marked[image].nonzero().flatten().tolist())
            cached = [each for each in edits(found, deletion=False) if prefix]
            dropped = base.edited([Edit("block", onset, Drop(gone)), *cached], "dropped")(pixels[image][None]).values[0]
            kept = [index for index in range(197) if index not in gone]
            torch.testing.assert_close(fixed[image, kept], dropped, atol=1e-5, rtol=1e-4)


def test_cached_keys_stand_beside_those_of_the_image() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 5, 4, generator=draw, dtype=torch.float64) for heads in (4, 2, 2))
    cached = CachedKeys(*(torch.randn(3, 2, 4, generator=draw, dtype=torch.float64) for _ in range(2)))
    mixed = cached(QKV(q, k, v, 0.5), Place(layer=1, layout=TokenLayout.prefixed((2, 2), cls_tokens=1))).attend()
    for image in range(2):
        for head in range(4):
            keys = [*cached.k[:, head // 2], *k[image, head // 2]]
            values = torch.stack([*cached.v[:, head // 2], *v[image, head // 2]])
            for query in range(5):
                logits = torch.stack([0.5 * q[image, head, query] @ key for key in keys])
                torch.testing.assert_close(mixed[image, head, query], logits.softmax(0) @ values)


def test_what_is_cached_is_what_attention_read(high: Patient, after: Outcome) -> None:
    details = after.repair.record.details
    image, place = details["chosen"][0]
    pixels = torch.cat(list(high.subject.batches("fit")))[image][None]
    assert high.truth.outliers(pixels)[0, place]
    assert details["changed"] == list(range(details["block"] + 1, 12))
    for block in details["changed"]:
        qkv = high.subject.backbone.trace(pixels, Capture(qkv=[block])).qkv(block)
        torch.testing.assert_close(after.repair.tensors[f"k.{block}"][0], qkv.k[0, :, 1 + place])
        torch.testing.assert_close(after.repair.tensors[f"v.{block}"][0], qkv.v[0, :, 1 + place])
    tried = {each["tokens"]: each["extreme_norm"] for each in details["tried"]}
    assert set(tried) == {1, 2}
    assert tried[details["tokens"]] <= 1.001 * min(tried.values())


def test_where_attention_wants_an_outlier_only_both_halves_together_help(photographs: list[Path]) -> None:
    """Deletion alone makes others follow, and the prefix alone leaves those there are."""
    with patient("comparing", 0, photographs[:12]) as case:
        found = case.after("prefix", candidates=2)
        assert found.effect.worst_share == 0 < found.effect.before
        assert found.normal >= 0.99
        alone = found.repair.record.details["controls"]
        assert alone["prefix"]["share"] == found.effect.before
        assert alone["deletion"]["worst_share"] > found.effect.before
        assert case.after("substitute").effect.worst_share > found.effect.before


@pytest.mark.slow
def test_ordinary_tokens_by_lot_repair_nothing(high: Patient) -> None:
    control = high.after("prefix", candidates=1, tokens=1, random=True)
    assert control.effect.share == control.effect.before
    image, place = control.repair.record.details["chosen"][0]
    assert not high.truth.outliers(torch.cat(list(high.subject.batches("fit"))))[image, place]


def test_it_is_saved_and_each_image_alone_gives_the_same(tmp_path: Path, high: Patient, after: Outcome) -> None:
    pixels = next(iter(high.subject.batches("held_out")))
    fixed = after.repair.apply(high.subject.backbone)
    again = load_repair(after.repair.save(tmp_path / "fixed")).apply(high.subject.backbone)
    assert torch.equal(again(pixels).values, fixed(pixels).values)
    alone = torch.cat([fixed(image[None]).values for image in pixels])
    torch.testing.assert_close(fixed(pixels).values, alone, atol=1e-4, rtol=1e-4)


def test_more_tokens_than_candidates_are_refused() -> None:
    with pytest.raises(UserError, match="more than the 2 candidates"):
        PrefixSettings(tokens=3, candidates=2).check()


def test_no_block_after_the_outliers_is_refused(high: Patient) -> None:
    subject, outliers = replace(high.subject), high.subject.outliers
    subject.__dict__["outliers"] = replace(outliers, record=outliers.record.model_copy(update={"onset": 11}))
    with pytest.raises(UserError, match="use substitute"):
        METHOD.fit(subject, PrefixSettings())
