"""Nothing of a page comes from elsewhere, and nothing foreign in it does anything."""

import base64
import hashlib
import re

from tests.unit.report.scan.read_page import HOSTILE, Page, data_of

from vitreg.records import Finding, Skipped
from vitreg.report import write_report
from vitreg.report.scan.page import render


def test_nothing_is_loaded_from_anywhere(scan_result, make_examples):
    text = render(scan_result(registers=4), make_examples(2, registers=4))
    page = Page(text)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("#", "data:")), (name, value[:80])
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"\b(fetch|XMLHttpRequest|importScripts|WebSocket)\b", text)
    # The namespace of SVG is the one address there is, and it is never fetched.
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_the_content_policy_names_exactly_the_style_and_the_script_of_the_page(scan_result):
    text = render(scan_result(), [])
    policy = next(m["content"] for m in Page(text).all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not [a for _, a in Page(text).elements if "style" in a or any(k.startswith("on") for k in a)]


def test_foreign_names_are_inert_everywhere(scan_result, make_examples):
    evil = "</script><script>alert(2)</script>"
    result = scan_result(spec=f"timm:{evil}", skipped=[Skipped(name=HOSTILE, reason=evil)])
    verdict = result.verdict.model_copy(
        update={"sentence": evil, "reason": f"`{evil}`", "advice": [evil, f"`{HOSTILE}`"]}
    )
    lint = [Finding(level="problem", subject=evil, message=evil, remedy=evil)]
    layers = [la.model_copy(update={"gates": {evil: 1.0}}) for la in result.layers]
    settings = {evil: HOSTILE}
    provenance = result.provenance.model_copy(update={"command": evil, "packages": {evil: evil}, "hardware": evil})
    model = result.model.model_copy(update={"notes": [evil], "weights": HOSTILE, "library": evil})
    hostile = result.model_copy(
        update={
            "verdict": verdict, "lint": lint, "layers": layers, "settings": settings,
            "provenance": provenance, "model": model,
        }
    )  # fmt: skip
    text = render(hostile, make_examples(2, names=[HOSTILE, evil]))
    page = Page(text)
    assert len(page.all("script")) == 2
    assert "alert(2)</script>" not in text
    assert all(not any(name.startswith("on") for name in attributes) for _, attributes in page.elements)
    assert [image["src"][:11] for image in page.all("img")] == ["data:image/"] * 2
    assert HOSTILE in page  # shown as it is, as text
    assert {e["name"] for e in data_of(text)["examples"]} == {HOSTILE, evil}
    block = re.search(r'id="data">(.*?)</script>', text, re.S)[1]
    assert not set("<>&") & set(block)


def test_undecodable_file_names_can_be_written(scan_result, make_examples, tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", errors="surrogateescape")
    path = write_report(
        scan_result(skipped=[Skipped(name=name, reason="broken")]), make_examples(1, names=[name]), tmp_path
    )
    assert r"caf\udce9.jpg" in path.read_text(encoding="utf-8")


def test_images_are_named_without_the_folder_they_lie_in(scan_result, make_examples):
    made = make_examples(2, names=["/home/me/photos/a.jpg", "/home/me/photos/more/b.jpg"])
    page = Page(render(scan_result(skipped=[Skipped(name="/home/me/photos/c.jpg", reason="broken")]), made))
    for name in (" a.jpg ", " more/b.jpg ", "c.jpgbroken"):
        assert name in page
    assert page.text.count("/home/me/photos") == 1  # in the provenance
