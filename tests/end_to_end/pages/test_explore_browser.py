"""The explorer in a real browser: what is pointed at is read out, its numbers are those of `Trace`, and its state is its address.

Needs Debian's chromium and chromedriver. The check with axe-core runs where `npm install --no-save axe-core` was run in the
repository, or VITREG_AXE names an axe.min.js.
"""

import json
import re

import numpy as np
import pytest
from PIL import Image

import vitreg
from tests.patience import PATIENCE
from vitreg.backbones import Capture
from vitreg.passes.view import view_of

from .conftest import BLOCK, HOSTILE, MODELS, drawn, opened

pytestmark = pytest.mark.browser

HEAD, PATCH = 1, 40
MAP = "#{} [data-part='map']"


@pytest.fixture(scope="module")
def trace(explorer_photos):
    backbone = vitreg.load(MODELS[0], precision="fp32")
    view = view_of(backbone)
    pixels = view.fit(view.pictures(Image.open(explorer_photos[0]).convert("RGB"))[None])
    return backbone.trace(pixels, Capture(norms="all", qkv=[BLOCK]))


def find(browser, selector):
    return browser.find_element("css selector", selector)


def facts(browser, side="left"):
    """What is said of the token, by name."""
    return dict(
        browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((e) => [e.textContent, e.nextElementSibling.textContent])",
            f"#{side} [data-part='facts'] dt",
        )
    )


def words_of(browser):
    return browser.execute_script("return location.hash")


def pixels(browser, side="left"):
    script = """
        const from = document.querySelector(arguments[0]), copy = document.createElement('canvas');
        copy.width = from.width; copy.height = from.height;
        const context = copy.getContext('2d', {willReadFrequently: true});
        context.drawImage(from, 0, 0);
        return Array.from(context.getImageData(0, 0, from.width, from.height).data);
    """
    return np.array(browser.execute_script(script, f"#{side} [data-part='canvas']"), np.uint8).reshape(14, 14, 4)


def point(browser, patch, side="left"):
    """Move the mouse to the middle of a patch."""
    from selenium.webdriver.common.action_chains import ActionChains

    area = find(browser, MAP.format(side))
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", area)
    row, col = divmod(patch, 14)
    wide, tall = area.size["width"], area.size["height"]
    dx, dy = (round((at + 0.5) * size / 14 - size / 2) for at, size in ((col, wide), (row, tall)))
    ActionChains(browser).move_to_element_with_offset(area, dx, dy).perform()


def press(browser, *keys):
    area = find(browser, MAP.format("left"))
    area.send_keys(*keys)
    drawn(browser)


def wait(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, PATIENCE).until(lambda _: condition())


