"""Edits of sinks are what plain loops over images, heads, queries and keys make of the same numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vitreg.backbones.edits import Place
from vitreg.backbones.trace import QKV
from vitreg.repair.causal.edits import HideFrom, PutRegisters, PutTokens, PutValues, Queries, Redirect
from vitreg.repair.causal.sinks import choose
from vitreg.tokens import TokenLayout

LAYOUT = TokenLayout.prefixed((2, 3), cls_tokens=1, registers=1, other=1).without([5])  # patch 2 is gone
PLACE = Place(layer=1, layout=LAYOUT)
TOKENS = {place: int(index) for place, index in enumerate(LAYOUT.patch_index) if index >= 0}  # place -> token
MARKED = torch.zeros(3, 6, dtype=torch.bool)
MARKED[0, 1] = MARKED[0, 5] = MARKED[1, 3] = True  # none in the third image


def some(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def attention(masked: str = "none") -> QKV:
    q, k, v = some(3, 4, LAYOUT.length, 6).split(2, dim=-1)
    qkv = QKV(q, k, v, 0.7, causal=masked == "causal")
    if masked == "float":
        qkv = replace(qkv, mask=some(LAYOUT.length, LAYOUT.length))
    return qkv.with_keys(some(3, 4, 2, 2), some(3, 4, 2, 2)) if masked == "extra keys" else qkv


@pytest.mark.parametrize("masked", ["none", "float", "causal", "extra keys"])
@pytest.mark.parametrize(("queries", "head"), [("cls", None), ("patches", None), ("all", None), ("all", 2)])
def test_hidden_keys_are_removed_keys(queries: Queries, head: int | None, masked: str) -> None:
    qkv = attention(masked)
    found = HideFrom(MARKED, queries, head)(qkv, PLACE)
    blind = {"cls": set(LAYOUT.cls), "patches": set(TOKENS.values()), "all": set(range(LAYOUT.length))}[queries]
    for image in range(3):
        gone = {TOKENS[place] for place in MARKED[image].nonzero().flatten().tolist()}
        for h in range(4):
            for query in range(LAYOUT.length):
                hides = query in blind and head in (None, h)
                keys = [
                    key
                    for key in range(qkv.k.shape[2])
                    if not (hides and key in gone and key != query) and not (masked == "causal" and key > query)
                ]
                logits = 0.7 * qkv.k[image, h, keys] @ qkv.q[image, h, query]
                if masked == "float" and qkv.mask is not None:
                    logits = logits + qkv.mask[query, keys]
                wanted = logits.softmax(0) @ qkv.v[image, h, keys]
                torch.testing.assert_close(found.attend()[image, h, query], wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("target", [None, torch.tensor([0, 0, 4])])
@pytest.mark.parametrize("extra", [False, True])
def test_redirected_attention_is_moved_number_by_number(target: Tensor | None, extra: bool) -> None:
    before = attention("extra keys" if extra else "none").rows()
    after = Redirect(MARKED, target)(before, PLACE)
    torch.testing.assert_close(after.sum(-1), before.sum(-1))
    for image in range(3):
        gone = [TOKENS[place] for place in MARKED[image].nonzero().flatten().tolist()]
        rest = [key for key in range(LAYOUT.length) if key not in gone]
        gets = rest if target is None else [TOKENS[int(target[image])]]
        for h in range(4):
            for query in range(LAYOUT.length):
                wanted = before[image, h, query].clone()
                moved = sum(float(wanted[key]) for key in gone)
                wanted[gone] = 0
                for key in gets:
                    wanted[key] += moved / len(gets)
                torch.testing.assert_close(after[image, h, query], wanted)


def test_tokens_values_and_registers_are_put_in_their_places_only() -> None:
    tokens, values = some(3, LAYOUT.length, 5), some(3, 5)
    wanted = tokens.clone()
    wanted[0, TOKENS[1]], wanted[0, TOKENS[5]], wanted[1, TOKENS[3]] = values
    assert torch.equal(PutTokens(MARKED, values)(tokens, PLACE), wanted)
    qkv, values = attention(), some(3, 8)
    v = qkv.v.clone()
    for value, (image, place) in zip(values, [(0, 1), (0, 5), (1, 3)], strict=True):
        v[image, :, TOKENS[place]] = value.view(4, 2)
    found = PutValues(MARKED, values)(qkv, PLACE)
    assert torch.equal(found.v, v)
    assert found.q is qkv.q
    assert found.k is qkv.k
    wanted = tokens.clone()
    wanted[:, [2]] = values.view(3, 1, 8)[..., :5]
    assert torch.equal(PutRegisters(values.view(3, 1, 8)[..., :5])(tokens, PLACE), wanted)


def test_random_patches_are_as_many_never_sinks_and_depend_on_the_image_alone() -> None:
    sinks = torch.rand(40, 30, generator=torch.Generator().manual_seed(0)) < 0.15
    sinks[3] = False
    sinks[4, :16] = True  # too many: nothing to compare with
    there = torch.arange(30) != 29
    sinks &= there
    numbers = torch.arange(40)
    found = choose(sinks, there, 4, numbers, 0)
    assert torch.equal(found.random.sum(1), found.sinks.sum(1))
    assert not (found.random & sinks).any()
    assert not (found.instead & sinks).any()
    assert not (found.random | found.instead)[:, 29].any()
    assert (found.instead[:4].sum(1) == 4).all()
    assert not found.acts[3]
    assert not found.acts[4]
    assert not (sinks | found.random)[found.acts, found.target[found.acts]].any()
    alone = choose(sinks[7:8], there, 4, numbers[7:8], 0)
    assert torch.equal(alone.random[0], found.random[7])
    assert int(alone.target[0]) == int(found.target[7])
    other = choose(sinks, there, 4, numbers, 5)
    assert not torch.equal(other.random, found.random)
