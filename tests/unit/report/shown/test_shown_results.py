"""Results show themselves: a card that holds the record's numbers, its rows for pandas, a figure; foreign text stays text."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas
import pytest
from every_result import HOSTILE, every_result
from matplotlib.figure import Figure

from vitreg.errors import UserError
from vitreg.quantities import number
from vitreg.records.base import DrawnResult, Record, Result
from vitreg.report.shown.figures import figure_of_picture

RESULTS = every_result()
DRAWN = [name for name, each in RESULTS.items() if isinstance(each, DrawnResult)]
EMPTY = {"img"}


class Whole(HTMLParser):
    """Words and elements of a page in which every element that begins ends, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.open += [] if tag in EMPTY else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def kinds(base):
    found = [base, *(each for kind in base.__subclasses__() for each in kinds(kind))]
    return [each for each in found if each.__module__.startswith("vitreg.")]


def test_every_kind_of_result_is_tried():
    assert {each.__name__ for each in kinds(Result)} - {"Result", "DrawnResult"} == {*RESULTS}
    assert {each.__name__ for each in kinds(DrawnResult)} - {"DrawnResult"} == {*DRAWN}


NUMBERS = {
    "ScanResult": (), "LookResult": ("0.0153",), "ExploreResult": ("0.0153",), "DoctorResult": ("row 7 stands out.",),
    "EvalResult": ("71.5 %", "64.9 to 77.3", "10.0 %"),
    "Evaluations": ("71.5 %", "42.2 %", "64.9 to 77.3", "no model 'c'.", "a is best with"),
    "DiscoverResult": ("61.5 %", "40.2 to 79.0", "30.5 %", "19"), "RepairsResult": ("2.25 %", "0.125 %", "0.0625", "no border."),
    "Curves": ("3.12", "66.5 (knn)"), "Reproduction": ("5.75 here", "1 is held", "not held"), "LabReport": ("31.5", "0.0075", "artifacts"),
    "Board": ("2.2 %", "1.8 % to 3.0 %", "6.25"), "Table": ("71.2",),
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_the_card_is_whole_small_and_holds_the_numbers_of_the_record(name):
    html = RESULTS[name]._repr_html_()
    page = Whole(html)
    words = "".join(page.words).replace("\N{NO-BREAK SPACE}", " ")
    assert [each for each in NUMBERS[name] if each not in words] == []
    assert "img" not in page.seen
    assert "table" in page.seen
    assert len(html) < 12000
    assert "style" not in page.seen  # nothing that changes the rest of the notebook
    assert not re.search("<script|http|background|color:", html)  # light and dark alike


def test_the_card_of_a_scan_has_a_row_for_each_block():
    scan = RESULTS["ScanResult"]
    page = Whole(scan._repr_html_())
    assert page.seen.count("tbody") == 1
    said = [layer.max for layer in scan.layers if number(layer.max) in page.words]
    assert len(said) == len(scan.layers)
    assert scan.verdict.sentence in "".join(page.words)


def test_a_long_table_is_cut_and_says_so():
    runs = [RESULTS["LabReport"].runs[0].model_copy(update={"seed": seed}) for seed in range(30)]
    words = "".join(Whole(RESULTS["LabReport"].model_copy(update={"runs": runs})._repr_html_()).words)
    assert "6 more runs: to_pandas() has all." in words


@pytest.mark.parametrize("name", RESULTS)
def test_foreign_text_is_no_markup(name):
    words = "".join(Whole(RESULTS[name]._repr_html_()).words)
    assert HOSTILE in words


EXPECTED = {
    "ScanResult": (12, {}), "LookResult": (1, {"share": 0.0153, "patches": 2, "peak": 9}), "ExploreResult": (1, {"found": True}),
    "DoctorResult": (2, {"level": "ok"}), "EvalResult": (2, {"value": 71.5, "low": 64.9, "headline": True}),
    "Evaluations": (3, {"value": 71.5, "high": 77.3, "control": 10.0}), "DiscoverResult": (2, {"corloc": 61.5, "high": 79.0}),
    "RepairsResult": (4, {"value": 2.25, "low": 1.75, "column": "outliers_peak"}), "Curves": (3, {"step": 50, "value": 4.5}),
    "Reproduction": (2, {"value": 5.75, "outcome": "held"}),
    "LabReport": (1, {"peak_ratio": 31.5, "background_attention": 0.625, "cell": HOSTILE, "error": 0.0075}),
    "Board": (2, {"share": 0.0225, "low": 0.0175}),
    "Table": (2, {"k": 10, "top1": 71.25}),
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_the_rows_are_those_of_the_record(name):
    frame = RESULTS[name].to_pandas()
    rows, first = EXPECTED[name]
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == rows
    assert {key: frame.iloc[0][key] for key in first} == first


def test_the_rows_of_a_scan_are_its_blocks():
    scan, frame = RESULTS["ScanResult"], RESULTS["ScanResult"].to_pandas()
    for column, field in (
        ("block", "index"),
        ("median", "median"),
        ("p99", "p99"),
        ("outlier_fraction", "outlier_fraction"),
    ):
        assert frame[column].tolist() == [getattr(layer, field) for layer in scan.layers]
    assert frame["ratio"].notna().tolist() == [layer.ratio is not None for layer in scan.layers]


def test_a_failed_repair_is_a_row_that_says_why():
    frame = RESULTS["RepairsResult"].to_pandas()
    (failed,) = frame[frame["failed"] != ""].to_dict("records")
    assert (failed["method"], failed["failed"]) == ("border", "no border.")
    assert np.isnan(failed["value"])


def test_without_pandas_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        UserError, match=r"^a table of pandas needs the package pandas; install 'vitreg\[notebook\]'\.$"
    ):
        RESULTS["Board"].to_pandas()


@pytest.mark.parametrize("name", DRAWN)
def test_the_figure_is_drawn(name):
    figure = RESULTS[name].plot()
    assert isinstance(figure, Figure)
    if name == "Evaluations":  # one is enough: drawing takes longest
        assert figure._repr_png_().startswith(b"\x89PNG")


def marks(figure, axes=0):
    """The dots of a panel from above: name, value."""
    panel = figure.axes[axes]
    names = [text.get_text() for text in panel.get_yticklabels()]
    dots = [line for line in panel.get_lines() if line.get_marker() in ("o", "D")]
    return [(names[int(line.get_ydata()[0])], float(line.get_xdata()[0])) for line in dots]


def test_dots_are_the_numbers_of_the_record():
    value, control = marks(RESULTS["EvalResult"].plot())
    assert (value, control[1]) == (("top1", 71.5), 10.0)
    assert [value for _, value in marks(RESULTS["RepairsResult"].plot())] == [2.25, 0.125]
    assert marks(RESULTS["Board"].plot()) == [("a", 2.25)]
    assert [value for _, value in marks(RESULTS["DiscoverResult"].plot())] == [61.5, 30.5]
    assert [value for _, value in marks(RESULTS["Evaluations"].plot())] == [71.5, 10.0, 42.25, 10.0]


def test_what_was_not_measured_is_one_sentence():
    with pytest.raises(UserError, match=r"there is nothing to plot: the record lacks the numbers\."):
        RESULTS["DiscoverResult"].model_copy(update={"corloc": None}).plot()
    with pytest.raises(UserError, match="there is nothing to plot: the scan holds no norms"):
        RESULTS["ScanResult"].model_copy(update={"layers": []}).plot()


def test_other_records_show_their_fields():
    scan = RESULTS["ScanResult"]
    assert "library" in "".join(Whole(scan.model._repr_html_()).words)
    assert not isinstance(scan.model, Result)
    assert isinstance(scan.model, Record)


def test_the_picture_of_a_look_is_the_figure_pixel_by_pixel():
    import io

    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    shown = np.asarray(Image.open(io.BytesIO(figure_of_picture(file.getvalue())._repr_png_())).convert("RGB"))
    assert np.array_equal(shown, pixels)


def test_a_figure_opens_no_window_and_leaves_pyplot_alone():
    code = (
        "import sys; from tests.unit.report.shown.every_result import every_result as made; "
        "made()['Board'].plot()._repr_png_(); print('matplotlib.pyplot' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "False\n"