def asked_for(browser, path):
    """What a page from disk has asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return {each["request"]["url"] for each in sent if each["documentURL"].startswith(path.as_uri())}


def number(text, pattern):
    return float(re.search(pattern, text)[1].replace(",", ""))


def test_it_opens_from_disk_and_loads_only_what_lies_beside_it(explorer, explored):
    browser = explorer(f"block={BLOCK}")
    asked = asked_for(browser, explored.path)
    beside = (explored.path.parent / "data").as_uri()
    others = [url for url in asked if not url.startswith(("data:", beside, explored.path.as_uri()))]
    assert others == []
    assert f"{beside}/p0m0-b{BLOCK}.js" in asked
    assert f"{beside}/p0m0-b3.js" not in asked


def test_attention_in_the_page_is_that_of_trace(explorer, trace):
    browser = explorer(f"block={BLOCK}&patch={PATCH}")
    token, layout = 1 + PATCH, trace.layout_before(BLOCK)
    rows = trace.attention(BLOCK, range(layout.length))[0].numpy()
    script = "return Array.from(window.vitregExplorer.panels[0].attention[arguments[0]](arguments[1], arguments[2]))"
    for head, true in ((HEAD, rows[HEAD]), (-1, rows.mean(0))):
        for query in (0, token):
            assert np.abs(np.array(browser.execute_script(script, "given", query, head)) - true[query]).max() < 0.01
            assert (
                np.abs(np.array(browser.execute_script(script, "receives", query, head)) - true[:, query]).max() < 0.01
            )


def test_the_numbers_that_are_said_are_those_of_trace(explorer, trace):
    browser = explorer(f"block={BLOCK}&patch={PATCH}")
    said, token = facts(browser), 1 + PATCH
    norms = trace.norms(BLOCK)[0].numpy()
    assert number(said["Norm"], r"([\d.,]+) after block 5") == pytest.approx(norms[token], rel=0.005)
    assert number(said["Norm"], r"([\d.,]+)\s×") == pytest.approx(norms[token] / np.median(norms[1:]), rel=0.005)
    rows = trace.attention(BLOCK, range(197))[0].mean(0).numpy()
    assert number(said["Receives"], r"([\d.]+)\s%") == pytest.approx(100 * rows[:, token].mean(), rel=0.01)
    best = int(rows[token].argmax())
    called = "CLS" if best == 0 else f"row {(best - 1) // 14}, column {(best - 1) % 14}"
    assert said["Gives"].startswith(f"most to {called} (")
    assert number(said["Gives"], r"\(([\d.]+)\s%\)") == pytest.approx(100 * rows[token, best], rel=0.01)
    values = trace.qkv(BLOCK).v[0].norm(dim=-1).numpy()
    ratio = (values[:, token] / np.median(values[:, 1:], axis=1)).mean()
    assert number(said["Values"], r"([\d.]+)\s×") == pytest.approx(ratio, rel=0.005)


def test_the_nearest_patches_are_those_of_the_last_block(explorer, trace):
    browser = explorer(f"block={BLOCK}&patch={PATCH}")
    wait(
        browser, lambda: len(browser.find_elements("css selector", "#left .nearest li")) == 8
    )  # four of the other photo
    features = trace.final.patches[0].numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    cosines = features @ features[PATCH]
    cosines[PATCH] = -2
    said = [item.text for item in browser.find_elements("css selector", "#left .nearest li")]
    assert float(said[0].split()[0]) == pytest.approx(cosines.max(), abs=0.01)
    row, col = map(int, re.search(r"row (\d+), column (\d+), here", said[0]).groups())
    assert cosines[14 * row + col] == pytest.approx(cosines.max(), abs=0.01)


def test_pointing_reads_a_patch_and_draws_its_attention(explorer):
    browser = explorer(f"block={BLOCK}&map=given&right=-1")
    assert facts(browser) == {}
    assert "Point at a patch" in find(browser, "#left [data-part='empty']").text
    point(browser, PATCH)
    assert find(browser, "#left [data-part='token']").text == "row 2, column 12"
    before, said = pixels(browser), facts(browser)
    point(browser, 100)
    assert find(browser, "#left [data-part='token']").text == "row 7, column 2"
    assert (pixels(browser) != before).any()
    assert facts(browser) != said
    wait(
        browser,
        lambda: "row 7, column 2: Norm" in browser.execute_script("return document.getElementById('said').textContent"),
    )
    point(browser, 100, "left")
    assert words_of(browser) == f"#block={BLOCK}&map=given&right=-1", "pointing alone is no state"


def test_the_outliers_are_outlined_and_a_letter_jumps_to_them(explorer, explored, explorer_photos):
    browser = explorer()
    found = vitreg.look(explorer_photos[0], MODELS[0], precision="fp32").record.photos[0].models[0]
    press(browser, "o")
    assert "in the second group" in facts(browser)["Norm"]
    assert find(browser, "#left [data-part='token']").text == "row {}, column {}".format(*found.patches[0])
    assert found.sentence.lower() == find(browser, "#left .sentence").text.lower()
    outlined = "return document.querySelector('#left [data-part=map] .outline').getAttribute('d').length"
    assert browser.execute_script(outlined) > 0
    browser.execute_script("document.getElementById('outlines').click()")
    drawn(browser)
    assert browser.execute_script(outlined) == 0


def test_the_keyboard_alone_moves_chooses_and_leaves(explorer):
    from selenium.webdriver.common.keys import Keys

    browser = explorer("right=-1")
    press(browser, Keys.ARROW_DOWN)
    assert find(browser, "#left [data-part='token']").text == "row 7, column 7"
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_UP)
    assert find(browser, "#left [data-part='token']").text == "row 6, column 8"
    assert "patch=92" in words_of(browser)
    press(browser, Keys.ESCAPE)
    assert facts(browser) == {}
    find(browser, "#block").send_keys(Keys.HOME)
    drawn(browser)
    assert "block=0" in words_of(browser)
    find(browser, "input[value='norms']").send_keys(Keys.ARROW_RIGHT)
    drawn(browser)
    assert "map=given" in words_of(browser)


def test_the_address_is_the_state_and_the_back_button_works(explorer):
    address = f"photo=1&right=-1&block={BLOCK}&patch=100&head=1&map=receives&token=cls0&outlines=0"
    browser = explorer(address)
    assert find(browser, "#head").get_property("value") == "1"
    assert not find(browser, "#outlines").is_selected()
    assert "Attention to CLS in block 5, head 1" in find(browser, "#left figcaption[data-part='caption']").text
    assert not find(browser, "#right").is_displayed()
    shown, said = pixels(browser), facts(browser)
    browser.execute_script("document.querySelector('input[value=norms]').click()")
    drawn(browser)
    assert "map=" not in words_of(browser)
    assert (pixels(browser) != shown).any()
    browser.back()
    wait(browser, lambda: "map=receives" in words_of(browser))
    drawn(browser)
    assert (pixels(browser) == shown).all()
    assert facts(browser) == said
    opened(browser, explorer("photo=x&block=-7&map=nonsense&token=__proto__&evil=1").current_url)
    assert facts(browser) == {}


def test_two_models_share_one_colour_scale(explorer, explored):
    browser = explorer("block=3")
    low, high = (find(browser, f"#{end}").text for end in ("low", "high"))
    brightest = [pixels(browser, side)[..., :3].astype(int).sum(-1).max() for side in ("left", "right")]
    assert brightest[0] > 2 * brightest[1]
    browser.execute_script("document.getElementById('right-model').value = '0'")
    browser.execute_script("document.getElementById('right-model').dispatchEvent(new Event('change'))")
    drawn(browser)
    assert (low, high) == tuple(find(browser, f"#{end}").text for end in ("low", "high"))
    assert (pixels(browser, "left") == pixels(browser, "right")).all()


def test_registers_have_chips_and_who_has_none_says_so(explorer):
    browser = explorer(f"block={BLOCK}&map=given&token=reg2")
    chips = browser.execute_script("return [...document.querySelectorAll('#tokens label')].map((e) => e.textContent)")
    assert chips == ["Patch", "CLS", "REG 1", "REG 2", "REG 3", "REG 4"]
    assert find(browser, "#left [data-part='empty']").text == "This model has no such register."
    assert "Attention from REG 3" in find(browser, "#right [data-part='caption']").text
    assert find(browser, "#right [data-part='token']").text == "REG 3"
    assert "this model has no registers" in find(browser, "#left .note").text


def test_a_block_without_kept_attention_says_which_ones_have(explorer):
    browser = explorer("block=7&map=given&token=cls0")
    assert "this page has that of block 3, 5" in find(browser, "#left [data-part='empty']").text
    assert find(browser, "#left .sentence").text


def test_a_hostile_name_stays_text(explorer):
    browser = explorer("photo=1")
    assert HOSTILE in find(browser, "#controls").text
    assert HOSTILE in browser.title
    assert len(browser.find_elements("css selector", "img")) == 2
