"""The precision of a run: measured, written beside its settings, and kept when it is resumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vitreg.records import PrecisionChoice
from vitreg.training.settings import RunConfig, TrainConfig
from vitreg.verbs.train import verb as train

CPU = torch.device("cpu")
CHOICE = PrecisionChoice(chosen="bf16", why="bf16 is fast here.", fp32_ms=3.0, bf16_ms=1.0)


@pytest.fixture
def fast(monkeypatch):
    def choose(precision, _device):
        return (torch.bfloat16, CHOICE) if precision == "auto" else (torch.float32, None)

    monkeypatch.setattr(train, "choose_precision", choose)


def test_a_run_writes_down_why_and_both_times(fast):
    said: list[str] = []
    dtype, written = train._precision(TrainConfig(), CPU, None, said.append)
    assert dtype == torch.bfloat16
    assert written == {**CHOICE.model_dump(), "device": "cpu"}
    assert said == ["Precision bf16: bf16 is fast here."]


def test_a_resumed_run_keeps_the_precision_it_began_with(fast):
    began = {"precision": {"chosen": "fp32", "why": "another machine.", "device": "cpu"}}
    said: list[str] = []
    assert train._precision(TrainConfig(), CPU, began, said.append) == (torch.float32, began["precision"])
    assert not said
    elsewhere = {"precision": {**began["precision"], "device": "cuda"}}
    assert train._precision(TrainConfig(), CPU, elsewhere, said.append)[0] == torch.bfloat16
    for damaged in (None, 7, {"chosen": "fp64", "device": "cpu"}, {"chosen": ["x"], "device": "cpu"}):
        assert train._precision(TrainConfig(), CPU, {"precision": damaged}, said.append)[0] == torch.bfloat16


def test_a_named_precision_overrides_what_was_written(fast):
    config = replace(TrainConfig(), run=RunConfig(precision="fp32"))
    began = {"precision": {"chosen": "bf16", "device": "cpu"}}
    assert train._precision(config, CPU, began, pytest.fail) == (torch.float32, None)
