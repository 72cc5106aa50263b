"""The table of repairs, end to end on planted models: controls, rows kept, models without outliers, mistakes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vitreg
from vitreg.errors import UserError
from vitreg.repair.table.rows import Rows
from vitreg.results import RepairRow, RepairsResult

pytestmark = pytest.mark.usefixtures("planted_once", "blank_figures", "timed_on_two_images")

FEW: dict[str, Any] = {"methods": ("test-time",), "limit": 16, "seed": 1}


@pytest.fixture(scope="module")
def timed_on_two_images() -> Iterator[None]:
    """Half of the time of a small table is that of the forwards whose latency is measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitreg.repair.columns.cost.AT_ONCE", 2)
        yield


@pytest.fixture(scope="module")
def folder(photographs: list[Path], timed_on_two_images: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("repairs") / "out"
    vitreg.repairs("planted:high-norm", photographs, out=out, twin="planted:clean", **FEW)
    return out


@pytest.fixture(scope="module")
def result(folder: Path) -> RepairsResult:
    return RepairsResult.model_validate_json((folder / "result.json").read_text())


def rows(result: RepairsResult) -> dict[str, RepairRow]:
    return {f"{row.method} {row.control}".strip(): row for row in result.rows}


def test_the_rows_are_the_model_its_repairs_and_their_controls(result: RepairsResult) -> None:
    assert list(rows(result)) == [
        "none", "none clean twin", "test-time", "test-time random", "test-time zero strength", "none twin",
    ]  # fmt: skip
    assert not [row.failed for row in result.rows if row.failed]
    assert (result.images, result.held_out) == (16, 8)
    assert result.repairable


def test_a_repair_gains_and_a_control_by_lot_does_not(result: RepairsResult) -> None:
    outliers = {name: row.cells["outliers_peak"].value for name, row in rows(result).items()}
    assert outliers["none"] == outliers["test-time random"] > 1
    assert outliers["test-time"] == outliers["none clean twin"] == outliers["none twin"] == 0
    found = rows(result)
    assert found["test-time"].cells["ratio_peak"].value < 1.2 < 5 < found["none"].cells["ratio_peak"].value
    assert found["test-time"].cells["attention_sinks"].value < found["none"].cells["attention_sinks"].value
    assert found["test-time"].cells["tokens"].value == 1
    assert found["test-time"].cells["exportable"].value == 0
    assert 0.5 < found["test-time"].cells["latency"].value < 2
    assert found["test-time"].cells["normal_change"].value < 0.01


def test_a_planted_model_is_held_against_its_clean_twin(result: RepairsResult) -> None:
    near = {name: row.cells["restored_outliers"].value for name, row in rows(result).items() if row.control != "twin"}
    assert near["none"] == near["test-time zero strength"]
    assert near["none"] < 0.5 < 0.9 < near["test-time"] < near["none clean twin"] == pytest.approx(1, abs=1e-5)
    assert rows(result)["test-time"].cells["restored_normal"].value > 0.99


def test_zero_strength_is_the_model_as_it_is(result: RepairsResult) -> None:
    before, zero = rows(result)["none"], rows(result)["test-time zero strength"]
    assert zero.identical
    assert not zero.notes
    measured = {name: cell for name, cell in zero.cells.items() if name in before.cells}
    own = {"change": None, "change_low": None, "change_high": None}
    assert {name: cell.model_copy(update=own) for name, cell in measured.items()} == before.cells
    assert all(cell.change in (0, None) for cell in measured.values())
    assert zero.cells["cls_change"].value == zero.cells["normal_change"].value == 0
    assert not rows(result)["test-time"].identical


def test_a_twin_is_measured_and_its_tokens_are_not_compared(result: RepairsResult) -> None:
    twin = rows(result)["none twin"]
    assert not {"cls_change", "normal_change", "knn_agreement"} & set(twin.cells)
    assert all(cell.change is None for cell in twin.cells.values())
    assert "planted:clean" in twin.notes[0]


def test_the_page_the_table_and_the_maps_are_drawn_and_drawn_again(folder: Path, tmp_path: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "test-time leaves" in page
    assert (folder / "maps.png").is_file()
    lines = (folder / "table.csv").read_text().splitlines()
    assert len(lines) == 7
    assert {len(line.split(",")) for line in lines} == {len(lines[0].split(","))}
    vitreg.draw(folder, out=tmp_path)
    assert (tmp_path / "report.html").read_text() == page
    assert (tmp_path / "table.csv").read_bytes() == (folder / "table.csv").read_bytes()
    assert (tmp_path / "maps.png").is_file()


def test_finished_rows_are_kept_and_others_measured(
    folder: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    own = Rows.measure
    monkeypatch.setattr(Rows, "measure", lambda self, asked: measured.append(str(asked)) or own(self, asked))
    again = vitreg.repairs("planted:high-norm", photographs, out=folder, twin="planted:clean", **FEW)
    assert not measured
    assert all(row.kept for row in again.rows)
    other = vitreg.repairs("planted:high-norm", photographs[1:], out=folder, methods=("none",), limit=6, controls=False)
    assert measured == ["none"]
    assert not other.rows[0].kept
    assert len(list((folder / "rows").iterdir())) == 1  # those of the earlier table went with it


def test_an_interrupted_table_goes_on_from_its_rows(
    photographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: dict[str, Any] = {**FEW, "out": tmp_path, "controls": False}

    def stop(row: RepairRow) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vitreg.repairs("planted:high-norm", photographs, ended=stop, **words)
    assert not (tmp_path / "result.json").exists()
    found = vitreg.repairs("planted:high-norm", photographs, **words)
    assert [row.kept for row in found.rows] == [True, False]
    assert json.loads((tmp_path / "result.json").read_text())["schema"] == "vitreg.repairs/1"


def test_a_model_without_outliers_is_left_alone_unless_forced(photographs: list[Path]) -> None:
    words: dict[str, Any] = {"methods": ("test-time",), "limit": 8, "controls": False, "size": 96}
    left = vitreg.repairs("planted:clean", photographs, **words)
    assert not left.repairable
    assert [(row.method, row.unneeded) for row in left.rows] == [("none", True)]
    assert left.rows[0].cells["outliers_peak"].value == 0
    forced = vitreg.repairs("planted:clean", photographs, force=True, **words)
    assert [row.method for row in forced.rows] == ["none", "test-time"]
    assert all(row.forced for row in forced.rows)


def test_a_model_that_fails_is_a_row_and_the_others_go_on(photographs: list[Path]) -> None:
    words: dict[str, Any] = {"methods": ("none",), "limit": 5, "size": 64}
    found = vitreg.repairs(["planted:nothing", "planted:clean"], photographs, **words)
    assert "no planted kind 'nothing'" in found.rows[0].failed
    assert not found.rows[1].failed
    with pytest.raises(UserError, match="no planted kind"):
        vitreg.repairs("planted:nothing", photographs, **words)


def test_a_method_that_cannot_repair_a_model_says_so_in_its_row(photographs: list[Path]) -> None:
    found = vitreg.repairs("planted:position-locked", photographs, methods=("test-time",), limit=16, controls=False)
    assert "position-rows" in found.rows[1].failed
    assert found.rows[0].cells


def test_boxes_and_labels_give_their_columns(voc: Path, tmp_path: Path) -> None:
    images = sorted((voc / "JPEGImages").iterdir())
    found = vitreg.repairs(
        "planted:high-norm", images, methods=("none",), boxes=voc / "Annotations", controls=False, size=96, force=True
    )
    cells = found.rows[0].cells
    assert 0 <= cells["corloc"].value <= 100
    assert cells["point_in_box"].high is not None
    other = tmp_path / "boxes"
    other.mkdir()
    (other / "z.xml").write_text((voc / "Annotations" / f"{images[0].stem}.xml").read_text())
    with pytest.raises(UserError, match="no boxes for these images"):
        vitreg.repairs("planted:high-norm", images, methods=("none",), boxes=other, size=96, force=True)


def test_mistakes_are_one_sentence(photographs: list[Path]) -> None:
    with pytest.raises(UserError, match="Did you mean 'test-time'"):
        vitreg.repairs("planted:clean", photographs, methods=("tset-time",))
    with pytest.raises(UserError, match="at least 5 images, and there are 3"):
        vitreg.repairs("planted:clean", photographs[:3], size=64)
    with pytest.raises(UserError, match="one model only"):
        vitreg.repairs(["planted:clean", "planted:hidden"], photographs, weights="w.pth")
