"""The live explorer in real browsers: photos are dropped, shown and read as on the static page; whatever goes wrong is one sentence.

Needs Debian's chromium and chromedriver.
"""

import base64
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from PIL import Image

from tests.end_to_end.conftest import CHROMIUM
from tests.patience import PATIENCE, until

from .conftest import BLOCK, HOSTILE, MODELS, drawn, opened
from .test_explore_browser import facts, find, pixels, point, wait, words_of
from .test_explore_forms import AXE

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@contextmanager
def serving(folder, *words):
    """A server in a process of its own, its address, and the folder where it would leave something."""
    (folder / "tmp").mkdir(exist_ok=True)
    models = [word for model in MODELS for word in ("-m", model)]
    command = [
        sys.executable,
        "-m",
        "vitreg",
        "explore",
        *words,
        *models,
        "--serve",
        "--no-browser",
        "--precision",
        "fp32",
    ]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        try:
            until(lambda: "Open http" in (folder / "out").read_text(), process)
            yield process, (folder / "out").read_text().split("Open ")[1].strip()
        finally:
            process.kill()
            process.wait()
    assert list((folder / "tmp").iterdir()) == []


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as (_, at):
        yield at


@pytest.fixture
def page(browser, address):
    """The empty page; it must not complain."""
    browser.get_log("browser")
    yield opened(browser, address)
    assert [entry["message"] for entry in browser.get_log("browser")] == []


@pytest.fixture(scope="module")
def burst(tmp_path_factory, explorer_photos):
    """Fifty photos."""
    folder = tmp_path_factory.mktemp("burst")
    for number in range(50):
        shutil.copy(explorer_photos[number % 2], folder / f"{number:02}.png")
    return sorted(folder.iterdir())


@contextmanager
def second_browser(folder):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in (*CHROMIUM, f"--user-data-dir={folder / 'second'}"):
        options.add_argument(option)
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield session
    session.quit()


def choose(browser, *photos):
    find(browser, "#files").send_keys("\n".join(map(str, photos)))


def names(browser):
    return browser.execute_script("return [...document.querySelectorAll('#photos label')].map((e) => e.textContent)")


def refused(browser):
    return browser.execute_script("return [...document.querySelectorAll('#refused li')].map((e) => e.textContent)")


def idle(browser):
    wait(browser, lambda: not find(browser, "#measuring").is_displayed())
    return drawn(browser)


def violations(browser):
    """What axe-core finds; nothing where it is not here."""
    if not AXE.is_file():
        return []
    browser.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE.read_text()})
    script = "axe.run(document, {resultTypes: ['violations']}).then((r) => arguments[0](r.violations.map((v) => v.id)))"
    return browser.execute_async_script(script)


def test_a_photo_reads_as_on_the_static_page(browser, page, explored, explorer_photos):
    assert not find(page, "#controls").is_displayed()
    assert not find(page, "#left").is_displayed()
    choose(page, *explorer_photos)
    idle(page)
    assert names(page) == ["plain.png", HOSTILE]
    words = f"block={BLOCK}&patch=40&map=given"
    page.execute_script("location.hash = arguments[0]", words)
    wait(page, lambda: "Attention from row 2" in find(page, "#left [data-part='caption']").text)
    drawn(page)
    live = [
        (facts(page, side), pixels(page, side), find(page, f"#{side} .sentence").text) for side in ("left", "right")
    ]
    opened(browser, f"{explored.path.as_uri()}#{words}")
    for side, (said, shown, sentence) in zip(("left", "right"), live, strict=True):
        assert facts(browser, side) == said
        assert len(said) > 3
        assert (pixels(browser, side) == shown).all()
        assert find(browser, f"#{side} .sentence").text == sentence


def test_another_model_is_measured_when_it_is_chosen(page, explorer_photos):
    choose(page, explorer_photos[0])
    idle(page)
    page.execute_script("document.getElementById('right-model').value = '-1'")
    page.execute_script("document.getElementById('right-model').dispatchEvent(new Event('change'))")
    choose(page, explorer_photos[1])
    idle(page)
    assert "photo=1&right=-1" in words_of(page)
    page.execute_script("document.getElementById('left-model').value = '1'")
    page.execute_script("document.getElementById('left-model').dispatchEvent(new Event('change'))")
    wait(page, lambda: "None of the 12 blocks" in find(page, "#left .sentence").text)
    page.back()
    wait(page, lambda: "form a second group" in find(page, "#left .sentence").text)
    drawn(page)
    point(page, 40)
    assert find(page, "#left [data-part='token']").text == "row 2, column 12"


def test_bad_files_are_one_sentence_each_and_the_good_one_is_shown(page, explorer_photos, tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "large.png")
    (tmp_path / "broken.png").write_bytes(explorer_photos[0].read_bytes()[:300])
    (tmp_path / "<b>page.html").write_text("<html>")
    choose(page, *sorted(tmp_path.glob("*.*")), explorer_photos[0])
    idle(page)
    assert refused(page) == [
        "<b>page.html could not be read: not an image.",
        "broken.png could not be read: truncated file.",
        "large.png could not be read: 400 megapixels, more than the limit of 179.",
    ]
    assert "form a second group" in find(page, "#left .sentence").text
    assert violations(page) == []


