"""A run that ends by its task's error: when it ends, that it ends there again after a stop, and what cannot be read."""

import pytest

from vitreg.errors import UserError
from vitreg.presets import preset
from vitreg.schedule import Until, until_of
from vitreg.training.history import read_run
from vitreg.training.journal import read_records
from vitreg.training.settings import changed
from vitreg.verbs.train.verb import train


def evaluations(*values):
    return [{"kind": "evaluation", "step": 10 * (i + 1), "val_loss": value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "end"),
    [((3.0, 2.0, 1.0), None), ((3.0, 0.9, 2.0), 27), ((0.5, 0.4), 17), ((None, 0.4), 27), ((), None)],
)
def test_the_end_follows_the_first_evaluation_below_the_bound(values, end):
    until = Until("val_loss", 1.0, 7)
    assert until.end(evaluations(*values)) == end
    assert until.end(reversed(evaluations(*values))) == end


def test_other_words_and_other_numbers_are_one_sentence():
    for words in ("val_loss", "val_loss > 1", "val_loss < soon", "< 1", "val_loss < nan"):
        with pytest.raises(UserError, match=r"run.until is '.*'; it is a number of the evaluations and a bound"):
            until_of(words, "0 steps", epoch_steps=1, batch=1, total=10)
    with pytest.raises(UserError, match=r"no number 'val_los' in the evaluations of this run. Did you mean 'val_loss'"):
        Until("val_los", 1.0, 0).end(evaluations(2.0))


def settings(**run):
    small = {
        "duration": "20 steps", "batch": 4, "evaluate_every": "4 steps", "watch_every": "50%", "watch_images": 4,
        "watch_maps": 1, "save_every": "3 steps", "log_every": 1, "device": "cpu",
    }  # fmt: skip
    tables = {"data": {"limit_val": 8}, "optim": {"warmup": "2 steps"}, "run": small | run}
    return changed(preset("lab-retrieval-reg1"), tables)


def test_a_run_ends_there_with_a_look_and_is_not_called_unfinished(tmp_path):
    config = settings(until="val_asked < 1000", until_more="3 steps")
    assert train(config, tmp_path / "run").step == 7
    record = read_run(tmp_path / "run")
    assert (record.step, record.total) == (7, 7)
    assert [line["step"] for line in read_records(tmp_path / "run", "evaluation")] == [4, 7]
    assert [moment.step for moment in record.watched.moments] == [0, 7]
    assert record.watched.sentence == "No artifacts appeared up to step 7."
    last = record.watched.moments[-1].layers[0]
    assert last.attention.background is not None
    assert last.attention.registers is not None
    # Resumed after its end, it stays there.
    assert train(config, tmp_path / "run", resume=True).step == 7


def test_a_bound_that_is_never_reached_ends_nothing(tmp_path):
    assert train(settings(duration="6 steps", until="val_loss < 1e-9"), tmp_path / "run").step == 6
    assert read_run(tmp_path / "run").total == 6
