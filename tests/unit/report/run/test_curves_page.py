"""Curves of runs: nothing lost on the way to the drawing, planted artifacts where they were planted, foreign text inert."""

import base64
import html
import io
import math
import re

import numpy as np
import pytest
import synthetic_run
from PIL import Image

from vitreg.errors import UserError
from vitreg.records import Curve
from vitreg.report import write_curves, write_curves_figure
from vitreg.report.run import charts as charts_run
from vitreg.report.run import figures as figures_run
from vitreg.report.run import over_steps
from vitreg.report.run.page import render
from vitreg.training.history import read_run

HOSTILE = '"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    shown = synthetic_run.write_run(base / "reg0", artifacts=range(3500, 10_001, 500))
    none = synthetic_run.write_run(base / "reg4", registers=4, done=6200, seed=8)
    bare = synthetic_run.write_run(base / "bare", watch_every=0, done=300, evaluation="knn")
    return [read_run(folder) for folder in (shown, none, bare)]


def test_every_token_is_in_the_density(runs):
    moments = runs[0].watched.moments
    span = over_steps.norm_span(moments)
    for rows in (7, 128, 1000):
        grid = over_steps.norm_density(moments, span, rows)
        octaves = math.log2(span[1] / span[0]) / rows
        np.testing.assert_allclose(grid.sum(0) * octaves, 1, atol=1e-9)


def test_the_density_is_that_of_a_naive_count(runs):
    moment = runs[0].watched.moments[-1]
    edges, counts = moment.histogram.edges, moment.histogram.counts
    # Rows that are the bins themselves: each holds exactly its own tokens, the highest norm first.
    grid = over_steps.norm_density([moment], (edges[0], edges[-1]), len(counts))
    np.testing.assert_allclose(grid[::-1, 0] / 16, np.array(counts) / sum(counts), atol=1e-9)
    largest = moment.histogram.model_copy(update={"counts": [1e308 / max(counts) * c for c in counts]})
    same = over_steps.norm_density(
        [moment.model_copy(update={"histogram": largest})], (edges[0], edges[-1]), len(counts)
    )
    np.testing.assert_allclose(same, grid, atol=1e-9)  # where the sum of the counts overflows


def test_a_pixel_shows_the_nearest_look():
    steps = [0, 10, 20, 60, 61]
    found = over_steps.nearest_look(steps, -20, 80, pixels=997)
    for pixel, look in enumerate(found):
        at = -20 + 100 * (pixel + 0.5) / 997
        near = min(range(len(steps)), key=lambda i: abs(steps[i] - at))
        assert look == (near if 0 <= at < 61 else -1)
    assert over_steps.boundaries([7]) == [6.5, 7.5]


def test_opacity_grows_with_density_and_is_nothing_where_nothing_is():
    grid = np.array([[0.0, 1e-3, 0.01], [0.1, 0.5, 3.0]])
    drawn = over_steps.strengths(grid).ravel()
    assert drawn[0] == 0
    assert (np.diff(drawn) > 0).all()
    assert drawn[1] > 0.1
    assert drawn[-1] == 1
    assert not over_steps.strengths(np.zeros((2, 2))).any()


def test_thinning_keeps_mean_and_extremes():
    values = [float(v) for v in np.random.default_rng(0).standard_normal(1000)]
    points = over_steps.thinned(Curve(name="x", steps=list(range(1000)), values=values), most=100)
    assert len(points) == 100
    for i, point in enumerate(points):
        part = values[10 * i : 10 * i + 10]
        assert point.value == pytest.approx(sum(part) / 10)
        assert (point.low, point.high) == (min(part), max(part))
        assert 10 * i <= point.step < 10 * i + 10
    holed = Curve(name="x", steps=[1, 2, 3], values=[None, 5.0, None])
    assert [(p.step, p.value) for p in over_steps.thinned(holed)] == [(2, 5.0)]
    assert over_steps.best(holed) == (2, 5.0)
    assert over_steps.best(Curve(name="x", steps=[1, 2, 3], values=[2.0, 7.0, 7.0])) == (2, 7.0)
    assert over_steps.best(Curve(name="x", steps=[1], values=[None])) is None


