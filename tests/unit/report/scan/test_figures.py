"""Figures come from the record alone, as values, without pyplot."""

import numpy as np
import pytest
from PIL import Image

from vitreg.errors import UserError
from vitreg.report import write_figures
from vitreg.report.paper import NotMeasuredError
from vitreg.report.scan.charts import attention, head_sinks, norms, pairs, positions, redundancy, values

SMALLER = [pairs.name_of(chart) for chart in pairs.CHARTS if chart.figure]
NAMES = ["norms_per_layer", "histogram_peak", *SMALLER, "examples"]
KNOWN = {
    "norms_per_layer",
    "histogram_peak",
    "positions",
    "redundancy",
    "attention",
    "head_sinks",
    "values",
    "examples",
}
"""What the tests of sparse records look at. A chart that comes later may draw of less, or more, than these do."""


def test_every_figure_is_written_and_is_a_picture(scan_result, make_examples, tmp_path):
    assert {*NAMES} >= KNOWN
    made = make_examples(2, registers=1, grid=(8, 6), names=["a$b_$c.jpg", "\udcff\n" + "x" * 90 + ".jpg"])
    paths = write_figures(scan_result(registers=1, blocks=4), made, tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [f"figures/{name}.png" for name in NAMES]
    for path in paths:
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == sorted(f"{n}.png" for n in NAMES)


def test_what_was_not_measured_has_no_figure_and_an_older_one_goes(scan_result, tmp_path):
    stale = tmp_path / "figures" / "redundancy.png"
    stale.parent.mkdir()
    stale.write_bytes(b"of an earlier scan")
    paths = write_figures(scan_result("none"), [], tmp_path)
    assert KNOWN & {p.stem for p in paths} == {"norms_per_layer", "histogram_peak"}
    assert not stale.exists()


def test_a_figure_shows_the_values_of_the_record(scan_result):
    result = scan_result(blocks=6)
    lines = {line.get_label(): line for line in norms.figure(result).axes[0].lines}
    np.testing.assert_allclose(lines["median of patches"].get_ydata(), [la.median for la in result.layers])
    np.testing.assert_allclose(lines["CLS, mean"].get_ydata(), [la.cls_norm for la in result.layers])
    image = positions.figure(result).axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), result.positions.values)


@pytest.mark.parametrize("kind", ["low-norm", "high-norm"])
def test_one_block_one_image(scan_result, make_examples, tmp_path, kind):
    result = scan_result(kind, blocks=1, seen=1, cls=False, redundancy=False, grid=(1, 2))
    paths = write_figures(result, make_examples(1, cls=False, grid=(1, 2), attended=0), tmp_path)
    assert KNOWN & {p.stem for p in paths} == {"norms_per_layer", "histogram_peak", "positions", "examples"}


def test_missing_measurements_are_named(scan_result):
    bare = scan_result("none", positions=None)
    for draw in (positions.figure, redundancy.figure, attention.figure, head_sinks.figure, values.figure):
        with pytest.raises(NotMeasuredError):
            draw(bare)


def test_an_unwritable_folder_is_a_users_error(scan_result, tmp_path):
    (tmp_path / "figures").write_text("")
    with pytest.raises(UserError):
        write_figures(scan_result(), [], tmp_path)
