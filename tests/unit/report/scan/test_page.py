"""The page holds what it promises, loads nothing, and lets no foreign name become markup."""

import itertools
import re
import subprocess
import sys

import pytest
from tests.unit.report.scan.read_page import Page, said_of

from vitreg.errors import UserError
from vitreg.records import Heatmap
from vitreg.report import Attempts, draw_scan, write_comparison, write_figures, write_report
from vitreg.report.scan.page import render


def test_the_page_says_the_verdict_first_and_then_what_it_stands_on(scan_result, make_examples):
    result = scan_result()
    page = Page(render(result, make_examples(4)))
    order = [
        said_of(result.verdict.sentence),
        result.verdict.reason,
        "More outliers",
        "Fewer outliers",
        "Norms along the depth",
        "Norms at block 10",
        "Where outliers sit",
        "How many an image has",
        "Redundancy of the patches",
        "Attention that outliers take",
        "What to do next",
        result.lint[1].message.replace("`", ""),
        "All blocks in numbers",
        "Skipped images",
        "Provenance",
        result.model.weights_sha256,
    ]
    places = [page.text.find(re.sub(r"\s+", " ", words)) for words in order]
    assert -1 not in places, order[places.index(-1)]
    assert places == sorted(places)
    assert result.provenance.command in page


def test_one_page_for_every_kind_of_verdict(scan_result, make_examples):
    for kind, words in (
        ("high-norm", "High-norm artifacts"),
        ("low-norm", "Low-norm artifacts"),
        ("position-locked", "Position-locked artifacts"),
        ("none", "No artifacts found"),
    ):
        assert words in Page(render(scan_result(kind), make_examples(1, outliers=kind != "none")))


def test_the_outliers_of_the_peak_are_followed_in_chart_and_table(scan_result):
    text = render(scan_result(), [])
    assert "line-followed" in text
    assert "Peak’s outliers" in Page(text).text
    clean = render(scan_result("none"), [])
    assert "peak’s outliers" not in Page(clean).text.lower()


def test_a_verdict_none_is_said_plainly_and_still_shows_charts_and_images(scan_result, make_examples):
    result = scan_result("none")
    text = render(result, make_examples(3, outliers=False))
    page = Page(text)
    assert said_of(result.verdict.sentence) in page
    assert "No token counts as an artifact" in page
    assert "Example images" in page
    assert "More outliers" not in page
    assert "No outliers, so there are no places to show." in page
    assert text.count('class="chart norms"') == 2  # desktop and phone
    assert text.count('class="chart histogram log"') == 2
    assert "threshold</li>" not in text


def test_candidates_of_a_verdict_none_are_called_candidates(scan_result):
    heat = Heatmap(rows=1, cols=2, values=[[0.0, 0.5]])
    words = "candidates that did not hold up"
    assert words in Page(render(scan_result("none", positions=heat), []))
    assert words not in Page(render(scan_result(positions=heat), []))


def test_the_shown_layer_of_a_verdict_none_is_the_one_with_the_longest_tail(scan_result):
    result = scan_result("none")
    stretched = result.layers[3].model_copy(update={"quantiles": {"0.999": 50 * result.layers[3].median}})
    layers = [*result.layers[:3], stretched, *result.layers[4:]]
    assert "Norms at block 3" in Page(render(result.model_copy(update={"layers": layers}), []))


def test_a_page_of_eight_examples_stays_below_three_megabytes(scan_result, make_examples, tmp_path):
    path = write_report(
        scan_result(registers=4, blocks=24), make_examples(8, grid=(37, 37), registers=4, attended=12), tmp_path
    )
    assert path.stat().st_size < 3e6


def test_the_page_is_accessible_in_structure(scan_result, make_examples):
    page = Page(render(scan_result(registers=1), make_examples(2, registers=1)))
    assert dict(page.elements)["html"]["lang"] == "en"
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    assert all(image.get("alt") for image in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name, ids[0]) in ids


def test_a_failed_write_leaves_the_old_page_and_no_draft(scan_result, tmp_path, monkeypatch):
    path = write_report(scan_result("none"), [], tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left on device"):
        write_report(scan_result(), [], tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_cannot_be_made_is_a_users_error(scan_result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        write_report(scan_result(), [], tmp_path / "file")


def test_importing_the_report_does_not_import_torch():
    code = "import sys, vitreg.report; sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def failing(*_, **__):
    raise ValueError("slice step cannot be zero")


def test_a_chart_that_fails_is_named_and_all_others_are_drawn(scan_result, make_examples, monkeypatch):
    whole = render(scan_result(), make_examples(1))
    monkeypatch.setattr("vitreg.report.scan.charts.histogram.svg", failing)
    text = render(scan_result(), make_examples(1))
    page = Page(text)
    assert "Could not be drawn" in page
    for scale in ("log", "sqrt", "linear"):
        assert f"chart of histogram {scale}: ValueError in test_page.py" in page
    assert "slice step cannot be zero" in page
    assert text.count('class="chart') == whole.count('class="chart') - 6
    assert text.count('data-map="norms"') == 1
    assert "Could not be drawn" not in Page(whole)


def test_figures_and_the_page_are_named_where_they_fail_and_the_rest_is_written(
    scan_result, make_examples, tmp_path, monkeypatch
):
    result, examples = scan_result(), make_examples(2, grid=(4, 4), names=["a.jpg", "b.jpg"])
    whole = {path.name for path in write_figures(result, examples, tmp_path / "whole")}
    monkeypatch.setattr("vitreg.report.scan.charts.positions.figure", failing)
    monkeypatch.setattr("vitreg.report.scan.payload.picture", failing)
    attempts = Attempts()
    draw_scan(result, examples, tmp_path, attempts)
    assert [each.name for each in attempts.failed] == ["figures/positions.png", "maps of a.jpg", "maps of b.jpg"]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == whole - {"positions.png"}
    assert "figures/positions.png" in Page((tmp_path / "report.html").read_text())


def test_a_full_disk_is_no_fault_of_a_figure(scan_result, tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left on device"):
        draw_scan(scan_result(), [], tmp_path, Attempts())


def drawn_without_a_word(text):
    """Kinds of lines and bands in the charts of norms that no legend explains."""
    charts = "".join(re.findall(r'<svg[^>]*class="chart norms".*?</svg>', text, re.S))
    legends = "".join(re.findall(r'<ul class="legend">.*?</ul>', text, re.S))
    drawn = set(re.findall(r'<poly(?:line|gon)[^>]*class="([^"]+)"', charts))
    assert {"band-all", "band-top", "line-median", "line-cls", "line-register"} <= drawn
    return drawn - set(re.findall(r'class="([^"]+)"', legends)) - {"line-p99", "line-max"}  # edges of a band


def test_every_line_and_band_of_the_norms_is_in_the_legend(scan_result, tmp_path):
    found, none = scan_result(registers=2), scan_result("none", registers=2)
    assert drawn_without_a_word(render(found, [])) == set()
    assert drawn_without_a_word(render(none, [])) == set()
    page = write_comparison([("a", none, "a"), ("b", found, "b")], tmp_path / "i.html", title="t")
    assert drawn_without_a_word(page.read_text()) == set()
