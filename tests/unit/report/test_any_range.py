"""Every chart and figure can be drawn from any values: none, one, narrow, zero, 1e300, NaN, infinite."""

import math
import re
import warnings

import numpy as np
import pytest
import synthetic_run
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from vitreg.records import Curve, Followed, Heatmap, Histogram, SinksRecord, ValueSpace
from vitreg.report.paper import NotMeasuredError
from vitreg.report.ranges import usable
from vitreg.report.run import charts as charts_run
from vitreg.report.run import figures as figures_run
from vitreg.report.run.over_steps import norm_span
from vitreg.report.scan.charts import examples, histogram, norms, pairs
from vitreg.report.scan.page import render
from vitreg.report.scan.payload import Scale
from vitreg.report.sheets import boxes
from vitreg.report.sheets import cost as figures_cost
from vitreg.report.sheets.sheet import Column, Sheet, draw, shared_scale
from vitreg.report.svg import Axis, labelled
from vitreg.results import Table
from vitreg.training.history import read_run

ODD = (
    0.0,
    1.0,
    1.0 + 1e-12,
    1e-12,
    5e-324,
    1e-300,
    1e16,
    1e30,
    1e300,
    1.7e308,
    -1.0,
    -1e30,
    math.nan,
    math.inf,
    -math.inf,
)
VALUES = st.sampled_from(ODD) | st.floats(1e-3, 1e5)
WIDTHS = st.sampled_from((340, 500, 1040))


def tries(count):
    """As many draws, however slow the machine is."""
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[
            Phase.explicit,
            Phase.generate,
        ],  # making a failure small takes minutes where drawing takes a tenth of a second
    )


