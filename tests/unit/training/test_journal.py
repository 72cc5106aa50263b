"""The records of a run: in order, cut back on resuming, whole in spite of a crash, and in TensorBoard if wanted."""

import json
import math

import pytest
import torch

from vitreg.errors import UserError
from vitreg.training.journal import Journal, Sums, read_journal, read_records


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


NOTES = "my notes\n"


@pytest.mark.parametrize("step", [0, 20])
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (NOTES, NOTES),
        ('# mine\n{"kind": "train", "step": 20}\n', '# mine\n{"kind": "train", "step": 20}\n'),
        ('{"kind": "train", "step": 20}\n{"kind": "tr', None),  # a crash did that
    ],
)
def test_lines_that_no_run_wrote_stay_in_a_copy(tmp_path, step, text, kept):
    path, copy = tmp_path / "metrics.jsonl", tmp_path / "metrics.jsonl.kept-1"
    path.write_text(text)
    for _ in range(2):
        Journal(tmp_path, step, write=True, tensorboard=False)
    assert (copy.read_text() if copy.exists() else None) == kept
    assert not (tmp_path / "metrics.jsonl.kept-2").exists()


def test_a_journal_that_is_a_link_stays_one_beside(tmp_path):
    (tmp_path / "mine").write_text(NOTES)
    (tmp_path / "metrics.jsonl").symlink_to("mine")
    Journal(tmp_path, 20, write=True, tensorboard=False).write("train", 21, {"loss": 0.5})
    assert steps(tmp_path) == [21]
    assert (tmp_path / "mine").read_text() == NOTES
    assert (tmp_path / "metrics.jsonl.kept-1").read_text() == NOTES


BAD = [
    b"\xff\xfe\x00 no text",
    b'{"kind": "train", "step": "20", "loss": 1.0}',
    b'{"kind": "train", "step": 20.5}',
    b'{"kind": "train", "step": true}',
    b'{"kind": "train", "step": -1}',
    b'{"kind": "train", "step": 1e999}',
    b'{"kind": "train", "step": 1' + b"0" * 400 + b"}",
    b'{"kind": 7, "step": 20}',
    b'{"step": 20}',
    b"[" * 100_000,
    b"null",
    b'{"kind": "train", "st',
]


@pytest.mark.parametrize("bad", BAD)
def test_a_line_that_is_no_record_is_passed_over_counted_and_gone_after_resuming(tmp_path, bad):
    journal = Journal(tmp_path, 0, write=True, tensorboard=False)
    for step in (10, 20):
        journal.write("train", step, {"loss": 1 / step})
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([bad, lines[0], bad, lines[1], b"", b""]))
    assert steps(tmp_path) == [10, 20]
    assert read_journal(tmp_path)[1] == 2
    Journal(tmp_path, 20, write=True, tensorboard=False).write("train", 30, {"loss": 0.1})
    assert steps(tmp_path) == [10, 20, 30]
    assert read_journal(tmp_path)[1] == 0


def test_a_journal_that_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*metrics\.jsonl"):
        read_records(tmp_path)


def test_a_clock_that_stands_still_gives_no_rate_and_no_error():
    sums = Sums()
    sums.add({"loss": torch.tensor(1.0)}, 0.0, 0.0)
    assert sums.rate(8) is None
    assert sums.wait_share == 0
    sums.add({"loss": torch.tensor(1.0)}, 0.5, 2.0)
    assert sums.rate(8) == 8.0
    assert sums.wait_share == 0.25


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


def test_records_of_published_weights_go_one_by_one_as_the_run_comes_past_them(tmp_path):
    journal = Journal(tmp_path, 0, write=True, tensorboard=False)
    for step in (10, 20, 30, 40):
        journal.write("train", step, {"loss": 1 / step})
    journal = Journal(tmp_path, 10, until=30, write=True, tensorboard=False)
    assert steps(tmp_path) == [10, 20, 30]
    for step, left in ((15, [10, 15, 20, 30]), (25, [10, 15, 25, 30]), (35, [10, 15, 25, 35])):
        journal.write("train", step, {"loss": 0.5})
        assert steps(tmp_path) == left
