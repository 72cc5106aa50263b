"""Scans side by side: both verdicts, one norm axis, links that stay inside the folder, foreign text inert."""

import math
import re

from tests.unit.report import synthetic_scan

from vitreg.report import write_comparison
from vitreg.report.scan.advice import next_steps, shared_steps
from vitreg.report.scan.charts import overlay
from vitreg.report.scan.charts.overlay import one_block
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


def test_commands_name_the_models_where_they_are_known(scan_result):
    one, other, given = scan_result(spec="timm:one"), scan_result(spec="timm:other"), scan_result(spec="module:ViT")
    steps = shared_steps([("a", one), ("b", other)])
    assert not any("SPEC" in step for step in steps)
    doctor = next(step for step in steps if "vitreg doctor" in step)
    assert doctor.endswith("`vitreg doctor timm:one`. For b: `timm:other`.")
    same = next(step for step in shared_steps([("a", one), ("b", one)]) if "vitreg doctor" in step)
    assert same.endswith("`vitreg doctor timm:one`.")
    other = other.model_copy(update={"model": other.model.model_copy(update={"weights": "my weights.pth"})})
    doctor = next(step for step in shared_steps([("a", given), ("b", other)]) if "vitreg doctor" in step)
    assert doctor.endswith("`vitreg doctor SPEC`. For b: `timm:other --weights 'my weights.pth'`.")


def test_a_scan_without_layers_can_stand_beside_another(scan_result, tmp_path):
    empty = scan_result("none").model_copy(update={"layers": []})
    text = write_comparison([("a", empty, ""), ("b", scan_result(), "b")], tmp_path / "i.html", title="t").read_text()
    assert "No block was measured." in text


def test_all_models_stand_on_one_axis_at_one_block(scan_result, tmp_path):
    found, none, deeper = scan_result(), scan_result("none"), scan_result("none", blocks=24)
    layers = one_block([found, none, deeper])
    assert [layer.index for layer in layers] == [found.verdict.peak_layer] * 2 + [21]  # 10 of 0-11 is 21 of 0-23
    text = write_comparison(
        [("a", found, "a"), ("b", none, "b"), ("c", deeper, "c")], tmp_path / "i.html", title="t"
    ).read_text()
    charts = re.findall(r'<svg([^>]*class="chart overlay".*?)</svg>', text, re.S)
    assert len(charts) == 2  # for a desktop and for a phone
    for chart in charts:
        assert [f"run-line run-{i}" in chart for i in range(4)] == [True, True, True, False]
        assert chart.count("run-cut") == 1  # the threshold of the only one with artifacts
    assert "a, block 10" in text
    assert "c, block 21" in text


def test_the_lines_of_the_overlay_are_the_counts(scan_result):
    """Whatever the bins: the area over doublings of the norm is one."""
    found, other = scan_result(), scan_result("none")
    drawn = str(overlay.svg([("a", found.layers[10]), ("b", other.layers[10])], 1040, 380))
    assert drawn.count("<polyline") == 2
    shares = [float(each) for each in re.findall(r"\na: ([\d.]+)\u00a0%", drawn)]
    steps = re.findall(r"norm ([\d.,]+), per tenth", drawn)
    first, last = (float(steps[i].replace(",", "")) for i in (0, -1))
    doublings = math.log2(last / first) / (len(steps) - 1)
    assert 85 < sum(shares) * doublings / 0.1 < 115


def test_nothing_to_lay_over_is_no_chart(scan_result):
    found = scan_result()
    assert overlay.svg([("a", found.layers[3])], 340, 300) is None
    assert overlay.svg([("a", found.layers[3]), ("b", None)], 340, 300) is None
    assert one_block([found.model_copy(update={"layers": []})]) == [None]


def test_each_photograph_begins_a_row_and_attention_stands_beside_it(scan_result, tmp_path):
    shown = synthetic_scan.examples(2, grid=(4, 4), names=["one.jpg", "two.jpg"])
    scans = [(name, scan_result(grid=(4, 4)), name) for name in ("a", "b", "c")]
    pictures = [(each.name, [each] * 3) for each in shown]
    page = write_comparison(scans, tmp_path / "i.html", title="t", pictures=pictures, attention=True).read_text()
    section = page[page.index('id="pictures"') : page.index('class="tools"')]
    assert re.findall(r"<h3><bdi>([^<]+)</bdi>", section) == ["one.jpg", "two.jpg"]
    for part in section.split("<h3>")[1:]:
        assert re.findall(r"<h4[^>]*><bdi>([^<]+)</bdi>", part) == ["a", "b", "c"]
        assert part.count('<figure><div class="map" data-map="attention" data-index="0">') == 3
    hidden = write_comparison(scans, tmp_path / "i.html", title="t", pictures=pictures).read_text()
    assert '<figure><div class="map" data-map="attention" data-index="0">' not in hidden
