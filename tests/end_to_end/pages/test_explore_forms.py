"""The explorer on phones, for screen readers, as one file, in a frame, with its story and what it saves; how long a move takes."""

import json
import os
import statistics
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import vitreg

from .conftest import BLOCK, drawn, opened
from .test_explore_browser import MAP, asked_for, facts, find, wait, words_of

pytestmark = pytest.mark.browser
AXE = Path(os.environ.get("VITREG_AXE", Path(__file__).parents[3] / "node_modules" / "axe-core" / "axe.min.js"))


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_needs_sideways_scrolling(explorer, width):
    browser = explorer(f"block={BLOCK}&patch=40&story=2")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": width < 500},
    )
    wide, seen = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= seen <= width


def test_the_colour_scale_is_one_line_on_a_phone(explorer):
    browser = explorer(f"block={BLOCK}")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    script = "return ['low', 'scale', 'high'].map((each) => document.getElementById(each).getBoundingClientRect())"
    low, scale, high = browser.execute_script(script)
    assert "the median" in find(browser, "#high").text
    assert low["bottom"] > scale["top"] > low["top"] == high["top"]
    assert low["height"] == high["height"] < 30
    assert low["right"] <= scale["left"] < scale["right"] <= high["left"]
    assert high["right"] <= 360


@pytest.mark.parametrize("reach", [(0.66, 1.5), (0.5, 30), (0.05, 300), (0.001, 10_000)])
def test_ticks_do_not_touch(explorer, reach):
    browser = explorer()
    script = """
        const panel = window.vitregExplorer.panels[0];
        panel.histogram.show(panel.shown, 5, arguments[0]);
        panel.blocks.show(panel.shown, arguments[0]);
        return ['histogram', 'blocks'].map((name) => [...document.querySelectorAll(`#left [data-part=${name}] .tick`)]
            .filter((e) => e.textContent.endsWith('×')).map((e) => e.getBoundingClientRect()));
    """
    across, down = browser.execute_script(script, reach)
    assert len(across) >= 1
    assert len(down) >= 1
    assert all(one["right"] + 2 < other["left"] for one, other in pairwise(across))
    assert all(one["top"] - other["top"] > 0.8 * one["height"] for one, other in pairwise(down))


def test_the_keys_of_the_charts_are_those_of_what_is_there(explorer):
    browser = explorer(f"block={BLOCK}")
    spread = "#{} [data-part='spread']"
    keys = [
        browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].filter((e) => !e.hidden).map((e) => e.textContent)",
            f"#{side} .key",
        )
        for side in ("left", "right")
    ]
    both = ["this token", "largest patch", "CLS"]
    assert keys == [[*both, "threshold"], [*both, "registers"]]
    assert find(browser, spread.format("right")).text == "Patches by norm after this block"
    assert find(browser, spread.format("left")).text == "Patches by norm after this block, with the threshold"


def test_a_tap_keeps_a_patch_on_a_phone(explorer):
    browser = explorer("right=-1")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        area = find(browser, MAP.format("left"))
        browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", area)
        x, y, wide, tall = browser.execute_script(
            "const b = arguments[0].getBoundingClientRect(); return [b.x, b.y, b.width, b.height]", area
        )
        at = {"x": x + wide * 2.5 / 14, "y": y + tall * 4.5 / 14}
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at]})
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        wait(browser, lambda: "patch=58" in words_of(browser))
        assert "row 4, column 2" in find(browser, "#left [data-part='token']").text
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("words", ["", f"block={BLOCK}&patch=40&map=given&token=cls0&story=1"])
def test_axe_finds_nothing(explorer, scheme, words):
    if not AXE.is_file():
        pytest.skip(f"no {AXE}; npm install --no-save axe-core brings it")
    browser = explorer()
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    explorer(words)
    browser.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE.read_text()})
    found = browser.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']})"
        ".then((r) => done(r.violations.map((v) => [v.id, v.nodes.map((n) => n.target.join(' '))])))"
    )
    assert found == []


def test_one_file_shows_the_same_and_asks_for_nothing(explorer, explorer_photos, tmp_path):
    one = vitreg.explore(
        "planted:high-norm", explorer_photos[0], out=tmp_path / "one.html", blocks=BLOCK, precision="fp32"
    )
    words = f"block={BLOCK}&patch=40&right=-1"
    said = facts(explorer(words))
    browser = explorer(words, one.path)
    browser.get_log("performance")
    opened(browser, f"{one.path.as_uri()}#{words}")
    assert facts(browser) == said
    assert [url for url in asked_for(browser, one.path) if not url.startswith(("data:", one.path.as_uri()))] == []


def test_a_notebook_shows_the_page_in_a_frame(explorer, explorer_photos, browser, tmp_path):
    shown = vitreg.explore("planted:clean", explorer_photos[0], blocks=BLOCK, size=64)._repr_html_()
    (tmp_path / "notebook.html").write_text(f"<!doctype html><meta charset=utf-8><body>{shown}")
    browser.get((tmp_path / "notebook.html").as_uri())
    browser.switch_to.frame(find(browser, "iframe"))
    drawn(browser)
    assert "None of the 12 blocks" in find(browser, "#left .sentence").text
    browser.execute_script("document.querySelector('input[value=neighbours]').click()")
    drawn(browser)
    assert "Cosine of each patch" in find(browser, "#left [data-part='caption']").text
    browser.switch_to.default_content()