def opacity(svg, which=0):
    """The opacity of a picture inside a chart, 0 to 255 [rows, pixels]."""
    data = re.findall(r'href="data:image/png;base64,([^"]+)"', svg)[which]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[..., 3]


def test_the_second_band_of_norms_begins_at_the_onset(runs):
    watch = runs[0].watched
    svg = charts_run.norms(watch, 1040, 380)
    drawn = opacity(svg)
    low, high = over_steps.norm_span(watch.moments)
    steps = (np.arange(drawn.shape[1]) + 0.5) / drawn.shape[1] * 10_000
    norms = np.geomspace(high, low, len(drawn))
    above = drawn[norms > 90]
    assert not above[:, steps < 3200].any()
    assert (above[:, steps > 3300] > 0).any(0).all()
    assert "artifacts from step 3,500" in svg
    assert "artifacts from" not in charts_run.norms(runs[1].watched, 1040, 380)


def test_the_heat_map_holds_the_shares(runs):
    watch = runs[0].watched
    drawn = opacity(charts_run.outliers_by_block(watch, 1040))
    assert len(drawn) == synthetic_run.BLOCKS
    for row, block in enumerate(reversed(range(synthetic_run.BLOCKS))):
        share = watch.moments[-1].layers[block].outlier_fraction
        top = synthetic_run.SHARE
        assert drawn[row, -1] == (round(255 * (0.15 + 0.85 * share / top)) if share else 0)
        assert drawn[row, 0] == 0
    assert charts_run.outliers_by_block(runs[1].watched, 1040) is None


def test_tips_read_each_run_as_far_as_it_came(runs):
    drawn = [(i, run.name, over_steps.named(run.evaluations, "top1")) for i, run in enumerate(runs)]
    svg = charts_run.curves(drawn, 500, 300, "top-1", unit="%", mark_best=True)
    tips = re.findall(r'data-tip="([^"]*)"', svg)
    assert [tip.splitlines()[0] for tip in tips] == [f"step {s:,}" for s in range(1000, 10_001, 1000)]
    assert all("reg0: " in tip for tip in tips)
    assert ["reg4: " in tip for tip in tips] == [True] * 6 + [False] * 4
    assert svg.count("run-best") == 2
    assert charts_run.curves([(0, "x", None)], 500, 300, "loss") is None


def test_a_wide_range_is_drawn_on_a_log_axis():
    steps = list(range(1, 50))
    wide = Curve(name="x", steps=steps, values=[10.0 ** (-s / 10) for s in steps])
    assert "log scale" in charts_run.curves([(0, "a", wide)], 500, 300, "loss")
    signed = Curve(name="x", steps=steps, values=[10.0 ** (-s / 10) - 0.5 for s in steps])
    assert "log scale" not in charts_run.curves([(0, "a", signed)], 500, 300, "loss")


