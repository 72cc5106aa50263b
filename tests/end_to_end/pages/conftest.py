"""The explorer of two photos by two models, made once, and how it is opened."""

import numpy as np
import pytest
from PIL import Image

import vitreg

HOSTILE = '"><img src=x onerror=alert(1)>.png'
MODELS = ("planted:high-norm", "planted:clean-registers")
BLOCK = 5


@pytest.fixture(scope="session")
def explorer_photos(tmp_path_factory):
    """Textured photos with a plain corner: the planted model has outliers on some plain patches."""
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(("plain.png", HOSTILE)):
        pixels = np.random.default_rng(number).integers(0, 255, (240, 240, 3)).astype(np.uint8)
        pixels[:100, 140 * (1 - number) : 100 + 140 * (1 - number)] = (120, 170, 210)
        Image.fromarray(pixels).save(folder / name)
    return [folder / name for name in ("plain.png", HOSTILE)]


@pytest.fixture(scope="session")
def explored(explorer_photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("explorer")
    return vitreg.explore(MODELS, explorer_photos, out=out, blocks=(3, BLOCK), precision="fp32")


@pytest.fixture
def explorer(browser, explored):
    """Opens the page at an address; whatever a test did, the page must not have complained."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get_log("browser")
    yield lambda words="", at=explored.path: opened(browser, f"{at.as_uri()}#{words}")
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def opened(browser, address):
    browser.get("about:blank")  # else only the words behind # would change
    browser.get(address)
    return drawn(browser)


def drawn(browser):
    """Wait until the page shows all of its state."""
    said = browser.execute_async_script(
        "const done = arguments[0]; setTimeout(() => window.vitregExplorer.drawn().then(() => done(''), (e) => done(String(e))))"
    )
    assert said == ""
    fault = browser.find_element("css selector", "#fault")
    assert not fault.is_displayed(), fault.text
    return browser