def test_the_story_tells_the_numbers_of_this_photo(explorer, explored, explorer_photos):
    browser = explorer()
    look = vitreg.look(explorer_photos[0], "planted:high-norm", precision="fp32").record.photos[0].models[0]
    told = []
    for number in range(5):
        find(browser, "#story" if number == 0 else "#next").click()
        drawn(browser)
        told.append(find(browser, "#tale-words").text)
        assert f"story={number + 1}" in words_of(browser)
    assert f"{len(look.patches)} patches of 196 form a second group with {look.ratio:.3g} times" in told[1]
    assert told[4].startswith("With 4 registers, no block shows a second group")
    assert not find(browser, "#next").is_enabled()
    browser.back()
    wait(browser, lambda: "story=4" in words_of(browser))
    find(browser, "#leave").click()
    drawn(browser)
    assert not find(browser, "#tale").is_displayed()


def test_the_story_of_a_group_follows_the_patch(explorer, explored):
    from selenium.webdriver.common.keys import Keys

    browser = explorer("right=-1")
    for _ in range(4):
        find(browser, "#next" if find(browser, "#next").is_displayed() else "#story").click()
        drawn(browser)
    script = """
        const [other, done] = arguments, page = window.vitregExplorer, s = page.panels[0].shown;
        const marked = s.outliers(s.peak).flatMap((m, p) => (m ? [p] : []));
        const at = other < 0 ? marked[0] : other, mean = (all) => all.reduce((a, b) => a + b, 0) / all.length;
        s.features().then((features) => {
            const alike = Array.from(features.similar(at));
            const rest = alike.filter((_, p) => p !== at && !marked.includes(p));
            done([at, marked, mean(marked.filter((p) => p !== at).map((p) => alike[p])), mean(rest)]);
        });
    """
    at, marked, own, rest = browser.execute_async_script(script, -1)
    told = find(browser, "#tale-words").text
    words = "After the last block, the patch at row {}, column {} has a cosine of {:.2f} to {} and {:.2f} to the remaining patches"
    row, col = divmod(at, 14)
    assert told.startswith(words.format(row, col, own, "the others of its group", rest))
    area, key = find(browser, MAP.format("left")), Keys.ARROW_LEFT
    while at in marked:
        area.send_keys(key)
        drawn(browser)
        at -= 1
    _, _, own, rest = browser.execute_async_script(script, at)
    said = words.format(*divmod(at, 14), own, "the second group, to which it does not belong,", rest)
    assert find(browser, "#tale-words").text.startswith(f"{said}. ")


def test_the_story_of_a_group_of_one_patch_is_told_of_one(explorer):
    browser = explorer("right=-1")
    browser.execute_script("""
        const s = window.vitregExplorer.panels[0].shown, norms = Array.from(s.normsOf(s.peak)).sort((a, b) => b - a);
        s.blocks[s.peak].threshold = (norms[0] + norms[1]) / 2;
        s.single = 2;
    """)
    for _ in range(2):
        find(browser, "#next" if find(browser, "#next").is_displayed() else "#story").click()
        drawn(browser)
    told = find(browser, "#tale-words").text
    assert "1 patch of 196 forms a second group" in told
    assert told.endswith("; it stands out from block 2 on.")


def test_the_block_whose_attention_is_told_is_where_the_second_group_takes_most(explorer):
    browser = explorer()
    norms, received, cut, found = browser.execute_script(
        "const s = window.vitregExplorer.panels[0].shown, rows = (a) => Array.from({ length: s.depth }, (_, b) => "
        "Array.from(a.subarray((b + 1) * s.tokens - s.patches, (b + 1) * s.tokens)));"
        "return [rows(s.norms), rows(s.received), s.blocks.map((b) => b.threshold), s.blocks.map((_, b) => s.over(b))]"
    )
    with_group = [block for block in range(1, len(norms)) if cut[block - 1] is not None]
    assert with_group
    assert [block for block, over in enumerate(found) if over is not None] == with_group
    for block in with_group:
        marked, row = np.array(norms[block - 1]) >= cut[block - 1], np.array(received[block])
        assert found[block] == pytest.approx(row[marked].mean() / row[~marked].mean(), rel=1e-4)


def saved(browser, button):
    """What a button saves: its text, or its size where it is a picture."""
    return browser.execute_async_script(
        "const [id, done] = arguments, made = URL.createObjectURL; HTMLAnchorElement.prototype.click = () => {};"
        "URL.createObjectURL = (b) => { URL.createObjectURL = made; (b.type === 'image/png' ? createImageBitmap(b).then((i) => "
        "[i.width, i.height]) : b.text()).then(done); return made(b); };"
        "document.getElementById(id).click();",
        button,
    )