def words(page):
    page = re.sub(r"<(style|script).*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def test_one_run_is_told_in_one_sentence(runs):
    text = words(render(runs[:1]))
    assert "Artifacts appeared between steps 3,000 and 3,500, 35 % into the run, and stayed." in text
    assert "High-norm artifacts supervised, S/16, 0 registers" in text
    assert "100 epochs" in text
    value, step = max((v, -s) for s, v in zip(runs[0].evaluations[0].steps, runs[0].evaluations[0].values, strict=True))
    assert f"Best top-1 accuracy {value:.1f} % at step {-step:,}" in text
    assert "model.registers = 0" in text
    unfinished = words(render(runs[1:2]))
    assert "No artifacts so far: the last look was at step 6,200 of 10,000, and the run is unfinished." in unfinished
    assert "at the end" not in unfinished
    assert unfinished.count("6,200") == 1
    assert "No artifacts so far supervised, S/16, 4 registers" in unfinished
    assert "6,200 of 10,000" in unfinished
    assert "No block showed outliers at any look." in unfinished


def test_losses_come_before_norms(runs):
    text = words(render(runs))
    order = [
        "Artifacts so far",
        "Loss Each",
        "Learning rate The",
        "Evaluation: top-1",
        "Outliers over training",
        "Norms over training",
        "Settings",
    ]
    places = [text.find(each) for each in order]
    assert -1 not in places
    assert places == sorted(places)


def test_a_chart_of_runs_that_fails_is_named_and_the_others_are_drawn(runs, monkeypatch):
    monkeypatch.setattr("vitreg.report.run.charts.norms", lambda *_, **__: 1 / 0)
    page = render(runs[:1])
    assert "chart of norms of reg0" in words(page)
    assert 'class="chart curves"' in page


def test_a_run_that_was_neither_watched_nor_evaluated(runs):
    text = words(render(runs[2:]))
    assert "The norms were not watched in this run." in text
    assert "The run was not evaluated, or not yet." in text
    assert "Outliers by block" not in text


def test_several_runs_share_their_axes_and_say_what_differs(runs):
    page = render(runs)
    text = words(page)
    assert "Artifacts so far in 1 of 2 watched runs." in text
    for run in runs[:2]:
        assert f"{run.name} : {run.watched.sentence}" in text
    assert "model.registers 0 4 0" in text
    assert "run.batch " not in text.split("All settings")[0]
    norms = re.findall(r"<svg[^>]*norms-over-steps.*?</svg>", page, re.S)
    ticks = [re.findall(r'class="tick"[^>]*>([^<]*)', svg) for svg in norms]
    assert len(norms) == 4
    assert ticks[0] == ticks[2]
    assert ticks[1] == ticks[3]
    assert "All runs have the same settings." in words(render([runs[0], runs[0]]))


def test_the_page_loads_nothing_and_foreign_text_stays_text(runs, tmp_path):
    run = runs[0].model_copy(update={"name": HOSTILE, "folder": HOSTILE, "settings": {HOSTILE: HOSTILE}})
    page = write_curves([run, runs[1]], tmp_path / "new").read_text()
    assert "<img" not in page
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    alone = render([run])
    assert "<img" not in alone


def test_the_picture_shows_the_values(runs, tmp_path):
    figure = figures_run.curves_figure(runs)
    loss, evaluation, outliers, *strips = figure.axes
    points = over_steps.thinned(runs[1].training[0])
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [p.value for p in points])
    assert evaluation.get_title(loc="left") == "top1 (%)"
    np.testing.assert_allclose(
        outliers.lines[0].get_ydata(), [100 * m.outlier_fraction for m in runs[0].watched.moments]
    )
    strips = [axes for axes in strips if axes.get_ylabel().startswith("norm")]
    assert [axes.get_title(loc="left").split(":")[0] for axes in strips] == ["reg0", "reg4"]
    assert strips[0].get_ylim() == strips[1].get_ylim()
    odd = runs[2].model_copy(update={"name": "$x_{broken\n\udcff", "evaluations": []})
    path = write_curves_figure([odd, runs[0]], tmp_path)
    assert Image.open(path).format == "PNG"


def test_an_unwritable_folder_is_a_users_error(runs, tmp_path):
    (tmp_path / "file").write_text("")
    for write in (write_curves, write_curves_figure):
        with pytest.raises(UserError):
            write(runs, tmp_path / "file")


@pytest.mark.parametrize("values", [[0.0, 0.0], [0.0], [0.0, 0.2]])
def test_an_axis_of_shares_begins_at_zero(values):
    (low, high), kind = charts_run._value_span(values, from_zero=True)
    assert (low, kind) == (0.0, "linear")
    assert high > 0
