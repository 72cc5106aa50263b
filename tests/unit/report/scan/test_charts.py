"""Axes put values where they belong, ticks are round, charts draw what the record says."""

import re

import numpy as np
import pytest

from vitreg.records import Detectable, Histogram, Power, VerdictRecord
from vitreg.report import words
from vitreg.report.scan.charts import attention, histogram, norms, per_image
from vitreg.report.svg import Axis, element


@pytest.mark.parametrize(
    ("kind", "value", "pixel"),
    [("linear", 25, 50), ("log", 10, 50), ("sqrt", 25, 50), ("linear", -5, 0), ("log", 0, 0), ("sqrt", 900, 100)],
)
def test_an_axis_places_values_and_clamps_what_is_outside(kind, value, pixel):
    low, high = {"linear": (0, 50), "log": (1, 100), "sqrt": (0, 100)}[kind]
    assert Axis(low, high, 0, 100, kind)(value) == pytest.approx(pixel)


@pytest.mark.parametrize("low", [1e-4, 0.3, 7.0, 999.0])
@pytest.mark.parametrize("span", [1.01, 1.5, 4.0, 60.0, 1e5])
@pytest.mark.parametrize("kind", ["linear", "log"])
def test_ticks_are_inside_ascending_and_few(kind, low, span):
    ticks = Axis(low, low * span, 0, 100, kind).ticks()
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 12
    assert all(low * 0.999 <= t <= low * span * 1.001 for t in ticks)
    if kind == "linear" or span > 1.5:
        assert len(ticks) >= 2


def test_an_axis_without_a_span_does_not_divide_by_zero():
    assert Axis(3, 3, 0, 100)(3) == 50
    assert 3 in Axis(3, 3, 0, 100).ticks()


def test_elements_escape_text_and_attributes():
    assert element("text", "<b>&", title='"x"') == '<text title="&#34;x&#34;">&lt;b&gt;&amp;</text>'


def bars(svg, name):
    found = re.findall(rf'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="[\d.]+" class="{name}"', svg)
    return [(float(x), float(w)) for x, w in found]


@pytest.mark.parametrize("side", ["high", "low"])
def test_bars_change_colour_exactly_at_the_threshold(scan_result, side):
    layer = scan_result("low-norm" if side == "low" else "high-norm").layers[10]
    # a threshold in the middle of a full bin: the bin is drawn in two colours
    full = int(np.argmax(layer.histogram.counts))
    cut = float(np.sqrt(layer.histogram.edges[full] * layer.histogram.edges[full + 1]))
    svg = histogram.svg(layer.model_copy(update={"threshold": cut}), 1000, 300, "sqrt")
    line = float(re.search(r'<line x1="([\d.]+)" x2="[\d.]+" y1="28"', svg)[1])
    for name, below in (("bar", side == "high"), ("bar-outlier", side == "low")):
        drawn = bars(svg, name)
        assert drawn
        for x, wide in drawn:
            assert x + wide <= line + 0.1 if below else x >= line - 0.1


def test_every_scale_draws_every_bin_that_is_not_empty(scan_result):
    layer = scan_result("none").layers[3]
    filled = sum(c > 0 for c in layer.histogram.counts)
    for scale in histogram.COUNT_SCALES:
        assert len(bars(histogram.svg(layer, 900, 300, scale), "bar")) == filled


def test_a_small_mode_is_visible_on_the_log_and_square_root_scales(scan_result):
    layer = scan_result(share=0.003).layers[10]

    def tallest(scale):
        svg = histogram.svg(layer, 1000, 360, scale)
        return max(float(h) for h in re.findall(r'height="([\d.]+)" class="bar-outlier"', svg))

    assert tallest("linear") < 3 < 10 < tallest("sqrt") < tallest("log")


def test_first_and_peak_are_marked_by_name(scan_result):
    svg = norms.svg(scan_result(), 1000, 400)
    assert "first: block 6" in svg
    assert "peak: block 10" in svg
    one = norms.svg(scan_result(blocks=1), 1000, 400)
    assert "first and peak: block 0" in one


