"""The page in a real browser: no errors, pointing at a token, both colour schemes, a phone without sideways scrolling.

Needs Debian's chromium and chromedriver; skipped with the reason where one of them is missing.
"""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.patience import PATIENCE
from tests.unit.report import synthetic_scan
from vitreg.records import Skipped
from vitreg.report import write_report

pytestmark = pytest.mark.browser

HOSTILE = '"><img src=x onerror=alert(1)>.jpg'


@pytest.fixture(scope="module")
def made():
    return synthetic_scan.examples(3, grid=(12, 9), registers=1, attended=5, names=[HOSTILE, "b.jpg", "c.jpg"])


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    result = synthetic_scan.scan_result(grid=(12, 9), registers=1, skipped=[Skipped(name=HOSTILE * 4, reason="broken")])
    return write_report(result, made, tmp_path_factory.mktemp("page"))


@pytest.fixture
def opened(browser, page):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(page.as_uri())
    yield browser
    # Whatever a test did, the page must not have complained.
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def find(browser, selector):
    return browser.find_element("css selector", selector)


def check(browser, box):
    """Tick a box whatever lies over it."""
    browser.execute_script("document.getElementById(arguments[0]).click()", box)


def readout(browser, example):
    return find(browser, f"#r{example}").text


def point_at(browser, selector, row, col, grid):
    """Move the mouse to the middle of a token."""
    from selenium.webdriver.common.action_chains import ActionChains

    canvas = find(browser, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", canvas)
    size = canvas.size
    dx = round((col + 0.5) * size["width"] / grid[1] - size["width"] / 2)
    dy = round((row + 0.5) * size["height"] / grid[0] - size["height"] / 2)
    ActionChains(browser).move_to_element_with_offset(canvas, dx, dy).perform()


def pixels(browser, selector):
    """RGBA of a canvas, uint8 [height, width, 4], read from a copy so that the page's own canvas stays as it is."""
    script = """
        const from = document.querySelector(arguments[0]), copy = document.createElement('canvas');
        copy.width = from.width; copy.height = from.height;
        const context = copy.getContext('2d', {willReadFrequently: true});
        context.drawImage(from, 0, 0);
        return [copy.width, copy.height, Array.from(context.getImageData(0, 0, copy.width, copy.height).data)];
    """
    width, height, values = browser.execute_script(script, selector)
    return np.array(values, dtype=np.uint8).reshape(height, width, 4)


def test_it_opens_from_disk_and_asks_for_nothing_else(opened, page):
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    asked = [request["request"]["url"] for request in sent if request["documentURL"] == page.as_uri()]
    assert page.as_uri() in asked
    assert [url[:80] for url in asked if url != page.as_uri() and not url.startswith("data:")] == []


def test_a_hostile_name_stays_text(opened, made):
    assert find(opened, "#e0").text.startswith(HOSTILE)
    assert len(opened.find_elements("css selector", "img")) == len(made)


def test_maps_are_drawn_from_the_values(opened, made):
    base = pixels(opened, "[data-example='0'] [data-map='norms'] .base")
    norms = made[0].norms
    assert base.shape[:2] == norms.shape
    brightness = base[..., :3].astype(int).sum(-1)
    order = np.argsort(norms.ravel())
    # Magma grows brighter all the way, so the ranks of brightness are those of the norms.
    assert (np.diff(brightness.ravel()[order]) >= -2).all()
    attention = pixels(opened, "[data-example='0'] [data-map='attention'][data-index='0'] .base")
    peak = np.unravel_index(made[0].cls_attention.argmax(), norms.shape)
    assert attention[peak][:3].tolist() == [253, 231, 37]


@pytest.mark.parametrize(
    "which", ["norms", "attention", *(pytest.param(m, marks=pytest.mark.slow) for m in ("image", "pca"))]
)
def test_pointing_at_a_token_reads_its_norm_and_draws_what_it_attends_to(opened, made, which):
    example = made[0]
    row, col = (int(v) for v in np.argwhere(example.outliers)[0])
    over = f"[data-example='0'] [data-map='{which}'] .over"
    other = "[data-example='0'] [data-map='pca'] .over"
    check(opened, "further")  # shows the map of components too, which is drawn when it has its size
    wait(opened, lambda: pixels(opened, other).shape[:2] != (150, 300))
    before = pixels(opened, other)
    point_at(opened, over, row, col, example.norms.shape)
    said = readout(opened, 0)
    assert f"row {row}, column {col}" in said
    assert "outlier (threshold" in said
    assert "not an outlier" not in said
    value = float(re.search(r"norm ([\d.,]+)", said)[1].replace(",", "").rstrip("."))
    assert value == pytest.approx(example.norms[row, col], rel=0.006)
    best = int(example.attends[row * 9 + col, 0])
    assert f"Strongest: row {best // 9}, column {best % 9}" in said
    assert (pixels(opened, other) != before).any()
    point_at(opened, "[data-example='1'] [data-map='norms'] .over", 0, 0, example.norms.shape)
    assert readout(opened, 0).startswith("Point at a token")


def test_arrow_keys_move_and_a_letter_jumps_to_the_next_outlier(opened, made):
    from selenium.webdriver.common.keys import Keys

    maps = find(opened, "[data-example='0'] .maps")
    outliers = np.flatnonzero(made[0].outliers)
    maps.send_keys("o")
    first = readout(opened, 0)
    assert ", outlier" in first
    maps.send_keys("o")
    second = outliers[list(outliers).index(_token(first)) + 1]
    assert _token(readout(opened, 0)) == second
    maps.send_keys(Keys.ARROW_UP)
    assert _token(readout(opened, 0)) == max(second - 9, second % 9)
    maps.send_keys(Keys.ESCAPE)
    assert readout(opened, 0).startswith("Point at a token")


def _token(said):
    row, col = re.search(r"row (\d+), column (\d+)", said).groups()
    return int(row) * 9 + int(col)


def test_a_tap_selects_a_token_on_a_phone(opened, made):
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    opened.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        over = find(opened, "[data-example='0'] [data-map='image'] .over")
        opened.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", over)
        box = opened.execute_script(
            "const b = arguments[0].getBoundingClientRect(); return [b.x, b.y, b.width, b.height]", over
        )
        at = {"x": box[0] + box[2] * 2.5 / 9, "y": box[1] + box[3] * 4.5 / 12}
        opened.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at]})
        opened.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        wait(opened, lambda: "row 4, column 2" in readout(opened, 0))
    finally:
        opened.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def wait(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, PATIENCE).until(lambda _: condition())


