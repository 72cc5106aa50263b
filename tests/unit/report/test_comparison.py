"""Scans side by side: both verdicts, one norm axis, links that stay inside the folder, foreign text inert."""

import re

from vitreg.report import charts_depth, write_comparison


def test_both_verdicts_and_the_way_to_their_reports(scan_result, tmp_path):
    found, none = scan_result(), scan_result("none")
    scans = [("Planted <b>", found, "planted"), ("Clean", none, "clean")]
    path = write_comparison(scans, tmp_path / "new" / "index.html", title="Two <i>", note="A note.")
    text = path.read_text()
    assert found.verdict.sentence in text
    assert none.verdict.sentence in text
    assert re.findall(r'href="([^"#]*report.html)"', text) == ["planted/report.html", "clean/report.html"]
    assert "Planted &lt;b&gt;" in text
    assert "<i>" not in text.split("<style>")[0]
    assert not re.search(r'(src|href)="(https?:)?//', text)


def test_the_norm_axis_is_shared(scan_result, tmp_path):
    results = scan_result(), scan_result("none")
    low = min(charts_depth.norm_span(r)[0] for r in results)
    high = max(charts_depth.norm_span(r)[1] for r in results)
    text = write_comparison(
        [("a", results[0], "a"), ("b", results[1], "b")], tmp_path / "i.html", title="t"
    ).read_text()
    for result in results:
        assert charts_depth.norms_per_layer(result, 500, 340, (low, high)) in text


def test_a_scan_without_layers_can_stand_beside_another(scan_result, tmp_path):
    empty = scan_result("none").model_copy(update={"layers": []})
    text = write_comparison([("a", empty, ""), ("b", scan_result(), "b")], tmp_path / "i.html", title="t").read_text()
    assert "No block was measured." in text
