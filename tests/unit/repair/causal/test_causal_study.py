"""Interventions tell a model that uses its outliers from one that does not, and equal plain loops over its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy
from tests.unit.repair.causal.reading_sinks import DEPTH, HEADS, SINKS, judged, network, subject
from torch import Tensor, nn

from vitreg.backbones.probing import AttentionStatus
from vitreg.errors import UserError
from vitreg.repair.causal import words
from vitreg.repair.causal.effects import divergence
from vitreg.repair.causal.study import Study, study
from vitreg.repair.subject import Subject

TOKENS = [1 + place for place in SINKS]


@pytest.fixture(scope="module")
def reads() -> Iterator[Subject]:
    with subject(network(), 80) as found:
        yield found


@pytest.fixture(scope="module")
def found(reads: Subject) -> Study:
    return study(reads, answers(reads))


def answers(model: Subject) -> dict[str, int]:
    """Label every image with what the untouched model answers, so that its accuracy is 100 %."""
    names = model.images.names_of("held_out")
    with torch.no_grad():
        classes = model.backbone.module(judged(model)).argmax(1)
    return dict(zip(names, classes.tolist(), strict=True))


def attend(block: nn.Module, x: Tensor, *, hide: str = "", zero: bool = False) -> Tensor:
    """Run timm's block by hand for one image [N, D], with sinks hidden or their values zero."""
    count, width = x.shape
    qkv = block.attn.qkv(block.norm1(x)).view(count, 3, HEADS, width // HEADS)
    mixed = torch.zeros(count, HEADS, width // HEADS)
    for query in range(count):
        blind = hide == "all" or (hide == "cls" and query == 0)
        keys = [key for key in range(count) if not (blind and key in TOKENS and key != query)]
        for head in range(HEADS):
            weights = (qkv[keys, 1, head] @ qkv[query, 0, head] * (width // HEADS) ** -0.5).softmax(0)
            values = torch.stack(
                [0 * qkv[key, 2, head] if zero and key in TOKENS else qkv[key, 2, head] for key in keys]
            )
            mixed[query, head] = weights @ values
    x = x + block.attn.proj(mixed.flatten(1))
    return x + block.mlp(block.norm2(x))


def by_hand(model: nn.Module, image: Tensor, run: Callable[[nn.Module, Tensor], Tensor], zero: bool = False) -> Tensor:
    x = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0]
    for number, block in enumerate(model.blocks):
        x = attend(block, x) if number == 0 else run(block, x)
        if number == 0 and zero:
            x[TOKENS] = 0
    return model.norm(x)


INTERVENED = {
    "hidden_from_cls": lambda block, x: attend(block, x, hide="cls"),
    "value_zero": lambda block, x: attend(block, x, zero=True),
    "token_zero": attend,
}


@torch.no_grad()
def test_an_effect_is_that_of_plain_loops() -> None:
    with subject(network(classes=0), 7) as few:  # the scan tells places from 4 images on
        model, pictures, found = few.backbone.module, judged(few), study(few)
    assert found.sinks.onset == 0
    assert found.images == len(pictures) == 3
    for name, run in INTERVENED.items():
        moved = []
        for image in pictures:
            before, after = by_hand(model, image, attend), by_hand(model, image, run, name == "token_zero")
            moved.append(1 - F.cosine_similarity(before[0].double(), after[0].double(), dim=0).item())
        assert found.effects[name]["cls"].sinks == pytest.approx(np.mean(moved), rel=1e-3, abs=1e-7)
        assert found.effects[name]["cls"].more_ends is None  # three images are too few
        assert np.mean(moved) > 1e-3
    assert "3 images are too few for intervals" in " ".join(words.sentences(found))


def test_a_class_token_that_reads_its_sinks_uses_them(found: Study) -> None:
    assert found.with_sinks == found.images == 40
    assert found.per_image == len(SINKS)
    hidden = found.effects["hidden_from_cls"]
    assert hidden["cls"].caused
    assert hidden["cls"].sinks > 10 * hidden["cls"].random
    assert hidden["kl"].caused
    for name in ("value_zero", "value_donor", "redirected", "spread", "hidden_from_head"):
        assert found.effects[name]["cls"].caused, name
    assert found.untouched == found.untouched_with_sinks == 100
    assert "registers_exchanged" not in found.effects
    said = " ".join(words.sentences(found))
    assert "of 13 interventions on the sinks change what the model returns by more than the same on as many" in said
    assert "Hiding the sinks from the class token changes the class token by" in said
    assert "hiding as many other patches from the class token, by" in said


def test_a_class_token_that_is_blind_to_its_outliers_does_not_use_them() -> None:
    with subject(network(reads=False)) as blind:
        found = study(blind, answers(blind))
    hidden = found.effects["hidden_from_cls"]
    assert found.sinks.outliers is not None
    assert hidden["cls"].sinks < 1e-5 < hidden["cls"].random
    assert hidden["cls"].caused is False
    assert hidden["kl"].caused is False
    assert hidden["right"].sinks == 100
    assert hidden["right"].caused is False
    assert words.NOTHING_SHOWN in " ".join(words.sentences(found))


def test_sinks_help_where_accuracy_falls_by_more_than_with_random_patches(found: Study) -> None:
    falls = [effects["right"] for effects in found.effects.values()]
    assert any(effect.caused and effect.more > 20 for effect in falls)
    for effect in falls:
        assert effect.more == pytest.approx(effect.random - effect.sinks)
        assert effect.more_ends is not None
        assert effect.more_ends[0] <= effect.more <= effect.more_ends[1]


@pytest.mark.slow
def test_batches_do_not_matter_and_the_same_seed_gives_the_same() -> None:
    with subject(network(), 12) as few:
        one, two, again = (study(few, batch=size) for size in (1, 5, 5))
    for name, effects in one.effects.items():
        for effect, value in effects.items():
            assert value.sinks == pytest.approx(two.effects[name][effect].sinks, rel=1e-3, abs=1e-6)
            assert value.random == pytest.approx(two.effects[name][effect].random, rel=1e-3, abs=1e-6)
    assert two.effects == again.effects


def test_registers_that_say_nothing_of_the_image_can_be_exchanged() -> None:
    for silent in (True, False):
        model = network(registers=3, classes=0)
        with torch.no_grad():
            for block in model.blocks[:-1] if silent else ():
                block.attn.proj.weight.zero_()  # nothing is read before the last block
        with subject(model) as with_registers:
            found = study(with_registers)
        exchanged = found.effects["registers_exchanged"]["cls"]
        assert exchanged.images == found.images
        assert (exchanged.sinks < 1e-9) == silent
        assert exchanged.random > 1e-6
    assert "kl" not in found.effects["registers_exchanged"]


def test_the_most_attended_patch_stands_for_sinks_where_there_are_no_outliers() -> None:
    with subject(network(sinks=False)) as plain:
        found = study(plain)
        assert found.sinks.outliers is None
        assert found.per_image == 1
        pixels = next(plain.batches("fit"))
        trace = plain.backbone.trace(pixels, found.sinks.capture)
        shares = torch.zeros(len(pixels), 64)
        for block, queries in found.sinks.queries.items():
            shares += trace.attention(block, queries)[..., 1:].mean((1, 2))
        assert torch.equal(found.sinks.of(trace).float().argmax(1), shares.argmax(1))
    assert "has no outliers on these images: the patch that gets the most attention" in words.sentences(found)[0]


def test_the_divergence_is_that_of_scipy() -> None:
    one, other = torch.randn(2, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    wanted = [entropy(a.softmax(0), b.softmax(0)) for a, b in zip(one, other, strict=True)]
    assert divergence(one, other).tolist() == pytest.approx(wanted)


def test_a_twin_stands_beside(found: Study) -> None:
    with subject(network(reads=False)) as blind:
        twin = study(blind)
    tables, said = words.beside(found, twin)
    row = next(row for row in tables[0].rows if row[0] == "key hidden from CLS")
    assert row[1:] == [
        found.effects["hidden_from_cls"]["cls"].more,
        "yes",
        twin.effects["hidden_from_cls"]["cls"].more,
        "no",
    ]
    assert len(said) >= 2
    assert [table.columns[2] for table in tables][-1] == "helps"


def test_mistakes_get_a_sentence(reads: Subject) -> None:
    with subject(network(), 3) as few, pytest.raises(UserError, match="at least 4 images, and there are 3"):
        study(few)
    with pytest.raises(UserError, match="none of the images has a label"):
        study(reads, {"nothing": 0})
    with subject(network(classes=0)) as headless:
        with pytest.raises(UserError, match="no classifier"):
            study(headless, dict.fromkeys(headless.images.names, 0))
        record = headless.outliers.record.model_copy(update={"onset": DEPTH - 1})
        headless.__dict__["outliers"] = replace(headless.outliers, record=record)
        with pytest.raises(UserError, match="which no attention reads, so they cause nothing"):
            study(headless)


def test_without_readable_attention_only_tokens_are_changed() -> None:
    for sinks in (True, False):
        with subject(network(sinks=sinks, classes=0), 12) as unread:
            unread.backbone._status = AttentionStatus("none", 1.0, "it is written by hand")
            if not sinks:
                with pytest.raises(UserError, match="its attention cannot be read, so it shows no sinks"):
                    study(unread)
                continue
            found = study(unread)
    assert list(found.effects) == ["token_zero", "token_mean", "token_donor", "token_random"]
    assert "cannot be read, so only its tokens are changed" in " ".join(words.sentences(found))


def test_without_a_class_token_the_untouched_patches_are_judged() -> None:
    with subject(network(cls=False, classes=0), 12) as headless:
        found = study(headless)
    assert "hidden_from_cls" not in found.effects
    assert found.effects["hidden_from_patches"]["cls"].sinks > 0
    assert "Setting the sinks to zero changes the mean patch by" in " ".join(words.sentences(found))
