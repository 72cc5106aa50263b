"""The birth of artifacts as panels: each value is the one that was recorded, and the onset is marked in each."""

import json
import re

import pytest
import synthetic_run

from vitreg.errors import UserError
from vitreg.records import Curves
from vitreg.report.paper import NotMeasuredError
from vitreg.report.run import birth, maps
from vitreg.report.run.figures import curves_figure
from vitreg.report.run.map_figure import maps_figure
from vitreg.report.run.page import render
from vitreg.training.history import read_run

ONSET, LOOKS = 400, range(0, 1001, 100)


def numbers(block, step):
    """What block 1 of 12 gives outliers most of: .3 from the onset on; registers get .2 in block 5."""
    outliers = (0.3 if block == 1 else 0.1) if step >= ONSET else None
    attention = {"outliers": outliers, "background": 0.05, "registers": 0.2 if block == 5 else 0.01}
    values = {"outliers": None if outliers is None else 0.01 * block, "background": 1.0, "registers": 0.1 * block}
    return {"image_ratio": 1 + block * (step >= ONSET), "attention": attention, "values": values}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    shown = range(ONSET, 1001, 100)
    run = synthetic_run.write_run(tmp_path_factory.mktemp("born") / "r0", total=1000, watch_every=100, artifacts=shown)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for block, layer in enumerate(line.get("layers", ())):
            layer |= numbers(block, line["step"])
    lines += [{"kind": "evaluation", "step": s, "val_loss": 0.5, "val_asked": 1 / (s + 1)} for s in (100, 500, 900)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_the_panels_hold_what_was_recorded(folder):
    error, ratio, attention, values = birth.panels(read_run(folder))
    assert error.lines[0].points == [(100, 1 / 101), (500, 1 / 501), (900, 1 / 901)]
    assert [line.points for line in ratio.lines] == [[(s, 1 + b * (s >= ONSET)) for s in LOOKS] for b in range(12)]
    by_name = {line.name: line.points for line in attention.lines}
    assert by_name["outliers"] == [(s, 0.3) for s in LOOKS if s >= ONSET]
    assert by_name["registers"] == [(s, 0.2) for s in LOOKS]
    # The values are those of the block that gives most attention, not the smallest.
    by_name = {line.name: line.points for line in values.lines}
    assert by_name["outliers"] == [(s, 0.01) for s in LOOKS if s >= ONSET]
    assert by_name["registers"] == [(s, 0.5) for s in LOOKS]


def test_a_run_without_them_shows_the_pooled_ratio_and_its_headline(tmp_path):
    run = read_run(synthetic_run.write_run(tmp_path / "old", total=1000, watch_every=100))
    error, ratio = birth.panels(run)
    assert (error.label, error.kind) == ("top1", "linear")
    first = run.watched.moments[0].layers[3]
    assert ratio.lines[3].points[0] == (0, first.max / first.median)
    assert "all images together" in ratio.label
    assert birth.panels(read_run(synthetic_run.write_run(tmp_path / "bare", total=1000, watch_every=0))) == []


def test_the_onset_is_marked_in_every_panel_of_page_and_picture(folder):
    run = read_run(folder)
    for panel in birth.panels(run):
        assert birth.chart(panel, run.watched, 1040).count("artifacts from step 400") == 1
    assert "What happens together" in render([run])
    rows = curves_figure([run]).axes[3:]  # below loss, evaluation and outliers
    marked = [axes for axes in rows if any(len(set(line.get_xdata())) == 1 for line in axes.lines)]
    assert len(marked) == 4  # norms, ratio, attention, values; the error shares the ratio's axis


def test_a_phone_shows_the_lines_within_the_plot(folder):
    run = read_run(folder)
    for panel in birth.panels(run):
        drawn = str(birth.chart(panel, run.watched, 358))
        places = [float(x) for line in re.findall(r'points="([^"]+)"', drawn) for x in re.findall(r"([\d.]+),", line)]
        assert 52 <= min(places) <= max(places) <= 358 - 14


def with_maps(folder, onset):
    watch = read_run(folder).watched
    calm, artifact = [1.0, 2.0, 3.0, 2.0] * 4, [1.0, 2.0, 3.0, 40.0] + [2.0] * 12
    moments = [
        each.model_copy(update={"maps": [[calm], [artifact if onset is not None and each.step >= onset else calm]]})
        for each in watch.moments
    ]
    return watch.model_copy(update={"moments": moments, "onset": onset})


def test_maps_are_those_before_at_and_after_the_onset_in_the_block_that_shows_it(folder):
    watch = with_maps(folder, ONSET)
    assert [moment.step for _, moment in maps.shown(watch)] == [ONSET - 100, ONSET, 1000]
    assert maps.peak_block(watch) == 1
    drawn = str(maps.chart(watch))
    assert drawn.count("<image") == 3
    assert "before, step 300" in drawn
    assert "largest: 20" in drawn  # 40 over a median of 2
    strongest = maps._pixels(maps.over_median([watch.moments[-1].maps[1][0]])[0], 20.0)
    assert strongest[..., 3].ravel().argmax() == 3
    assert strongest[0, 3, 3] == 255
    assert strongest[0, 0, 3] == 0  # below the median


def test_without_an_onset_first_largest_and_last_are_shown_and_without_maps_nothing(folder):
    watch = with_maps(folder, None)
    steps = [moment.step for _, moment in maps.shown(watch)]
    assert (steps[0], len(steps), steps[-1]) == (0, 3, 1000)
    assert maps.chart(read_run(folder).watched) is None
    with pytest.raises(NotMeasuredError, match="no run kept norm maps"):
        maps_figure([read_run(folder)])


def dissolved(folder):
    """A run with artifacts at one look that is neither the middle one nor the last."""
    watch = with_maps(folder, 700)
    moments = [
        each.model_copy(update={"maps": watch.moments[0].maps}) if each.step != 700 else each for each in watch.moments
    ]
    return read_run(folder).model_copy(update={"watched": watch.model_copy(update={"moments": moments, "onset": None})})


def test_artifacts_that_dissolved_again_are_seen(folder):
    assert [(words, moment.step) for words, moment in maps.shown(dissolved(folder).watched)] == [
        ("first, step 0", 0), ("largest, step 700", 700), ("at the end, step 1,000", 1000),
    ]  # fmt: skip


def test_maps_of_several_runs_share_their_colours_and_each_pixel_is_a_norm_over_the_median(folder):
    calm, stays = dissolved(folder), read_run(folder).model_copy(update={"watched": with_maps(folder, ONSET)})
    figure = maps_figure([calm, stays])
    shown = [image for axes in figure.axes for image in axes.images if image.get_array().shape == (4, 4)]
    assert [float(image.get_array().max()) for image in shown] == [1.5, 20, 1.5, 1.5, 20, 20]
    assert {(image.norm.vmin, image.norm.vmax) for image in shown} == {(1, 20)}
    assert shown[1].get_array()[0].tolist() == [0.5, 1, 1.5, 20]
    said = [axes.get_ylabel() for axes in figure.axes]
    assert "largest\nstep 700\nlargest: 20.0" in said
    assert "onset\nstep 400\nlargest: 20.0" in said


def test_curves_draw_curves_or_maps_and_nothing_else(folder):
    runs = Curves(schema="vitreg.curves/1", runs=[dissolved(folder)])
    assert len(runs.plot("maps").axes) == 4  # three looks, and the key
    assert len(runs.plot("curves").axes) == len(runs.plot().axes)
    with pytest.raises(UserError, match=r"no figure 'map' in curves. Did you mean 'maps'"):
        runs.plot("map")
    with pytest.raises(UserError, match="nothing to plot: no run kept norm maps"):
        Curves(schema="vitreg.curves/1", runs=[read_run(folder)]).plot("maps")
