"""The page of an evaluation in a real browser: no complaints, nothing fetched, no width with sideways scrolling."""

import numpy as np
import pytest
from PIL import Image

from tests.unit.verbs.made_results import result
from vitreg.report import write_evaluation
from vitreg.results import Table

from .test_page_browser import find

pytestmark = pytest.mark.browser
LONG = "a control that is called by a name of so many words that it takes more than the width of a telephone"


@pytest.fixture
def opened(browser, tmp_path):
    Image.fromarray(np.full((900, 1400, 3), 120, np.uint8)).save(tmp_path / "segmentation.png")
    made = result(
        controls={LONG: 12.0, "chance": 10.0}, intervals={"top1": (65.0, 77.2)}, units={"top1": "%"},
        tables=[Table(title="Rows", columns=["token", *(f"column {i}" for i in range(8))], rows=[["CLS", *[1.5] * 8]])],
    )  # fmt: skip
    page = write_evaluation(made, [tmp_path / "segmentation.png"], tmp_path)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(page.as_uri())
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_the_sentence_and_the_controls_stand_on_the_first_screen(opened):
    bottom = opened.execute_script("return document.querySelector('h1').getBoundingClientRect().bottom")
    assert bottom < 600
    said = find(opened, "h1").text.replace("\N{NO-BREAK SPACE}", " ")
    assert "71.5 %" in said
    assert "chance 10.0 %" in said


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_no_width_needs_sideways_scrolling(opened, width):
    metrics = {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wide, seen = opened.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= seen <= width
    picture = find(opened, ".sheet img")
    assert picture.is_displayed()
    assert 200 < picture.size["width"] < width
    bars = opened.execute_script(
        "return [...document.querySelectorAll('.chart.beside')].filter((c) => c.getBoundingClientRect().width).length"
    )
    assert bars == 1


def test_labels_of_the_chart_stay_inside_it(opened):
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    outside = opened.execute_script("""
        const chart = [...document.querySelectorAll('.chart.beside')].find((c) => c.getBoundingClientRect().width);
        const box = chart.getBoundingClientRect();
        return [...chart.querySelectorAll('text')].filter((t) => t.getBoundingClientRect().right > box.right + 4).length;
    """)
    assert outside == 0
