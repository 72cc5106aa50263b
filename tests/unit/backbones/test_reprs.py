"""What a person sees who types a name in Python: a line, not a tree of modules and not a page of numbers."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitreg.backbones import Capture, load
from vitreg.errors import UserError
from vitreg.verbs.doctor import doctor, record
from vitreg.verbs.extract.verb import extract
from vitreg.verbs.maps.verb import maps
from vitreg.verbs.scan.verb import ScanOptions, scan


@pytest.fixture(scope="module")
def backbone():
    return load("planted:clean", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def images(backbone):
    return torch.rand(2, 3, *backbone.anatomy.native_size, generator=torch.Generator().manual_seed(0))


def test_a_trace_without_a_capture_keeps_the_norms(backbone, images):
    trace = backbone.trace(images)
    assert torch.equal(trace.norms(-1), backbone.trace(images, Capture(norms="all")).norms(-1))
    with pytest.raises(ValueError, match=r"hidden of block 0 was not kept; trace with Capture\(hidden=\[0\]\)"):
        trace.hidden(0)


def test_what_is_shown_is_one_short_line_that_says_what_it_is(backbone, images):
    trace = backbone.trace(images, Capture(norms="all", rows=([-1], [0])))
    shown = {
        repr(backbone): ("planted:clean", f"{backbone.depth} blocks", "float32 on cpu"),
        repr(trace): ("2 images", f"norms of all {backbone.depth} blocks", f"rows of block {backbone.depth - 1}"),
        repr(trace.final): ("2 images", "patches", f"width {backbone.anatomy.width}"),
        repr(scan(backbone, images, options=ScanOptions(limit=2))): ("planted:clean", "images=2", "verdict="),
        repr(maps(backbone, images, what="norm")): ("2 images", "planted:clean block"),
        repr(maps(backbone, images, what="norm").maps[0]): ("planted:clean block", "2 images of", "norm"),
        repr(record(backbone, doctor(backbone))): ("planted:clean", "problem=", "findings="),
    }
    for line, words in shown.items():
        assert len(line) < 250
        assert "\n" not in line
        assert all(word in line for word in words), line


def test_a_notebook_shows_results_as_small_tables(backbone, images, tmp_path):
    picture = Image.fromarray(np.zeros((40, 40, 3), np.uint8))
    store = extract(backbone, [picture], out=tmp_path / "a<b", workers=0)
    assert repr(store).startswith("FeatureStore(1 images; cls/")
    for shown, words in (
        (seen := scan(backbone, images), ("planted:clean", "verdict", seen.verdict.sentence[:20])),
        (found := doctor(backbone), ("Findings", found[0].subject)),
        (record(backbone, found), ("DoctorResult", "planted:clean")),
        (store, ("FeatureStore", "cls/", "a&lt;b")),
    ):
        html = shown._repr_html_()
        assert "<table" in html
        assert len(html) < 12000
        assert all(word in html for word in words), html
    assert found.to_pandas()["message"].tolist() == [each.message for each in list(found)]
    (row,) = store.to_pandas().to_dict("records")
    (name,) = [name for name in store if name.startswith("cls/")]
    assert (row["row"], row["name"]) == (0, store.names[0])
    assert np.array_equal(row[name], store[name][0].numpy())


def test_maps_show_their_sheets_and_number_them_for_pandas(backbone, images):
    shown = maps(backbone, images, what=("norm", "attention"))
    html = shown._repr_html_()
    assert html.count("data:image/png;base64,") == 2
    assert "planted:clean block" in html
    assert len(html) < 500_000
    assert {*shown.figures()} == {"norm.png", "attention.png"}
    assert "Norm of the patch tokens" in {text.get_text() for text in shown.plot("norm").texts}
    assert "Attention of CLS" in {text.get_text() for text in shown.plot().texts}
    with pytest.raises(UserError, match=r"there are no maps of pca here; there are attention, norm\."):
        shown.plot("pca")
    frame, values = shown.to_pandas(), shown.maps[0].norm[1]
    assert frame["map"].tolist() == ["norm", "norm", "attention of CLS", "attention of CLS"]
    assert frame["max"][1] == values.max() == values[frame["row"][1], frame["col"][1]]
    assert (frame["min"][1], frame["mean"][1]) == (values.min(), pytest.approx(values.mean(), rel=1e-6))