def test_attention_is_drawn_at_the_block_that_reads_the_tokens(scan_result):
    result = scan_result()
    best = max(result.layers[:-1], key=lambda la: la.cls_attention or 0)
    drawn = attention.svg(result, 500, 300)
    at = {words: float(x) for x, words in re.findall(r'<text x="([^"]+)" y="[^"]+" class="tick"[^>]*>(\d+)<', drawn)}
    points = re.findall(r'<circle cx="([^"]+)" cy="([^"]+)"', drawn)
    highest = min(points, key=lambda point: float(point[1]))
    assert float(highest[0]) == at[str(best.index + 1)]
    assert f"highest in block {best.index + 1}" in drawn
    assert f"In block {best.index + 1} outliers take" in attention.taken_in_words(
        result.model_copy(update={"layers": result.layers[:-1]})
    )
    assert "block that reads the tokens" in drawn
    assert max(map(int, at)) == result.model.blocks - 1  # what comes out of the last block is read by none


def test_attention_lines_do_not_cross_a_gap(scan_result):
    result = scan_result()
    layers = [la.model_copy(update={"cls_attention": None}) if la.index == 8 else la for la in result.layers]
    svg = attention.svg(result.model_copy(update={"layers": layers}), 500, 300)
    assert len(re.findall(r'class="line-outlier"', svg)) == 2


def test_images_without_outliers_keep_a_bar_of_their_own():
    counts = [40.0, *np.random.default_rng(0).integers(1, 9, 400).astype(float)]
    joined = per_image._joined(Histogram(edges=[float(i) for i in range(402)], counts=counts), most=30)
    assert joined[0] == ("0", 40.0)
    assert joined[1][0] == "1–20"
    assert len(joined) <= 32
    assert sum(images for _, images in joined) == sum(counts)


def test_densities_have_area_one_and_empty_ends_are_trimmed():
    data = Histogram(edges=[0, 1, 2, 4, 8, 9], counts=[0, 0, 6, 2, 0])
    assert sum(d * (b - a) for d, a, b in zip(words.density(data), data.edges, data.edges[1:], strict=False)) == 1
    assert words.trimmed(data, margin=0).edges == [2, 4, 8]
    assert words.trimmed(Histogram(edges=[0, 1], counts=[0])).counts == [0]


PERCENTS = {
    0: "0 %",
    4e-7: "< 0.001 %",
    1: "100 %",
    0.0031: "0.31 %",
    0.00042: "0.042 %",
    0.0237: "2.4 %",
    0.9991: "> 99 %",
    1e298: "1e300 %",
}
NUMBERS = {0: "0", 0.0312: "0.0312", 4.62: "4.62", 49.62: "49.6", 1389.6: "1,390", 99.96: "100", 9.996: "10.0"}
MISSING = {None: "–", float("nan"): "–", float("inf"): "–"}


@pytest.mark.parametrize(("share", "text"), (PERCENTS | MISSING).items())
def test_percent_never_rounds_something_to_nothing(share, text):
    assert words.percent(share).replace("\N{NO-BREAK SPACE}", " ") == text


def test_a_bin_is_named_by_the_whole_numbers_it_holds():
    assert [words.bin_name(*ends) for ends in ((0, 1), (2.5, 5.5), (1000, 2000), (0, 1e300))] == [
        "0",
        "3–5",
        "1,000–1,999",
        "0–1e300",
    ]


@pytest.mark.parametrize(("value", "text"), (NUMBERS | MISSING).items())
def test_numbers_have_three_digits(value, text):
    assert words.number(value) == text


def test_confidence_in_words():
    found = VerdictRecord.model_construct(kind="high-norm", power=None)
    said = [words.confidence(found.model_copy(update={"confidence": v})) for v in (1.0, 0.9, 0.5, None)]
    assert said == ["high", "fair", "low", "unknown"]


