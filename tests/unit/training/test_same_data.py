"""What is written down of a run's data: it stays the same when they move, and tells others apart."""

from pathlib import Path

import pytest

from vitreg.errors import UserError
from vitreg.training import same_data
from vitreg.training.same_data import check_same_data, samples_record


class Names:
    """A set of which only the names matter."""

    def __init__(self, names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def name(self, index):
        return self.names[index]


def names_in(root, count=12):
    return [f"{root}/class{i % 3}/{i}.jpg" for i in range(count)]


def test_the_description_stays_when_the_folder_moves():
    here = samples_record(Names(names_in("/data/train")))
    assert here == samples_record(Names(names_in("../elsewhere")))
    assert here["samples"] == 12


@pytest.mark.parametrize("limit", [1_000_000, 5])
def test_it_changes_with_a_name_the_order_and_the_number(monkeypatch, limit):
    monkeypatch.setattr(same_data, "MOST_NAMES", limit)
    names = names_in("/data")
    here = samples_record(Names(names))
    assert samples_record(Names(names[::-1])) != here
    assert samples_record(Names([*names[:-1]])) != here
    assert samples_record(Names(["/data/class0/new.jpg", *names[1:]])) != here
    assert samples_record(Names(["/data/class1/0.jpg", *names[1:]])) != here


def test_of_a_huge_set_not_every_name_is_read(monkeypatch):
    monkeypatch.setattr(same_data, "MOST_NAMES", 5)
    read = []

    class Counting(Names):
        def name(self, index):
            read.append(index)
            return super().name(index)

    samples_record(Counting(names_in("/data", 23)))
    assert set(read) == {0, 5, 10, 15, 20}


def test_names_that_share_no_folder_and_a_single_one():
    assert samples_record(Names(["a", "ab"])) != samples_record(Names(["a", "b"]))
    assert (
        samples_record(Names(["/x/a.jpg"]))
        == samples_record(Names(["/y/a.jpg"]))
        != samples_record(Names(["/x/b.jpg"]))
    )
    assert samples_record(Names(["/x/a", "/x/a"]))["names"] == samples_record(Names(["/y/a", "/y/a"]))["names"]


RUN = Path("runs/my run")
THEN = {"classes": ["cat", "dog"], "data": {"samples": 4, "names": "ab"}}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"classes": ["cat", "fox"]}, "number 1 was 'dog' and is 'fox'"),
        ({"classes": ["cat"]}, "began with 2 classes, and these data have 1 ('cat')"),
        ({"classes": None}, "began with 2 classes, and these data have 0"),
        ({"data": {"samples": 5, "names": "ab"}}, "began with 4 training samples, and these are 5"),
        ({"data": {"samples": 4, "names": "ac"}}, "in another order"),
    ],
)
def test_other_data_are_refused_with_what_differs_and_what_helps(change, part):
    now = {key: value for key, value in {**THEN, **change}.items() if value is not None}
    with pytest.raises(UserError) as error:
        check_same_data(THEN, now, RUN)
    assert part in str(error.value)
    assert "data.root" in str(error.value)
    assert "run.start_from 'run:runs/my run'" in str(error.value)


def test_the_same_data_pass_and_a_run_without_a_record_gets_a_note():
    assert check_same_data(THEN, THEN, RUN) is None
    assert "did not write down" in str(check_same_data({"classes": THEN["classes"]}, THEN, RUN))