def test_pointing_at_a_chart_reads_its_values(opened):
    from selenium.webdriver.common.action_chains import ActionChains

    bar = find(opened, ".wide .chart.norms .hit:nth-of-type(3)")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", bar)
    ActionChains(opened).move_to_element(bar).perform()
    assert find(opened, "#tip").text.startswith("block 2")


def luminance(browser, selector, what):
    colour = browser.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, what
    )
    channels = np.array([float(v) for v in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_are_readable_and_the_button_switches(opened, scheme):
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    for words in (
        "h1 .rest",
        ".caption",
        ".tick",
        ".facts dt",
        ".tag",
        ".readout",
        "figcaption small",
        ".paper",
        ".level",
    ):
        text = luminance(opened, words, "fill" if words == ".tick" else "color")
        ground = luminance(opened, ".readout" if words == ".readout" else ".verdict", "backgroundColor")
        contrast = (max(text, ground) + 0.05) / (min(text, ground) + 0.05)
        assert contrast >= 4.5, f"{words}: {contrast:.2f}"
    dark = luminance(opened, "body", "backgroundColor") < 0.1
    assert dark == (scheme == "dark")
    find(opened, "#theme").click()
    assert (luminance(opened, "body", "backgroundColor") < 0.1) != dark


def test_photographs_come_before_charts_and_begin_on_the_first_screen(opened):
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.getBoundingClientRect().top + scrollY)"
    photographs = opened.execute_script(script, ".example img")
    charts = [top for top in opened.execute_script(script, ".wide .chart") if top]
    sentence = opened.execute_script(script, "h1")[0]
    assert sentence < photographs[0] < 900
    assert max(photographs) < min(charts)


def test_charts_beside_each_other_end_at_one_height(opened):
    pairs = opened.execute_script(
        "return [...document.querySelectorAll('.pair')].map((p) => [...p.querySelectorAll('.wide .chart')]"
        ".map((c) => c.getBoundingClientRect().bottom))"
    )
    assert [len(pair) for pair in pairs] == [2, 2, 2]
    for left, right in pairs:
        assert abs(left - right) < 1


def test_all_maps_are_shown_on_request(opened):
    components = find(opened, "[data-example='0'] [data-map='pca']")
    assert not components.is_displayed()
    check(opened, "further")
    assert components.is_displayed()
    assert pixels(opened, "[data-example='0'] [data-map='pca'] .base").std() > 0


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_no_width_needs_sideways_scrolling(opened, width):
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": width < 500},
    )
    opened.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    wide, seen = opened.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= seen <= width
    inside = opened.execute_script(
        "return [...document.querySelectorAll('main *')].filter((e) => e.scrollWidth > e.clientWidth"
        " && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)).map((e) => e.className)"
    )
    assert inside == [] or width > 500  # a desktop may scroll a table of many columns


def test_the_count_scale_can_be_chosen(opened):
    label = find(opened, "label[for='scale-sqrt']")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", label)
    label.click()
    assert find(opened, ".panel.sqrt").is_displayed()
    assert not find(opened, ".panel.log").is_displayed()


def test_a_patch_without_a_token_is_empty_and_says_so(browser, made, tmp_path):
    norms = made[1].norms.copy()
    norms[3, 2] = np.nan
    result = synthetic_scan.scan_result(grid=(12, 9), registers=1)
    browser.get(write_report(result, [replace(made[1], norms=norms)], tmp_path).as_uri())
    shown = pixels(browser, "[data-example='0'] [data-map='norms'] .base")
    assert np.argwhere(shown[..., 3] == 0).tolist() == [[3, 2]]
    point_at(browser, "[data-example='0'] [data-map='norms'] .over", 3, 2, norms.shape)
    assert readout(browser, 0) == "row 3, column 2: the model has dropped this patch."
    point_at(browser, "[data-example='0'] [data-map='norms'] .over", 3, 3, norms.shape)
    assert "norm" in readout(browser, 0)
    assert [entry["message"] for entry in browser.get_log("browser")] == []
