"""Scans side by side: both verdicts, one norm axis, links that stay inside the folder, foreign text inert."""

import re

from vitreg.report import write_comparison
from vitreg.report.scan.advice import next_steps, shared_steps
from vitreg.report.words import headline


def test_both_verdicts_and_the_way_to_their_reports(scan_result, tmp_path):
    found, none = scan_result(), scan_result("none")
    scans = [("Planted <b>", found, "planted"), ("Clean", none, "clean")]
    path = write_comparison(scans, tmp_path / "new" / "index.html", title="Two <i>", note="A note.")
    text = path.read_text()
    for result in (found, none):
        assert all(part in text for part in headline(result.verdict.sentence))
    assert re.findall(r'href="([^"#]*report.html)"', text) == ["planted/report.html", "clean/report.html"]
    assert "Planted &lt;b&gt;" in text
    assert "<i>" not in text.split("<style>")[0]
    assert not re.search(r'(src|href)="(https?:)?//', text)


def test_a_quantity_of_two_models_stands_on_the_same_axes(scan_result, tmp_path):
    shallow = scan_result("none", blocks=6)
    longer = [
        layer.model_copy(update={name: 7 * getattr(layer, name) for name in ("min", "median", "p99", "max")})
        for layer in shallow.layers
    ]
    scans = [("a", scan_result(), "a"), ("b", shallow.model_copy(update={"layers": longer}), "b")]
    text = write_comparison(scans, tmp_path / "i.html", title="t").read_text()
    for kind in ("norms", "histogram log"):
        charts = re.findall(rf'<svg([^>]*class="chart {kind}".*?)</svg>', text, re.S)
        boxes = [re.search(r'viewBox="([^"]+)"', chart)[1] for chart in charts]
        ticks = [re.findall(r'<text x="([^"]+)" y="([^"]+)" class="tick"[^>]*>([^<]+)<', chart) for chart in charts]
        assert len(charts) == 4  # each for a desktop and for a phone
        for width in (0, 1):
            assert boxes[width] == boxes[width + 2]
            assert ticks[width] == ticks[width + 2] != []


def test_at_most_three_things_to_do_and_what_two_models_share_is_said_once(scan_result, tmp_path):
    one, other = scan_result(spec="timm:one"), scan_result(spec="timm:other")
    text = write_comparison([("a", one, "a"), ("b", other, "b")], tmp_path / "i.html", title="t").read_text()
    said = text[text.index("What to do next") :]
    assert re.search(r"<ol.*?</ol>", said, re.S)[0].count("<li>") == 3
    for step in next_steps(one, named=False):
        assert said.count(step.split("`")[0].strip()[:40]) == 1
    different = shared_steps([("a", one), ("b", scan_result("none"))])
    assert len(different) == len(set(different))
    assert different[0] == f"a: {one.verdict.advice[0]}"


def test_a_scan_without_layers_can_stand_beside_another(scan_result, tmp_path):
    empty = scan_result("none").model_copy(update={"layers": []})
    text = write_comparison([("a", empty, ""), ("b", scan_result(), "b")], tmp_path / "i.html", title="t").read_text()
    assert "No block was measured." in text
