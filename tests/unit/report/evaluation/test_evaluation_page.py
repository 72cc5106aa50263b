"""The page of an evaluation: the sentence first, controls beside the number, foreign text as text."""

import pytest
from tests.unit.verbs.made_results import result

from vitreg.records import Skipped, Undrawn
from vitreg.report.attempts import Attempts
from vitreg.report.evaluation import words
from vitreg.report.evaluation.charts import beside_controls
from vitreg.report.evaluation.page import render
from vitreg.results import EvalData, Table
from vitreg.verbs.eval.registry import TASKS

HOSTILE = '"><img src=x onerror=alert(1)>'
SURE = {"intervals": {"top1": (65.0, 77.2)}, "units": {"top1": "%"}}


def plain(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_every_task_has_its_sentence():
    for task, settings in TASKS.items():
        assert settings.title
        name = "percent_more_macs_4" if task == "complexity" else "top1"
        changes = {"headline": name, "metrics": {name: 12.3}, "intervals": {name: (10.0, 15.0)}, "units": {name: "%"}}
        made = result(task=task, title=settings.title, measured=settings.measured, **changes)
        said = plain(words.sentence(made))
        assert "12.3 %" in said
        assert "{" not in said


def test_the_number_stands_with_its_interval_and_its_controls():
    made = result(**SURE)
    assert plain(words.sentence(made)) == (
        "The vote of the nearest training images is right for 71.5 % of the 200 test images (95 % interval 65.0 to 77.2 %)."
    )
    assert plain(words.controls(made)) == "Controls that must be worse: chance 10.0 %."


def test_a_record_without_words_is_named_by_its_task():
    """As records of 0.1.0 are, and those of tasks that say nothing of themselves."""
    made = result(task="alike", title="", measured="", headline="cosine", metrics={"cosine": 0.5})
    assert words.title(made) == "alike"
    assert words.sentence(made) == "alike scores 0.5 (cosine)."


def test_other_metrics_are_called_by_their_name():
    """A mean average precision is no share of right answers."""
    made = result(title="Logistic regression", headline="map", metrics={"map": 61.0}, units={"map": "%"})
    assert plain(words.sentence(made)) == "Logistic regression scores 61.0 % (map)."


@pytest.mark.parametrize(
    ("changes", "standing"),
    [
        ({"controls": {"a": 10.0}}, "above"),
        ({"controls": {"a": 66.0}}, "level"),
        ({"controls": {"a": 72.0}}, "below"),
        ({"controls": {}}, "alone"),
        ({"controls": {"a": 80.0}, "larger_is_better": False}, "above"),
        ({"controls": {"a": 72.0}, "larger_is_better": False}, "level"),
        ({"controls": {"a": 66.0}, "intervals": {}}, "above"),
        ({"controls": {"a": 66.0}, "intervals": {}, "answers_either_way": True}, "level"),
        ({"metrics": {}, "intervals": {}}, "alone"),
    ],
)
def test_how_a_number_stands_to_its_controls(changes, standing):
    assert words.standing(result(**{**SURE, **changes})) == standing


def test_the_page_names_what_is_wrong():
    page = plain(render(result(**SURE, controls={"a": 72.0}, notes=["read `this`"])))
    assert "This number says nothing of the model" in page
    assert "<code>this</code>" in page
    assert "This number says nothing of the model" not in plain(render(result(**SURE)))


def test_foreign_text_stays_text():
    made = result(
        data=EvalData(name=HOSTILE, counts={HOSTILE: 3}, skipped=[Skipped(name=HOSTILE, reason=HOSTILE)]),
        metrics={"top1": 1.0, HOSTILE: 2.0}, controls={HOSTILE: 0.5}, notes=[HOSTILE], protocol={HOSTILE: [HOSTILE]},
        tables=[Table(title=HOSTILE, columns=[HOSTILE, HOSTILE], rows=[[HOSTILE, 1.5], [None, HOSTILE]])],
    )  # fmt: skip
    attempts = Attempts()
    attempts.failed.append(Undrawn(name=HOSTILE, reason=HOSTILE))
    page = render(made, attempts=attempts)
    assert "<img" not in page
    assert page.count("onerror=alert(1)") > 10


def test_the_chart_draws_every_control_and_its_text_says_them():
    drawn = str(beside_controls(result(**SURE, controls={"a": 10.0, "b": 71.0}), 340))
    assert drawn.count("<rect") == 3
    assert drawn.count('class="whisker"') == 3
    assert "95 % interval of the first 65.0 to 77.2" in plain(drawn)
    assert beside_controls(result(controls={}), 340) is None
    assert beside_controls(result(metrics={"top1": float("nan")}), 340) is None
    assert "nan" not in str(beside_controls(result(controls={"a": 10.0, "b": float("nan")}), 340))


def test_long_tables_are_cut_and_this_is_said():
    table = Table(title="t", columns=["a"], rows=[[i] for i in range(450)])
    assert "and 250 more rows" in render(result(tables=[table]))
