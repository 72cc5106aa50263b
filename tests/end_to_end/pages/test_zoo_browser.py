"""The board in a real browser: headings sort, no width scrolls sideways, nothing is complained of."""

import pytest

from tests.unit.report.synthetic_scan import scan_result
from tests.unit.verbs.zoo.test_board import at, found, none
from vitreg.records.zoo import Board, BoardRow
from vitreg.report.attempts import Attempts
from vitreg.report.zoo.page import draw_board
from vitreg.verbs.zoo.board import ranked, row_of
from vitreg.verbs.zoo.named import published

pytestmark = pytest.mark.browser
LONG = "timm:vit_giant_patch14_reg4_dinov2.lvd142m"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    scans = [found("few", at(3), registers=8), found(LONG, at(30), registers=4), none("none")]
    rows, protocol = ranked([*map(row_of, scans), row_of(found(f"{LONG}-other", at(3), sha="cd" * 32))])
    rows.append(BoardRow(model=LONG * 2, origin="scan", failed="the hub has no such model; check the name."))
    board = Board(
        images="p" * 200, protocol=protocol, rows=rows, published=published(), provenance=scan_result().provenance
    )
    draw_board(board, tmp_path_factory.mktemp("board"), attempts := Attempts())
    assert not attempts.failed
    return tmp_path_factory.getbasetemp() / "board0" / "report.html"


@pytest.fixture
def opened(browser, page):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(page.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def models(opened):
    body = opened.find_elements("css selector", "table.sortable tbody")[0]
    return [each.text.splitlines()[0] for each in body.find_elements("css selector", "th")]


def test_a_heading_sorts_and_sorts_the_other_way_and_rows_without_a_value_stay_last(opened):
    heads = {
        each.text: each for each in opened.find_elements("css selector", "table.sortable:first-of-type button")[:11]
    }
    assert models(opened) == [LONG, "few", "none"]
    heads["registers"].click()
    assert models(opened) == ["few", LONG, "none"]
    heads["registers"].click()
    assert models(opened) == ["none", LONG, "few"]
    for _ in range(2):
        heads["norm ratio, peak"].click()
        assert models(opened)[2] == "none"
    heads["model"].click()
    assert models(opened) == ["few", "none", LONG]


@pytest.mark.parametrize("width", [360, 390, 1200])
def test_no_width_needs_sideways_scrolling(opened, width):
    metrics = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wide, seen = opened.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= seen <= width
    inside = opened.execute_script(
        "return [...document.querySelectorAll('.scroll')].every((each) => each.scrollWidth <= each.clientWidth)"
    )
    assert inside
