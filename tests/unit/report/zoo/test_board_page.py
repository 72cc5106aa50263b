"""The page, the CSV, the badge and the card of a board say what the record says, escaped, and no more than was seen."""

import csv
import io
import re
from xml.etree import ElementTree

import pytest
from tests.unit.report.synthetic_scan import scan_result
from tests.unit.verbs.zoo.test_board import at, found, none

import vitreg
from vitreg.errors import UserError
from vitreg.records.zoo import Board, BoardRow, PublishedRow
from vitreg.report.zoo.badge import COLOURS, GROUND, badge_of, says
from vitreg.report.zoo.card import card_of
from vitreg.report.zoo.page import as_csv, render
from vitreg.verbs.zoo.board import ranked, row_of

HOSTILE = 'timm:<img src=x onerror=alert(1)>|`_"'


@pytest.fixture
def board():
    other = row_of(found("timm:other", at(3), sha="cd" * 32))
    rows, protocol = ranked([row_of(found(HOSTILE, at(30))), row_of(none("timm:clean")), other])
    failed = BoardRow(model="hf:absent", origin="scan", failed="the hub has no hf:absent; check the name.")
    theirs = PublishedRow(model="DINO", says="clean", source="a paper", protocol="one image")
    return Board(
        images="photos", protocol=protocol, rows=[*rows, failed], published=[theirs],
        provenance=scan_result().provenance,
    )  # fmt: skip


def test_the_page_has_sections_of_its_own_for_what_is_not_ranked(board):
    page = render(board)
    parts = dict(re.findall(r'<h2 id="(\w+)">.*?</h2>(.*?)</section>', page, re.DOTALL))
    assert "timm:clean" in parts["ranked"]
    assert "timm:other" not in parts["ranked"]
    assert "other images" in parts["others"]
    assert "the hub has no hf:absent" in parts["failed"]
    assert "DINO" in parts["theirs"]
    assert "DINO" not in parts["ranked"]
    assert "would have shown" in parts["ranked"]
    assert "<img src=x" not in page
    assert page.count("<script") == 2


def test_the_csv_has_a_line_for_each_row(board):
    lines = list(csv.DictReader(io.StringIO(as_csv(board))))
    assert [line["model"] for line in lines] == [HOSTILE, "timm:clean", "timm:other", "hf:absent"]
    assert [line["rank_first"] for line in lines] == ["1", "2", "", ""]
    assert float(lines[0]["share"]) == pytest.approx(0.03)
    assert lines[3]["failed"]


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.03928 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_white_letters_can_be_read_on_every_colour():
    assert all(1.05 / (luminance(each) + 0.05) >= 4.5 for each in (*COLOURS.values(), GROUND))


def test_the_badge_says_what_was_seen_and_never_clean():
    assert says(row_of(found("timm:a", at(3))))[0] == "strong high norm, 0.30 % of patches"
    assert says(row_of(none("timm:b"))) == ("none seen (mild ones from 0.40 % would be)", "none")
    assert says(row_of(none("timm:c", excludes=False))) == ("none seen, too few images to exclude mild ones", "open")
    assert says(row_of(none("timm:d", undecided=True)))[0] == "not established"
    for result in (none("timm:b"), found(HOSTILE, at(3)), found("planted:clean", at(3))):
        text = badge_of(row_of(result))
        root = ElementTree.fromstring(text)
        assert root.tag.endswith("svg")
        assert root.get("viewBox").split()[2] == root.get("width")
        assert "clean" not in "".join(root.itertext()).replace(result.model.spec, "")
        assert ("planted" in text) == result.model.spec.startswith("planted")


def test_the_card_has_numbers_protocol_and_command_and_no_markup_of_a_name():
    result = found(HOSTILE, at(3))
    text = card_of(row_of(result), result)
    assert "| outliers, share of the patch tokens | 0.30 % (0.30 % to 0.30 %) |" in text
    assert "20 images (SHA-256 abababababababab)" in text
    assert result.provenance.command in text
    assert result.provenance.started[:10] in text
    assert f"`{HOSTILE.replace('`', chr(39))}`" in text
    seen = card_of(row_of(none("timm:b")), none("timm:b"))
    assert "These images would have shown" in seen
    assert "PLANTED" in card_of(row_of(found("planted:hidden", at(3))), found("planted:hidden", at(3)))


def test_the_badge_of_a_folder(tmp_path):
    result = found("timm:a", at(3))
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "result.json").write_text(result.model_dump_json())
    card = vitreg.badge(tmp_path / "scan", out=tmp_path / "out")
    assert card.read_text() == card_of(row_of(result), result)
    assert (tmp_path / "out" / "badge.svg").read_text() == badge_of(row_of(result))
    assert vitreg.badge(tmp_path / "scan" / "result.json", out=tmp_path / "out") == card  # may be made again
    with pytest.raises(UserError, match="holds no scan"):
        vitreg.badge(tmp_path, out=tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "badge.svg").write_text("mine")
    with pytest.raises(UserError, match="move it away"):
        vitreg.badge(tmp_path / "scan", out=tmp_path / "mine")