def drop(browser, *files):
    """Drop files, each a name and its content, one drop a list; the drops follow one another at once."""
    script = """
        const drops = arguments[0];
        for (const files of drops) {
            const moved = new DataTransfer();
            for (const [name, held] of files) {
                moved.items.add(new File([Uint8Array.from(atob(held), (c) => c.charCodeAt(0))], name));
            }
            dispatchEvent(new DragEvent('drop', {dataTransfer: moved, cancelable: true}));
        }
    """
    encoded = [[(name, base64.b64encode(content).decode()) for name, content in each] for each in files]
    browser.execute_script(script, encoded)
    return idle(browser)


def test_what_was_refused_stays_until_it_is_closed_or_the_file_is_dropped_again_and_is_fine(page, explorer_photos):
    good = explorer_photos[0].read_bytes()
    drop(page, [("a.png", b"x"), ("b.png", b"x"), ("b.png", good)], [("c.png", good)])
    said = [f"{name}.png could not be read: not an image." for name in "ab"]
    assert refused(page) == said
    assert names(page) == ["b.png", "c.png"]
    drop(page, [("a.png", b"x")])
    assert refused(page) == said[::-1], "one sentence of one fault"
    drop(page, [("a.png", good)])
    assert refused(page) == said[1:]
    find(page, "#close").click()
    assert refused(page) == []
    assert not find(page, "#close").is_displayed()


def test_dropped_photos_of_one_name_are_numbered(page, explorer_photos):
    one, other = (path.read_bytes() for path in explorer_photos)
    drop(page, [("x.jpg", one), ("x.jpg", other), ("y.jpg", one)], [("x.jpg", one)])
    assert names(page) == ["x.jpg", "x.jpg (2)", "y.jpg", "x.jpg (3)"]


def test_fifty_photos_in_two_browsers_and_a_closed_tab_in_the_middle(page, address, burst, tmp_path):
    first = page.current_window_handle
    with second_browser(tmp_path) as other:
        opened(other, address)
        page.switch_to.new_window("tab")
        opened(page, address)
        for each in (page, other):
            choose(each, *burst)
        wait(page, lambda: len(names(page)) > 2)
        page.close()
        page.switch_to.window(first)
        choose(page, *burst)
        for each in (page, other):
            idle(each)
            assert names(each) == [path.name for path in burst]
            assert refused(each) == []
        point(page, 40)
        assert facts(page)["Gives"].startswith("most to row "), "attention is read however many photos a page has"
        documents = page.execute_script("return window.vitregExplorer.panels[1].shown.key")
        assert "form a second group" in find(page, "#left .sentence").text
    # Of the fifty photos of the closed tab few were measured, by two models each.
    assert int(documents[1:]) < 2 * 2 * 50 + 100


def test_what_waits_can_be_stopped(page, burst):
    choose(page, *burst)
    wait(page, lambda: len(names(page)) > 1)
    find(page, "#stop").click()
    idle(page)
    assert 1 < len(names(page)) < 50
    choose(page, burst[0])
    idle(page)
    assert names(page)[-1] == "00.png (2)"


def test_other_origins_and_wrong_tokens_get_nothing(browser, address):
    browser.get("about:blank")
    script = """
        const [address, done] = arguments;
        const asked = (path, words) => fetch(address + path, words).then(() => 'answered', (e) => e.name);
        const image = new Promise((r) => {
            Object.assign(new Image(), {onload: () => r('shown'), onerror: () => r('refused'), src: address});
        });
        Promise.all([asked(''), asked('photos?model=0', {method: 'POST', body: 'x'}), image]).then(done);
    """
    assert browser.execute_async_script(script, address) == ["TypeError", "TypeError", "refused"]
    browser.get(address.rstrip("/") + "x/")
    assert find(browser, "body").text.startswith("This address lacks the token of the session;")
    browser.get(address.replace("127.0.0.1", "localhost"))
    drawn(browser)
    assert find(browser, "label[for='files']").is_displayed()
    browser.get_log("browser")


def test_a_server_that_was_killed_leaves_nothing_and_the_page_says_so(browser, burst, tmp_path):
    with serving(tmp_path, str(burst[0])) as (process, at):
        opened(browser, at)
        wait(browser, lambda: names(browser) == ["00.png"])
        choose(browser, *burst)
        wait(browser, lambda: len(names(browser)) > 2)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
        idle(browser)
        said = "The server does not answer; start vitreg explore --serve again, and open its new address."
        assert refused(browser) == [said]
        shown = find(browser, "#left .sentence").text
        assert "form a second group" in shown, "what was measured stays"
    browser.get_log("browser")


def test_ctrl_c_ends_it_while_photos_wait(browser, burst, tmp_path):
    with serving(tmp_path, str(burst[0])) as (process, at):
        opened(browser, at)
        choose(browser, *burst)
        wait(browser, lambda: len(names(browser)) > 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert (tmp_path / "err").read_text() == ""
    browser.get_log("browser")


@pytest.mark.parametrize("width", [360, 1280])
def test_the_empty_page_fits_and_axe_finds_nothing(page, width):
    phone = {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    wide, seen = page.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= seen <= width
    assert violations(page) == []
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
