"""The maps of the images: what the data block of a page holds, and how they are explained."""

import base64
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.report.scan.read_page import Page, data_of

from vitreg.report import write_comparison
from vitreg.report.scan.page import render
from vitreg.report.scan.payload import ATTENDED, Scale


def test_the_maps_come_back_from_the_data_block(scan_result, make_examples):
    example = make_examples(1, grid=(7, 5), registers=2)[0]
    data = data_of(render(scan_result(grid=(7, 5), registers=2), [example]))
    one, norms = data["examples"][0], data["norms"]
    assert (one["rows"], one["cols"]) == (7, 5)
    codes = np.frombuffer(base64.b64decode(one["norms"]), "<u2").reshape(7, 5)
    decoded = norms["low"] * (norms["high"] / norms["low"]) ** (codes / 65535)
    np.testing.assert_allclose(decoded, example.norms, rtol=1e-4)
    outliers = np.frombuffer(base64.b64decode(one["outliers"]), np.uint8).reshape(7, 5)
    np.testing.assert_array_equal(outliers, example.outliers)
    assert [a["name"] for a in one["attention"]] == ["CLS", "register 1", "register 2"]
    for stored, values in zip(one["attention"], [example.cls_attention, *example.register_attention], strict=True):
        shares = np.frombuffer(base64.b64decode(stored["data"]), "<u2").reshape(7, 5) / 65535 * stored["max"]
        np.testing.assert_allclose(shares, values, atol=stored["max"] / 60000)
    targets = np.frombuffer(base64.b64decode(one["attends"]), "<u2").reshape(35, -1)
    np.testing.assert_array_equal(targets, example.attends)
    shares = np.frombuffer(base64.b64decode(one["shares"]), "<u2").reshape(35, -1) / 65535
    np.testing.assert_allclose(shares, example.attends_share, atol=1e-5)
    assert struct.unpack("3B", base64.b64decode(data["palettes"]["viridis"])[:3]) == (68, 1, 84)


def test_attended_patches_are_sorted_and_the_strongest_are_kept(scan_result, make_examples):
    example = make_examples(1, grid=(6, 6), attended=20)[0]
    shuffled = np.random.default_rng(0).permutation(20)
    mixed = type(example)(
        **{f: getattr(example, f) for f in example.__dataclass_fields__}
        | {"attends": example.attends[:, shuffled], "attends_share": example.attends_share[:, shuffled]}
    )
    one = data_of(render(scan_result(grid=(6, 6)), [mixed]))["examples"][0]
    assert one["attended"] == ATTENDED
    targets = np.frombuffer(base64.b64decode(one["attends"]), "<u2").reshape(36, -1)
    np.testing.assert_array_equal(targets, example.attends[:, :ATTENDED])


def test_the_colour_scale_is_shared_and_does_not_stretch_even_norms(make_examples):
    examples = make_examples(3, grid=(8, 8))
    scale = Scale.of(examples)
    assert scale.low == pytest.approx(min(e.norms.min() for e in examples))
    assert scale.high == pytest.approx(max(e.norms.max() for e in examples))
    even = Scale.of(make_examples(2, grid=(8, 8), outliers=False))
    assert even.high / even.low > 3
    assert Scale.of([]).quantise(np.array([0.0, np.nan, 1.0])).tolist() == [0, 0, 0]


def test_attention_maps_name_their_block(scan_result, make_examples):
    example = replace(make_examples(1)[0], attention_layer=9)
    assert "CLS attention, block 9" in Page(render(scan_result(), [example]))


def test_tokens_near_the_threshold_are_marked_and_explained(scan_result, make_examples):
    example = make_examples(1, grid=(3, 2))[0]
    near = np.array([[True, False], [False, False], [False, True]])
    text = render(scan_result(grid=(3, 2)), [replace(example, near=near)])
    stored = data_of(text)["examples"][0]["near"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(stored), np.uint8).reshape(3, 2), near)
    assert "within a factor of 1.25 of the threshold" in Page(text)
    assert "factor of 1.25" not in Page(render(scan_result(grid=(3, 2)), [example]))


def test_outlines_are_explained_above_the_maps_that_have_them(scan_result, make_examples, tmp_path):
    made = make_examples(1, grid=(4, 4))[0]
    outliers, near = np.eye(4, dtype=bool), np.eye(4, dtype=bool)[::-1]
    for marks, said in (
        ({"outliers": outliers, "near": near}, ["box-outlier", "box-near"]),
        ({"outliers": outliers & False, "near": near}, ["box-near"]),
        ({"outliers": outliers, "near": None}, ["box-outlier"]),
    ):
        example, result = replace(made, **marks), scan_result(grid=(4, 4))
        scans = [("a", result, "a"), ("b", result, "b")]
        page = write_comparison(scans, tmp_path / "i.html", title="t", pictures=[("one", [example] * 2)])
        for text in (render(result, [example]), page.read_text()):
            legend = text[: text.index('class="example"')].rpartition('<ul class="legend">')[2]
            assert re.findall(r'class="(box-(?:outlier|near))"', legend) == said


def test_patches_without_a_token_are_listed_as_gone_in_each_map(scan_result, make_examples):
    whole = make_examples(1, grid=(3, 4), registers=1)[0]
    norms, pca, cls = whole.norms.copy(), whole.pca.copy(), whole.cls_attention.copy()
    norms[0, 1], pca[1, 2], cls[2, 3] = np.nan, np.nan, np.nan
    example = replace(whole, norms=norms, pca=pca, cls_attention=cls)
    shown = data_of(render(scan_result(grid=(3, 4), registers=1), [whole, example]))["examples"]
    assert shown[0]["gone"] == {}
    assert not any("gone" in each for each in shown[0]["attention"])
    found = {**shown[1]["gone"], "cls": shown[1]["attention"][0]["gone"]}
    cells = {
        name: np.frombuffer(base64.b64decode(each), np.uint8).nonzero()[0].tolist() for name, each in found.items()
    }
    assert cells == {"norms": [1], "pca": [6], "cls": [11]}
    assert "gone" not in shown[1]["attention"][1]
