"""A board takes no record whose numbers cannot be, and says where two of the same weights and images differ."""

import json

import pytest
from tests.unit.verbs.zoo.test_board import at, found, none

import vitreg
from vitreg.errors import UserError
from vitreg.report.zoo.page import render
from vitreg.verbs.zoo.believable import damage, told_apart
from vitreg.verbs.zoo.board import row_of

UNEVEN = [5.0, 0.0, 5.0, 0.0, 10.0]


def altered(result, **changes):
    return result.model_copy(update={"verdict": result.verdict.model_copy(update=changes)})


def test_scans_as_they_are_pass():
    for result in (found("timm:a", at(3)), found("timm:b", UNEVEN), none("timm:c"), none("timm:d", undecided=True)):
        assert damage(result, row_of(result)) == ""


@pytest.mark.parametrize("share", [0.9, 1.5, -0.1, float("nan"), float("inf"), 0.3, 0.0001])
def test_a_share_that_was_written_into_a_record_is_noticed(share):
    result = altered(found("timm:a", UNEVEN), outlier_fraction=share)
    assert damage(result, row_of(result)).startswith("its ")


def test_a_ratio_that_is_no_number_is_noticed():
    result = found("timm:a", at(3))
    layers = [layer.model_copy(update={"ratio": float("nan")}) for layer in result.layers]
    result = result.model_copy(update={"layers": layers})
    assert "ratio is nan" in damage(result, row_of(result))


def written(folder, result):
    folder.mkdir()
    (folder / "result.json").write_text(result.model_dump_json())
    return folder


def test_a_damaged_record_is_a_row_with_one_sentence_and_gets_no_badge(tmp_path):
    good = written(tmp_path / "good", found("timm:a", UNEVEN))
    bad = written(tmp_path / "bad", found("timm:b", UNEVEN))
    held = json.loads((bad / "result.json").read_text())
    held["verdict"]["outlier_fraction"] = 0.9
    (bad / "result.json").write_text(json.dumps(held))
    board = vitreg.zoo(out=tmp_path / "out", records=(good, bad))
    assert [(row.model, bool(row.rank), bool(row.failed)) for row in board.rows] == [
        ("timm:a", True, False), ("timm:b", False, True),
    ]  # fmt: skip
    assert "is damaged: its interval" in board.rows[1].failed
    with pytest.raises(UserError, match="is damaged"):
        vitreg.badge(bad, out=tmp_path / "badge")


def test_the_same_weights_on_the_same_images_with_other_numbers_are_told(tmp_path):
    rows = [row_of(found("timm:a", at(3))), row_of(found("run:a", at(9))), row_of(found("timm:c", at(3)))]
    same = [row.model_copy(update={"weights_sha256": sha}) for row, sha in zip(rows, ("s", "s", "t"), strict=True)]
    told = told_apart(same)
    assert ["run:a" in told[0].disagrees, "timm:a" in told[1].disagrees, told[2].disagrees] == [True, True, ""]
    assert not any(row.disagrees for row in told_apart([same[0], same[0], same[2]]))
    records = [written(tmp_path / str(place), found("timm:a", at(n))) for place, n in enumerate((3, 9))]
    assert "in another record" in render(vitreg.zoo(out=tmp_path / "out", records=records))


def test_a_name_cannot_end_the_block_of_the_command():
    from vitreg.report.zoo.card import fenced

    first, line, last = fenced("$ vitreg scan a```b\n```\nevil")
    assert first == "````console"
    assert last == "````"
    assert "\n" not in line
