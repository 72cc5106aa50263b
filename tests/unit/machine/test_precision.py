"""`auto` takes bf16 only where it was measured to be worth it; the reason and both times are said."""

from __future__ import annotations

import pytest
import torch

from vitreg.machine import precision
from vitreg.machine.precision import choose_precision

CPU = torch.device("cpu")


@pytest.fixture
def instructions(monkeypatch):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"), [(1.2, 1.0, "bf16"), (1.19, 1.0, "fp32"), (1.0, 1.8, "fp32"), (7.0, 1.0, "bf16")]
)
def test_bf16_must_be_measured_to_be_worth_it(instructions, monkeypatch, fp32, bf16, chosen):
    monkeypatch.setattr(precision, "times", lambda _what, _prepare: {"fp32": fp32, "bf16": bf16})
    dtype, choice = choose_precision("auto", CPU)
    assert dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[chosen]
    assert choice is not None
    assert (choice.chosen, choice.fp32_ms, choice.bf16_ms) == (chosen, fp32, bf16)
    assert f"{bf16:.2f} ms in bf16, {fp32:.2f} in fp32" in choice.sentence


@pytest.mark.parametrize(("onednn", "faster"), [(1.0, True), (1.01, False), (0.0, False)])
def test_onednn_must_be_measured_to_be_worth_it_and_then_counts_as_fp32(instructions, monkeypatch, onednn, faster):
    found = {"fp32": 1.2, "bf16": 1.0, "fp32 by oneDNN": onednn}
    monkeypatch.setattr(precision, "times", lambda _what, _prepare: found)
    assert precision.fp32_by_onednn() is faster
    choice = choose_precision("auto", CPU)[1]
    assert choice is not None
    assert (choice.fp32_ms, choice.chosen) == ((onednn, "fp32") if faster else (1.2, "bf16"))


def test_a_clock_that_stands_still_chooses_fp32(instructions, monkeypatch):
    monkeypatch.setattr(precision, "times", lambda _what, _prepare: {"fp32": 0.0, "bf16": 0.0})
    assert choose_precision("auto", CPU)[0] == torch.float32


def test_without_instructions_nothing_is_timed(monkeypatch):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(precision, "times", lambda *_: pytest.fail("timed a product that may take minutes"))
    dtype, choice = choose_precision("auto", CPU)
    assert dtype == torch.float32
    assert choice is not None
    assert choice.fp32_ms is None


def test_a_named_precision_overrides_and_needs_no_reason(monkeypatch):
    monkeypatch.setattr(precision, "times", lambda *_: pytest.fail("timed for nothing"))
    assert choose_precision("fp16", CPU) == (torch.float16, None)
    assert choose_precision("bf16", CPU) == (torch.bfloat16, None)


def test_the_products_are_the_same_but_for_their_type():
    found = {name: work() for name, work in precision._products().items()}
    assert (found["fp32"].dtype, found["bf16"].dtype) == (torch.float32, torch.bfloat16)
    assert len({product.shape for product in found.values()}) == 1
    assert all(product.dtype == torch.float32 for name, product in found.items() if "fp32" in name)
