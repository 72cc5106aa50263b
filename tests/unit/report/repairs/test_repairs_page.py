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