def sound(svg):
    """A chart is absent, or all its numbers are finite and lie inside its picture, give or take a label."""
    if svg is None:
        return
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', re.sub(r'(aria-label|data-tip)="[^"]*"', "", svg))
    width, height = (float(v) for v in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    for name, most in (("x", width), ("x1", width), ("x2", width), ("cx", width), ("y", height), ("cy", height)):
        for value in re.findall(rf'\b{name}="([^"]+)"', svg):
            assert -60 <= float(value) <= most + 60
    for points in re.findall(r'points="([^"]*)"', svg):
        for pair in points.split():
            x, y = (float(v) for v in pair.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height


@st.composite
def histograms(draw_):
    if draw_(st.booleans()):  # as a scan leaves it: ascending edges, perhaps all tokens in one bin
        low = draw_(st.sampled_from((0.0, 5e-324, 1e-12, 1.0, 29.2, 1e30, 1e299)))
        edges = np.linspace(
            low, low * draw_(st.sampled_from((1 + 1e-12, 1.04, 3.0))) + 1e-300, draw_(st.integers(2, 9))
        )
        counts = draw_(st.lists(st.sampled_from((0.0, 1.0, 1e12)), min_size=len(edges) - 1, max_size=len(edges) - 1))
        return Histogram(edges=edges.tolist(), counts=counts)
    edges = draw_(st.lists(VALUES, min_size=2, max_size=6))
    counts = draw_(st.lists(VALUES.map(abs), min_size=len(edges) - 1, max_size=len(edges) - 1))
    return Histogram(edges=edges, counts=counts)


def drawn_sinks(draw_):
    """Two blocks of two heads, and the values of one of them."""
    heads = st.lists(st.lists(st.none() | VALUES, min_size=2, max_size=2), min_size=2, max_size=2)
    names = ("no_op", "broadcast", "unclear", "value_ratio", "stable_rank")
    space = {
        name: [draw_(VALUES)]
        for name in ("length", "length_without_bias", "outside", "outside_normal", "outside_random")
    }
    return SinksRecord(
        queries=17,
        **{name: draw_(heads) for name in names},
        places=[{}, {"cls": draw_(VALUES)}],
        on_outliers=[None, draw_(st.none() | VALUES)],
        value_space=[ValueSpace(block=1, outliers=1, **space)],
        value_images=1,
    )


@pytest.fixture(scope="module")
def records():
    """Scans of two blocks whose every number is drawn: a function from `data.draw` to a record."""
    from synthetic_scan import scan_result

    plain = scan_result(blocks=2, registers=1, grid=(2, 3))

    def made(draw_):
        layers = [
            layer.model_copy(
                update={name: draw_(VALUES) for name in ("min", "median", "p99", "max", "outlier_fraction")}
                | {
                    name: draw_(st.none() | VALUES)
                    for name in ("ratio", "threshold", "cls_norm", "cls_attention", "received")
                }
                | {
                    "register_norms": [draw_(VALUES)],
                    "histogram": draw_(histograms()),
                    "quantiles": {"0.999": draw_(VALUES)},
                    "followed": Followed(median=draw_(VALUES), ratio=draw_(VALUES), auc=draw_(VALUES)),
                }
            )
            for layer in plain.layers
        ]
        heat = draw_(st.lists(VALUES, min_size=6, max_size=6))
        redundancy = plain.redundancy.model_copy(
            update={"outliers": draw_(histograms()), "others": draw_(histograms()), "other_mean": draw_(VALUES)}
        )
        return plain.model_copy(
            update={
                "layers": layers[: draw_(st.integers(1, 2))],
                "positions": Heatmap(rows=2, cols=3, values=[heat[:3], heat[3:]]),
                "redundancy": redundancy,
                "per_image": draw_(histograms()),
                "head_sinks": drawn_sinks(draw_),
            }
        )

    return made


@tries(150)
@given(low=VALUES, high=VALUES, kind=st.sampled_from(("linear", "log", "sqrt")), target=st.integers(1, 8))
def test_an_axis_of_any_range_places_values_inside_and_has_ticks_that_can_be_told_apart(low, high, kind, target):
    axis = Axis(low, high, 0.0, 100.0, kind)
    assert all(0 <= axis(v) <= 100 for v in ODD)
    ticks = axis.ticks(target)
    assert 1 <= len(ticks) <= 20
    assert ticks == sorted(set(ticks))
    words = [text for _, text in labelled(ticks)]
    assert len(set(words)) == len(words)


@tries(150)
@given(low=VALUES, high=VALUES)
def test_a_range_is_finite_ascending_and_above_zero_where_it_is_logarithmic(low, high):
    for log in (False, True):
        a, b = usable(low, high, log=log)
        assert math.isfinite(a)
        assert math.isfinite(b - a)
        assert a < b
        assert a > 0 or not log
    if 1e-3 <= low < high <= 1e5 and high > 1.01 * low:
        assert usable(low, high) == usable(low, high, log=True) == (low, high)


@tries(20)
@given(data=st.data(), width=WIDTHS)
def test_every_chart_of_a_scan_is_drawn(records, data, width):
    result = records(data.draw)
    sound(norms.svg(result, width, 320))
    for chart in pairs.CHARTS:
        sound(chart.svg(result, width))
    for scale in histogram.COUNT_SCALES:
        sound(histogram.svg(result.layers[0], width, 300, scale))


@tries(7)
@given(data=st.data())
def test_the_page_of_any_numbers_names_no_chart_as_failed(records, data):
    assert "could not be drawn" not in render(records(data.draw), [])


@pytest.mark.slow
@tries(10)
@given(data=st.data())
def test_every_figure_of_a_scan_is_drawn(records, data):
    result = records(data.draw)
    for make in (norms.figure, histogram.figure, *(chart.figure for chart in pairs.CHARTS if chart.figure)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                figure = make(result)
            except NotMeasuredError:
                continue
            figure.canvas.draw()


def arrays(shape):
    return st.lists(VALUES, min_size=math.prod(shape), max_size=math.prod(shape)).map(
        lambda values: np.array(values).reshape(shape)
    )


@tries(6)
@given(data=st.data())
def test_example_maps_of_any_values_are_drawn(make_examples, data):
    with np.errstate(over="ignore"):
        norms, attention = (data.draw(arrays((3, 2))).astype(np.float32) for _ in range(2))
    example = make_examples(1, grid=(3, 2), attended=2)[0]
    fields = {name: getattr(example, name) for name in example.__dataclass_fields__}
    odd = type(example)(**fields | {"norms": norms, "cls_attention": attention, "pca": example.pca * math.nan})
    scale = Scale.of([odd])
    assert 0 < scale.low < scale.high < math.inf
    assert scale.quantise(norms).dtype == np.uint16
    examples.figure([odd]).canvas.draw()


@tries(7)
@given(data=st.data(), shared=st.booleans(), low=st.sampled_from((None, 0.0)))
def test_sheets_of_any_maps_are_drawn(data, shared, low):
    maps = [data.draw(arrays((2, 3))) for _ in range(2)]
    scale = shared_scale(maps, "norm", low=low, top=0.995) if shared else None
    if scale is not None:
        assert scale.low < scale.high
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(Sheet(title="t", rows=["a", "b"], columns=[Column(title="m", cells=maps)], scale=scale)).savefig(
            __import__("io").BytesIO()
        )


@tries(30)
@given(box=st.tuples(VALUES, VALUES, VALUES, VALUES), size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
def test_boxes_of_any_place_and_pictures_of_any_aspect_are_drawn(box, size):
    picture = boxes.Picture(name="p", pixels=np.zeros((2, 3, 3), np.uint8), size=size, found=[box], true=[box])
    steps = boxes.Steps(picture=picture, full=size, maps={"m": np.array([[box]])[0]})
    boxes.box_sheets([picture], title="t", subtitle="", caption="")
    boxes.step_sheets([steps], title="t", subtitle="", caption="")


@tries(12)
@given(
    values=st.lists(st.none() | VALUES, min_size=1, max_size=6), width=WIDTHS, best=st.booleans(), zero=st.booleans()
)
def test_curves_of_any_values_are_drawn(values, width, best, zero):
    curve = Curve(name="loss", steps=list(range(len(values))), values=values)
    sound(charts_run.curves([(0, "run", curve)], width, 300, "loss", mark_best=best, from_zero=zero))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = synthetic_run.write_run(
        tmp_path_factory.mktemp("run") / "reg0", total=100, artifacts=[50, 100], watch_every=50
    )
    return read_run(folder)


@tries(6)
@given(data=st.data())
def test_looks_of_any_values_are_drawn(run, data):
    odd = [
        moment.model_copy(
            update={
                "histogram": data.draw(histograms()),
                "outlier_fraction": data.draw(VALUES),
                "layers": [
                    layer.model_copy(
                        update={n: data.draw(VALUES) for n in ("median", "p99", "max", "outlier_fraction")}
                    )
                    for layer in moment.layers[:2]
                ],
            }
        )
        for moment in run.watched.moments[: data.draw(st.integers(1, 3))]
    ]
    watch = run.watched.model_copy(update={"moments": odd, "onset": data.draw(st.sampled_from((None, 0, 50, 7)))})
    sound(charts_run.norms(watch, 500, 300, span=norm_span(odd)))
    sound(charts_run.outliers_by_block(watch, 500))
    losses = Curve(name="loss", steps=[1, 2, 3], values=data.draw(st.lists(st.none() | VALUES, min_size=3, max_size=3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures_run.curves_figure([run.model_copy(update={"watched": watch, "training": [losses]})]).canvas.draw()


@tries(6)
@given(values=st.lists(VALUES, min_size=3, max_size=3))
def test_the_figure_of_costs_is_drawn(values):
    cost = Table(title="Cost at", columns=["registers", "% more GMACs", "% more parameters"], rows=[[0, *values[:2]]])
    profiles = Table(title="Profiles", columns=["", "0", "1", "2"], rows=[["bicubic", *values]])
    figures_cost.cost_figure(cost, profiles).canvas.draw()
