"""Several evaluations in one table: what it says first, its cells, its CSV, and foreign names as text."""

import csv
import io

import pytest

from vitreg.report.evaluation.table import as_csv, render, sentence
from vitreg.results import EvalPair, Evaluations

TITLES = {"knn": "Nearest neighbours", "depth": "Depth"}
HOSTILE = '"><img src=x onerror=alert(1)>,\n'


def pair(model="a", task="knn", value=60.0, **changes):
    fields = {
        "title": TITLES.get(task, ""), "folder": f"{model}/{task}", "metric": "top1", "unit": "%",
        "controls": {"chance": 10.0, "shuffled": 12.0},
        "counts": {"train": 5, "test": 9}, "registers": 4,
    }  # fmt: skip
    return EvalPair(model=model, task=task, value=value, **{**fields, **changes})


def failed(model="c", task="knn"):
    return EvalPair(
        model=model, task=task, title=TITLES.get(task, ""), folder=f"{model}/{task}", failed="no model 'c' in timm."
    )


def plain(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([pair("a", value=99.97), pair("b", value=100.0)], "b is best with 100 %, a has 99.97 %."),
        ([pair("a", value=50.0), pair("b", value=60.0)], "b is best with 60.0 %, a has 50.0 %."),
        ([pair("a", value=1.0, larger_is_better=False, controls={}, unit="m"),
          pair("b", value=2.0, larger_is_better=False, controls={}, unit="m")], "a is best with 1.00 m, b has 2.00 m."),
        ([pair("a", interval=(40.0, 80.0)), pair("b", value=50.0, interval=(30.0, 70.0))], "their intervals overlap."),
        ([pair("a", interval=(59.0, 61.0)), pair("b", value=50.0, interval=(49.0, 51.0))], "b has 50.0 %."),
        ([pair("a"), pair("b")], "a and b both have 60.0 %."),
        ([pair("a"), failed()], "a has 60.0 %."),
        ([pair("a", value=11.0), pair("b", value=9.0)], "a has 11.0 %, which is no better than a control."),
        ([failed()], "no model could be measured."),
    ],
)  # fmt: skip
def test_which_model_is_best_is_said(pairs, said):
    assert plain(sentence(pairs)).startswith("Nearest neighbours: ")
    assert plain(sentence(pairs)).endswith(said)


def test_the_best_control_is_the_hardest_to_beat():
    assert pair().control == ("shuffled", 12.0)
    assert pair(larger_is_better=False).control == ("chance", 10.0)
    assert pair(controls={}).beats_controls is None


def test_the_csv_holds_every_pair_and_reads_back():
    result = Evaluations(data=HOSTILE, pairs=[pair(HOSTILE, interval=(50.0, 70.0)), failed()])
    first, second = csv.DictReader(io.StringIO(as_csv(result)))
    assert (first["model"], first["value"], first["low"], first["high"]) == (HOSTILE, "60.0", "50.0", "70.0")
    assert (first["best_control"], first["control"], first["beats_controls"]) == ("shuffled", "12.0", "True")
    assert (second["value"], second["failed"]) == ("", "no model 'c' in timm.")


def test_the_page_shows_each_pair_and_names_what_failed():
    pairs = [pair("a"), pair("a", "depth", 0.5, larger_is_better=False, unit="m", controls={"mean": 0.4}), failed("b")]
    page = plain(render(Evaluations(data="set", pairs=pairs)))
    assert 'href="a/knn/report.html"' in page
    assert "<s>0.5 m</s>" in page
    assert "no model &#39;c&#39; in timm." in page
    assert 'data-label="Depth" class="missing"' in page  # b was not asked
    assert "2 models, 2 tasks on set." in page


def test_foreign_names_stay_text():
    page = render(Evaluations(data=HOSTILE, pairs=[pair(HOSTILE), failed(HOSTILE, HOSTILE)]))
    assert "<img" not in page
    assert "onerror=alert(1)" in page
