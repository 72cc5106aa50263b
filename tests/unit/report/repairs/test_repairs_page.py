"""The page of the table of repairs: what is better and worse is marked by its interval; foreign text stays text."""

from __future__ import annotations

import csv
import io

import pytest
from tests.unit.verbs.made_results import result as made_result

from vitreg.report.repairs import words
from vitreg.report.repairs.page import as_csv, render
from vitreg.results import RepairCell, RepairColumn, RepairRow, RepairsResult

HOSTILE = '"><img src=x onerror=alert(1)>'


def column(**changes: object) -> RepairColumn:
    own = {
        "name": "outliers_peak",
        "title": "outliers",
        "side": "gain",
        "better": "smaller",
        "unit": "%",
        "meaning": "m.",
    }
    return RepairColumn.model_validate({**own, **changes})


def made(*rows: RepairRow, columns: list[RepairColumn] | None = None) -> RepairsResult:
    return RepairsResult(
        data="d", images=8, held_out=2, columns=columns or [column()], rows=list(rows), resamples=10,
        provenance=made_result().provenance,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("better", "ends", "standing"),
    [
        ("smaller", (-3, -1), "better"), ("smaller", (1, 3), "worse"), ("smaller", (-1, 1), "level"),
        ("larger", (1, 3), "better"), ("larger", (-3, -1), "worse"), ("neither", (1, 3), "level"),
    ],
)  # fmt: skip
def test_a_change_counts_with_its_whole_interval(better: str, ends: tuple[float, float], standing: str) -> None:
    cell = RepairCell(value=1, change=2, change_low=ends[0], change_high=ends[1])
    assert words.standing(column(better=better), cell) == standing


def test_a_change_below_the_smallest_worth_naming_is_level_and_the_page_says_so() -> None:
    small = column(least=0.5)
    assert words.standing(small, RepairCell(value=1, change=-0.4, change_low=-0.5, change_high=-0.3)) == "level"
    assert words.standing(small, RepairCell(value=1, change=-0.5, change_low=-0.6, change_high=-0.4)) == "better"
    assert words.meaning(small) == "m. Changes below 0.5 points are called neither better nor worse."
    assert words.meaning(column(least=0.5, better="neither")) == "m."


def test_a_number_that_is_absent_has_its_reason() -> None:
    def row(method: str, **lacking: str) -> RepairRow:
        return RepairRow(model="m", method=method, cells={"outliers_peak": RepairCell(value=1)}, lacking=lacking)

    columns = [column(), column(name="corloc", title="CorLoc"), column(name="knn", title="kNN")]
    rows = [
        row("none", knn="too few"),
        row("a", knn="too few", corloc="moved"),
        RepairRow(model="m", method="b", failed="f"),
    ]
    assert words.lacking(columns, rows) == ["No kNN: too few.", "No CorLoc of a: moved."]
    page = render(made(*rows, columns=columns))
    assert "No CorLoc of a: moved." in page
    assert '<th scope="col">CorLoc' not in page  # no row has it


def test_fewer_outliers_that_the_images_cannot_tell_are_not_praised() -> None:
    cell = RepairCell(value=1.9, change=-0.1, change_low=-0.3, change_high=0.1)
    rows = [
        RepairRow(model="m", method="none", cells={"outliers_peak": RepairCell(value=2)}),
        RepairRow(model="m", method="a", cells={"outliers_peak": cell}),
    ]
    assert "no repair leaves clearly fewer: the fewest, 1.90" in words.sentence(rows, [column()])


def test_a_comparison_with_itself_is_no_standard_for_damage() -> None:
    cell = RepairCell(value=1, change=1, change_low=0.5, change_high=2)
    assert words.standing(column(side="damage", compared=True), cell) == "level"
    assert words.standing(column(side="damage"), cell) == "worse"
    assert words.standing(column(), None) == "level"


def test_the_sentence_names_the_repair_that_leaves_the_fewest() -> None:
    def row(method: str, share: float, change: float = 0.0, control: str = "") -> RepairRow:
        cells = {"outliers_peak": RepairCell(value=share), "cls_change": RepairCell(value=change)}
        return RepairRow(model="m", method=method, control=control, cells=cells)

    found = words.sentence([row("none", 2), row("a", 0, 0.5), row("b", 0, 0.1), row("none", 0, control="clean twin")])
    assert (
        found
        == "m has 2.00\N{NO-BREAK SPACE}% outliers; b leaves 0\N{NO-BREAK SPACE}% and changes CLS by 0.1 (1 - cosine)."
    )
    assert words.sentence([row("none", 2), row("a", 3)]).endswith("no repair leaves fewer.")
    assert "nothing to repair" in words.sentence([row("none", 0).model_copy(update={"unneeded": True})])


def test_foreign_text_stays_text() -> None:
    row = RepairRow(model=HOSTILE, method=HOSTILE, cells={"outliers_peak": RepairCell(value=1)}, notes=[HOSTILE])
    failed = RepairRow(model=HOSTILE, method="a", failed=HOSTILE)
    page = render(made(row, failed, columns=[column(title=HOSTILE, meaning=f"{HOSTILE}.")]))
    assert HOSTILE not in page
    assert "&lt;img src=x" in page


def test_the_csv_has_every_number_with_its_change() -> None:
    cell = RepairCell(value=1, low=0.5, high=2, change=-1, change_low=-2, change_high=-0.5)
    table = made(
        RepairRow(model="a,b", method="none", cells={"outliers_peak": cell}),
        RepairRow(model="m", method="x", failed="why"),
    )
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert rows[0]["model"] == "a,b"
    assert rows[0]["outliers_peak_change_low"] == "-2.0"
    assert (rows[1]["outliers_peak"], rows[1]["failed"]) == ("", "why")