@pytest.mark.parametrize(
    ("shares", "agree", "undecided", "tone", "kind"),
    [
        ((0.01, 0.005, 0.005), 1.0, False, "clear", "no artifacts found"),
        ((0.01, 0.005, 0.005), 0.9, False, "open", "no artifacts found"),
        ((0.01, 0.005, 0.005), 0.5, True, "open", "not established"),
        ((0.11, 0.02, 0.01), 1.0, False, "open", "mild artifacts not excluded"),
        ((0.11, 0.03, 0.02), 1.0, False, "open", "too few images to tell"),
        ((None, None, None), 1.0, False, "open", "too few images to tell"),
        (None, 1.0, False, "open", "no artifacts found"),
    ],
)
def test_only_a_none_that_excludes_mild_artifacts_is_green(shares, agree, undecided, tone, kind):
    detectable = [Detectable(ratio=r, share=s) for r, s in zip((2.25, 3.5, 6), shares or (), strict=False)]
    power = Power(layer=3, probability=0.8, unevenness=2, detectable=detectable) if shares else None
    verdict = VerdictRecord.model_construct(
        kind="none", strength="none", confidence=agree, power=power, undecided=undecided
    )
    assert (words.tone(verdict), words.kind(verdict)) == (tone, kind)


def test_a_verdict_of_artifacts_has_the_colour_of_its_strength():
    found = VerdictRecord.model_construct(kind="high-norm", strength="mild", power=None, undecided=False)
    assert (words.tone(found), words.kind(found)) == ("mild", "high-norm artifacts")


@pytest.mark.parametrize(
    ("sentence", "first", "rest"),
    [
        ("It has artifacts: 5 in 1000.", "It has artifacts.", "5 in 1000."),
        (
            "It has artifacts. About 5 in 1000 are 2.2 times longer.",
            "It has artifacts.",
            "About 5 in 1000 are 2.2 times longer.",
        ),
        ("None were found, but 12 images tell little.", "None were found, but 12 images tell little.", ""),
        (
            "None, but 12 images only exclude strong ones (2 % of the patches).",
            "None, but 12 images only exclude strong ones.",
            "2 % of the patches.",
        ),
        ("Weights are random. It has artifacts: many.", "Weights are random.", "It has artifacts: many."),
    ],
)
def test_a_headline_is_a_whole_sentence(sentence, first, rest):
    assert words.headline(sentence) == (first, rest)


def test_a_confidence_says_what_it_stands_on():
    edges = [Detectable(ratio=r, share=s) for r, s in ((2.25, 0.11), (3.5, 0.03), (6, 0.02))]
    power = Power(layer=3, probability=0.8, unevenness=2, detectable=edges)
    none = VerdictRecord.model_construct(kind="none", strength="none", confidence=0.97, power=power, undecided=False)
    said = {
        words.confidence_why(none.model_copy(update=changes)).replace("\N{NO-BREAK SPACE}", " ")
        for changes in ({}, {"power": None}, {"confidence": None}, {"undecided": True})
    }
    assert said == {
        "these images exclude too little",  # and not that 97 % agree, beside a low confidence
        "97 % of resamples agree",
        "too few images to resample",
        "artifacts in 3.0 % of resamples",
    }


def test_names_are_shown_without_the_folder_they_share():
    assert words.relative(["/a/b/c.jpg", "/a/b/d/e.jpg"]) == (
        "/a/b",
        {"/a/b/c.jpg": "c.jpg", "/a/b/d/e.jpg": "d/e.jpg"},
    )
    assert words.relative(["one.jpg"]) == ("", {"one.jpg": "one.jpg"})
    assert words.relative(["photos.zip/x.jpg", "more/y.jpg"]) == (
        "",
        {"photos.zip/x.jpg": "photos.zip/x.jpg", "more/y.jpg": "more/y.jpg"},
    )
    assert words.relative([]) == ("", {})
