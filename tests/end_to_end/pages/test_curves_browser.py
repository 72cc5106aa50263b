"""The page of training runs in a real browser: a silent console, tips, both colour schemes, a phone."""

import re

import pytest

from tests.unit.report import synthetic_run
from vitreg.verbs.curves import curves

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    base, write_run = tmp_path_factory.mktemp("runs"), synthetic_run.write_run
    runs = [write_run(base / "reg0", artifacts=range(3500, 10_001, 500)), write_run(base / "reg4-<b>", registers=4)]
    curves(runs, out=base / "out")
    return base / "out" / "report.html"


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


def test_its_pictures_are_drawn(opened):
    assert find(opened, "h1").text == "Artifacts at the end of 1 of 2 watched runs."
    assert "reg4-<b>" in find(opened, "table.runs").text
    sizes = opened.execute_async_script("""
        const done = arguments[0], found = [...document.querySelectorAll('svg image')].map((one) => {
          const image = new Image(); image.src = one.getAttribute('href');
          return image.decode().then(() => [image.naturalWidth, image.naturalHeight]);
        });
        Promise.all(found).then(done, (error) => done(String(error)));
    """)
    assert len(sizes) == 8  # norms of both runs, blocks and their scale of one, each for two widths
    assert all(wide > 100 and tall >= 1 for wide, tall in sizes)


def test_pointing_at_a_look_reads_it(opened):
    from selenium.webdriver.common.action_chains import ActionChains

    look = opened.find_elements("css selector", ".wide .norms-over-steps .hit")[8]
    opened.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", look)
    ActionChains(opened).move_to_element(look).perform()
    assert find(opened, "#tip").text.splitlines()[0] == "step 4,000"
    assert "high-norm artifacts" in find(opened, "#tip").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_and_words_stand_out_in_both_schemes(opened, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def luminance(selector, what):
        script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        channels = [float(v) / 255 for v in re.findall(r"[\d.]+", opened.execute_script(script, selector, what))[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ground = luminance("section.verdict", "backgroundColor")
    assert (ground < 0.1) == (scheme == "dark")
    text = (".caption", "color"), (".chart .tick", "fill"), ("table.runs th", "color")
    drawn = (".run-line.run-0", "stroke"), (".run-line.run-1", "stroke"), (".over-p99", "stroke")
    for (selector, what), least in [*((pair, 4.5) for pair in text), *((pair, 3) for pair in drawn)]:
        ink = luminance(selector, what)
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= least, selector


@pytest.mark.parametrize("width", [360, 1280])
def test_the_table_of_runs_fits_without_scrolling_inside(opened, width):
    metrics = {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    inner, outer = opened.execute_script(
        "const box = document.querySelector('table.runs').parentElement; return [box.scrollWidth, box.clientWidth]"
    )
    assert inner <= outer
    assert "registers" in find(opened, "table.runs").text or width < 500


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_no_width_needs_sideways_scrolling(opened, width):
    metrics = {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    opened.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    wide, seen = opened.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= seen <= width