def test_words_of_the_address_that_mean_nothing_are_left_out(explorer):
    browser = explorer("left=99&right=77&photo=-1&story=-1&constructor=1&toString=2&__proto__=1&map=<b>&block=1e300&%")
    assert "form a second group" in find(browser, "#left .sentence").text
    browser.execute_script("document.getElementById('outlines').click()")
    drawn(browser)
    assert browser.execute_script("return location.hash") == "#outlines=0"


def test_what_is_seen_is_saved_as_numbers_and_as_a_picture(explorer):
    browser = explorer(f"block={BLOCK}&patch=40")
    held = json.loads(saved(browser, "save-numbers"))
    assert held["photo"] == "plain.png"
    assert held["state"]["patch"] == 40
    left, right = held["models"]
    assert left["spec"] == "planted:high-norm"
    assert left["token"]["Norm"] == facts(browser)["Norm"]
    assert np.isfinite(left["values"]).all()
    assert len(left["values"]) == len(right["values"]) == 196
    width, height = saved(browser, "save-picture")
    assert width > 800
    assert height > 900  # two models


def test_a_model_without_class_token_or_readable_attention_shows_the_rest(browser, explorer, explorer_photos, tmp_path):
    timm = pytest.importorskip("timm")
    settings = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    without = timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg", **settings)
    by_hand = timm.create_model("vit_tiny_patch16_224", **settings)
    for block in by_hand.blocks:
        block.attn.forward = lambda x, *_, layer=block.attn, **__: layer.proj(layer.qkv(x)[..., : x.shape[-1]])
    at = vitreg.explore([without, by_hand], explorer_photos[0], out=tmp_path / "page").path
    explorer("block=1&map=given&token=cls0&patch=3", at)
    assert find(browser, "#left [data-part='empty']").text == "This model has no class token."
    assert "cannot be read" in find(browser, "#right [data-part='empty']").text
    assert find(browser, "#right .note").text.count("cannot be read") == 1
    assert "after block 1" in facts(browser, "right")["Norm"]
    assert "cannot be read" in facts(browser, "right")["Receives"]


def test_the_repair_of_a_model_takes_its_place(explorer, explorer_photos, tmp_path):
    photos = [explorer_photos[0]] * 4
    vitreg.fit_repair("planted:high-norm", photos, "clip-norm", force=True).save(tmp_path / "repair")
    at = vitreg.explore([], explorer_photos[0], out=tmp_path / "page", repair=tmp_path / "repair", blocks=BLOCK).path
    browser = explorer("right=-1", at)
    before = find(browser, "#left .sentence").text
    browser.execute_script("document.getElementById('repair').click()")
    drawn(browser)
    assert "repair=1" in words_of(browser)
    assert "second group" in before
    assert find(browser, "#left .sentence").text == "None of the 12 blocks shows a second group of patch norms."


def test_attention_is_also_shown_before_rotary_embedding(explorer, explorer_photos, tmp_path):
    timm = pytest.importorskip("timm")
    settings = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    rotary = timm.create_model("vit_small_patch16_rope_224", **settings)
    at = vitreg.explore(rotary, explorer_photos[0], out=tmp_path / "page").path
    browser = explorer("block=1&map=given&token=cls0", at)
    rows = "return Array.from(window.vitregExplorer.panels[0].attention.given(3))"
    after = browser.execute_script(rows)
    browser.execute_script("document.getElementById('before').click()")
    drawn(browser)
    assert "before=1" in words_of(browser)
    before = np.array(browser.execute_script(rows))
    assert np.abs(before - after).max() > 1e-4
    assert before.sum() == pytest.approx(1, abs=1e-3)
    assert not find(explorer(), "#before").is_displayed()


@pytest.mark.slow
def test_a_move_over_1369_patches_takes_8_ms_of_script(explorer, explorer_photos, tmp_path):
    """Of the page's thread: what else the machine does is no property of the page."""
    words = {"random": True, "blocks": BLOCK, "precision": "fp32"}
    at = vitreg.explore("timm:vit_base_patch14_dinov2", explorer_photos[0], out=tmp_path, **words).path
    for shown in ("norms", "given", "receives", "similar"):
        browser = explorer(f"block={BLOCK}&map={shown}", at)
        assert statistics.median(milliseconds_of_moves(browser)) <= 8, shown


def milliseconds_of_moves(browser, moves=60):
    """Script of the page for each move of the mouse over the map, in milliseconds of its thread."""
    area = find(browser, MAP.format("left"))
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", area)
    x, y, wide, tall = browser.execute_script(
        "const b = arguments[0].getBoundingClientRect(); return [b.x, b.y, b.width, b.height]", area
    )
    browser.execute_cdp_cmd("Performance.disable", {})
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

    def script():
        found = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return 1000 * next(each["value"] for each in found if each["name"] == "ScriptDuration")

    spent, before = [], script()
    for move in range(moves):
        at = {"x": x + wide * (move % 37 + 0.5) / 37, "y": y + tall * (3 * (move // 37) + 5.5) / 37}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", **at})
        now = script()
        spent.append(now - before)
        before = now
    return spent
