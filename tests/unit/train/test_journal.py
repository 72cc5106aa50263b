"""The records of a run: in order, cut back on resuming, whole in spite of a crash, and in TensorBoard if wanted."""

import json
import math

import pytest

from vitreg.train.journal import Journal, read_records


def steps(folder, kind=None):
    return [record["step"] for record in read_records(folder, kind)]


def test_resuming_takes_back_what_came_after_the_checkpoint(tmp_path):
    journal = Journal(tmp_path, 0, write=True, tensorboard=False)
    for step in (10, 20, 30):
        journal.write("train", step, {"loss": 1 / step})
    journal.write("norms", 30, {"verdict": "none"})
    Journal(tmp_path, 20, write=True, tensorboard=False).write("train", 21, {"loss": 0.5})
    assert steps(tmp_path) == [10, 20, 21]
    assert steps(tmp_path, "norms") == []


def test_a_new_run_starts_empty_and_other_processes_write_nothing(tmp_path):
    Journal(tmp_path, 0, write=True, tensorboard=False).write("train", 1, {"loss": 1.0})
    Journal(tmp_path, 0, write=False, tensorboard=False).write("train", 2, {"loss": 1.0})
    assert steps(tmp_path) == [1]
    Journal(tmp_path, 0, write=True, tensorboard=False)
    assert steps(tmp_path) == []


def test_a_line_cut_off_by_a_crash_is_passed_over(tmp_path):
    journal = Journal(tmp_path, 0, write=True, tensorboard=False)
    journal.write("train", 1, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    assert steps(tmp_path) == [1]
    Journal(tmp_path, 1, write=True, tensorboard=False).write("train", 2, {"loss": 1.0})
    assert steps(tmp_path) == [1, 2]


def test_every_line_is_json_even_where_a_value_is_not_finite(tmp_path):
    Journal(tmp_path, 0, write=True, tensorboard=False).write("train", 1, {"loss": math.nan, "lr": math.inf})
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert line["loss"] is None
    assert line["lr"] is None


def test_tensorboard_holds_the_same_numbers(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    journal = Journal(tmp_path, 0, write=True, tensorboard=True)
    for step in (1, 2, 3):
        journal.write("train", step, {"loss": float(step), "note": "words are no curve"})
    journal.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert events.Tags()["scalars"] == ["train/loss"]
