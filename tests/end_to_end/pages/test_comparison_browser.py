"""The page of `vitreg demo` in a real browser: the same photograph twice on the first screen, at any width."""

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.report import synthetic_scan
from vitreg.report import write_comparison

from .test_page_browser import find, pixels

pytestmark = pytest.mark.browser

LONG = "its clean twin, called by a name of so many words that it takes more than one line above a chart"


@pytest.fixture(scope="module")
def pair():
    """The maps of one picture with outliers and without."""
    shown = synthetic_scan.examples(1, grid=(12, 12), names=["cup"])[0]
    usual = np.where(shown.outliers, np.median(shown.norms), shown.norms)
    return shown, replace(shown, norms=usual, outliers=np.zeros_like(shown.outliers))


@pytest.fixture
def opened(browser, pair, tmp_path):
    made = synthetic_scan.scan_result
    scans = [("Planted", made(grid=(12, 12)), "planted"), (LONG, made("none", grid=(12, 12)), "clean")]
    page = write_comparison(scans, tmp_path / "index.html", title="The same picture", pictures=[("cup", pair)])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(page.as_uri())
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_the_same_photograph_stands_twice_on_the_first_screen_with_its_norm_maps(opened, pair):
    boxes = opened.execute_script(
        "return [...document.querySelectorAll('.example img')].map((i) => [i.getBoundingClientRect().bottom, i.naturalWidth, i.src])"
    )
    assert len(boxes) == 2
    assert all(bottom < 900 and wide > 0 for bottom, wide, _ in boxes)
    assert boxes[0][2] == boxes[1][2]
    with_outliers, without = (
        pixels(opened, f"[data-example='{i}'] [data-map='norms'] .base")[..., :3].astype(int).sum(-1) for i in (0, 1)
    )
    bright = pair[0].outliers
    assert with_outliers[bright].min() > 1.5 * without.max()  # one scale for both
    assert (with_outliers[~bright] == without[~bright]).all()


def test_a_scale_of_attention_stands_only_beside_maps_of_attention(opened):
    scale = find(opened, "#attention-scale")
    assert not scale.is_displayed()
    find(opened, "#further").click()
    assert scale.is_displayed()


def test_charts_of_one_quantity_stand_at_one_height(opened):
    for kind in ("norms", "histogram"):
        boxes = opened.execute_script(
            "return [...document.querySelectorAll(arguments[0])].filter((c) => c.getBoundingClientRect().width)"
            ".map((c) => { const b = c.getBoundingClientRect(); return [b.top, b.bottom, b.left]; })",
            f".chart.{kind}",
        )
        assert len(boxes) == 2
        assert boxes[0][:2] == boxes[1][:2]
        assert boxes[0][2] < boxes[1][2]


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_no_width_needs_sideways_scrolling(opened, width):
    metrics = {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wide, seen = opened.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= seen <= width
    assert find(opened, ".example img").is_displayed()
