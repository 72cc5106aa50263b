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
from vitreg.records import ImagesRecord, Skipped, VerdictRecord
from vitreg.records.base import DrawnResult, Record, Result
from vitreg.report.scan.page import render
from vitreg.report.sheets.boxes import FOUND, Picture
from vitreg.report.shown.figures import figure_of_picture
from vitreg.verbs.discover.setting import Setting
from vitreg.verbs.maps.result import MapsResult

RESULTS = every_result()
DISCOVERED = Setting(method="lost", feature="k", layer=11)
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
        RESULTS["EvalResult"].model_copy(update={"metrics": {}, "controls": {}}).plot()
    with pytest.raises(UserError, match="there is nothing to plot: the scan holds no norms"):
        RESULTS["ScanResult"].model_copy(update={"layers": []}).plot()


def found_without_true_boxes():
    update = {"corloc": None, "controls": {}, "without_box": {"no cut": 3}}
    return RESULTS["DiscoverResult"].model_copy(update=update)


def test_boxes_without_true_boxes_are_counted_where_only_their_record_is_left():
    result = found_without_true_boxes()
    assert marks(result.plot()) == [("with a box", 17.0), ("no cut", 3.0)]
    assert result.to_pandas()["images"].tolist() == [17, 3]
    words = "".join(Whole(result._repr_html_()).words)
    assert "No true boxes were given" in words
    assert "with a box" in words


def test_images_are_counted_in_whole_numbers():
    few = found_without_true_boxes().model_copy(update={"images": ImagesRecord(seen=2), "without_box": {"no cut": 1}})
    (axes,) = few.plot().axes
    assert [tick for tick in axes.get_xticks() if tick != round(tick)] == []


BROKEN = [Skipped(name="broken.jpg", reason="it is cut off")]
LEFT_OUT = {
    "ScanResult": {"images": ImagesRecord(seen=2, skipped=BROKEN)},
    "DiscoverResult": {"images": ImagesRecord(seen=2, skipped=BROKEN)},
    "EvalResult": {"data": RESULTS["EvalResult"].data.model_copy(update={"skipped": BROKEN})},
    "RepairsResult": {"skipped": BROKEN},
}
"""What each result that reads many images holds of one that could not be read."""


@pytest.mark.parametrize("name", LEFT_OUT)
def test_the_card_says_how_many_images_were_left_out(name):
    assert "left out" not in "".join(Whole(RESULTS[name]._repr_html_()).words)
    words = Whole(RESULTS[name].model_copy(update=LEFT_OUT[name])._repr_html_()).words
    assert [each for each in words if each.endswith("1 left out")]


def test_the_card_of_maps_says_how_many_images_were_left_out():
    assert "2, 1 left out" in card_of(MapsResult(images=("a", "b"), maps=(), skipped=tuple(BROKEN)))
    assert "left out" not in card_of(MapsResult(images=("a", "b"), maps=()))


def card_of(result):
    return "".join(Whole(result._repr_html_()).words)


def test_boxes_without_true_boxes_show_themselves():
    setting = DISCOVERED.record()
    columns = {name: setting[name] for name in ("method", "feature", "block")}
    row = {"image": "a.png", "x0": 1.0, "y0": 2.0, "x1": 30.0, "y1": 40.0, "score": 0.5, "nothing": ""}
    picture = Picture(name="a.png", pixels=np.full((50, 40, 3), 90, np.uint8), size=(50, 40), found=[(1, 2, 30, 40)])
    result = found_without_true_boxes().model_copy(update={"setting": setting}).with_boxes([row], [picture])
    assert result.to_pandas().to_dict("records") == [row | columns]
    drawn = result.plot()
    assert "method lost, feature k, block 11" in " ".join(text.get_text() for text in drawn.texts)
    orange = np.all(np.abs(drawn.axes[0].get_images()[0].get_array()[..., :3] - np.array(FOUND)) < 3, axis=-1)
    assert orange.sum() > 100
    # The file holds none of this, and gives the same result.
    assert type(result).model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize("name", ["LookResult", "ExploreResult"])
def test_a_look_names_its_photos_what_was_left_out_and_what_one_photo_cannot_show(name):
    skipped = [Skipped(name="broken.jpg", reason="it is cut off")]
    result = RESULTS[name].model_copy(update={"skipped": skipped, "chosen": "No model was named; a lies here."})
    words = "".join(Whole(result._repr_html_()).words)
    for said in ("a.jpg", "broken.jpg could not be read: it is cut off.", result.chosen, result.caution):
        assert said in words
    assert "a.jpg" in repr(result)
    assert "broken.jpg" in repr(result)
    assert len(repr(result)) < 300


def test_the_card_of_a_scan_says_no_zero_of_a_block_in_which_a_group_was_seen():
    """Too few images: a group was seen in a block, and is not established. No number contradicts the reason."""
    reason = "Block 3 shows a second group: 0.51 % of the patches have 11.4 times the median norm of the others."
    verdict = VerdictRecord(
        kind="none", strength="none", confidence=None, first_layer=None, peak_layer=None, outlier_fraction=0.0, threshold=None,
        ratio=None, sentence="Artifacts are not established.", reason=reason, undecided=True,
    )  # fmt: skip
    layers = [
        each.model_copy(update={"outlier_fraction": 0.0, "max_ratio": 12.5}) for each in RESULTS["ScanResult"].layers
    ]
    result = RESULTS["ScanResult"].model_copy(update={"verdict": verdict, "layers": layers})
    words = "".join(Whole(result._repr_html_()).words)
    assert reason in words
    assert "12.5" in words
    assert not re.search(r"(?<![\d.])0.%", words)
    table = render(result, []).partition("<tbody")[2].partition("</tbody>")[0]
    assert table.count('data-label="outliers" class="missing">') == len(layers)


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
