"""Rows of a board: numbers are the scan's, ranks are of one protocol alone, and "none" ranks only where the images tell."""

import pytest
from tests.unit.report.synthetic_scan import scan_result

from vitreg.records import Detectable, Histogram, Power
from vitreg.verbs.zoo.board import could_have_shown, differing, ranked, row_of

HASH = "ab" * 32


def found(spec, counts, *, sha=HASH, **changes):
    """A scan of 20 images whose patches number 1000; counts[n] images carry n outliers."""
    mean = sum(n * images for n, images in enumerate(counts)) / sum(counts)
    result = scan_result(spec=spec, seen=20, share=mean / 1000, grid=(10, 100), **changes)
    histogram = Histogram(edges=[float(each) for each in range(len(counts) + 1)], counts=counts, unit="images")
    images = result.images.model_copy(update={"sha256": sha})
    return result.model_copy(update={"per_image": histogram, "images": images})


def none(spec, *, excludes=True, undecided=False):
    shares = (0.004, 0.002, 0.001) if excludes else (None, 0.02, 0.01)
    edges = [Detectable(ratio=ratio, share=share) for ratio, share in zip((2.25, 3.5, 6.0), shares, strict=True)]
    power = Power(layer=1, probability=0.8, unevenness=0.1, detectable=edges)
    result = found(spec, [20.0], kind="none")
    verdict = result.verdict.model_copy(update={"power": power, "undecided": undecided})
    return result.model_copy(update={"verdict": verdict})


def at(number):
    return [0.0] * number + [20.0]


def test_the_numbers_are_those_of_the_scan():
    result = found("timm:a", [5.0, 0.0, 5.0, 0.0, 10.0], registers=4)
    row = row_of(result)
    assert row.share == result.verdict.outlier_fraction == pytest.approx(0.0025)
    assert row.low < row.share < row.high
    assert row.ratio_peak == result.layers[10].ratio
    assert row.ratio_output == result.layers[11].followed.ratio
    assert (row.first_block, row.peak_block, row.blocks, row.registers) == (6, 10, 12, 4)
    assert row.attention == max(layer.cls_attention or 0 for layer in result.layers)
    assert row.attention_of == "CLS"
    assert row.could == ""


def test_ranks_are_the_places_that_the_intervals_allow():
    wide = [10.0] + [0.0] * 43 + [10.0]  # 0 or 44 in an image
    rows, protocol = ranked(
        [row_of(found(name, counts)) for name, counts in (("few", at(3)), ("many", at(30)), ("wide", wide))]
    )
    assert [(row.model, row.rank) for row in rows] == [("many", (1, 2)), ("wide", (1, 2)), ("few", (3, 3))]
    assert protocol.images == HASH


def test_none_has_a_rank_only_where_the_images_would_have_shown_more():
    scans = [none("blind", excludes=False), none("seen"), none("undecided", undecided=True), found("some", at(30))]
    rows = {row.model: row for row in ranked([row_of(each) for each in scans])[0]}
    assert rows["some"].rank == (1, 1)
    assert rows["seen"].rank == (2, 2)
    assert (rows["seen"].low, rows["seen"].high) == (0.0, 0.004)
    assert rows["blind"].rank is rows["undecided"].rank is None
    assert "do not exclude mild" in rows["blind"].unranked
    assert "neither established" in rows["undecided"].unranked
    assert could_have_shown(none("x").verdict).startswith(
        "These images would have shown: above the median 0.40 % at 2.25"
    )
    assert "2.0 % at 3.5 times" in rows["blind"].could


CHANGES = {
    "images": {"images": "cd" * 32},
    "no images": {"images": None},
    "resolution": {"resolution": "224x224 pixels in 14x14 patches"},
    "fit": {"fit": "crop"},
    "precision": {"precision": "bfloat16"},
    "detector": {"detector": "mad"},
    "version": {"vitreg": "0.0.9"},
}


@pytest.mark.parametrize("part", CHANGES)
def test_a_row_of_another_protocol_is_not_ranked_and_says_which_part_differs(part):
    rows = [row_of(found(name, at(3))) for name in ("a", "b", "c")]
    rows[0] = rows[0].model_copy(update={"protocol": rows[0].protocol.model_copy(update=CHANGES[part])})
    placed, protocol = ranked(rows)
    assert [row.model for row in placed] == ["b", "c", "a"]
    assert [row.rank for row in placed] == [(1, 2), (1, 2), None]
    (said,) = placed[2].differs
    assert part.split()[-1] in said
    assert differing(protocol, protocol) == []


def test_rows_that_do_not_say_which_images_they_saw_are_not_ranked_even_with_each_other():
    placed, protocol = ranked([row_of(found(name, at(3), sha=None)) for name in "ab"])
    assert protocol is None
    assert [row.rank for row in placed] == [None, None]
    assert all("which images" in row.differs[0] for row in placed)


def test_what_was_scanned_here_decides_over_more_records():
    records = [row_of(found(name, at(3), sha="cd" * 32), origin="record") for name in "abc"]
    placed, protocol = ranked([*records, row_of(found("mine", at(2)), origin="scan")])
    assert protocol.images == HASH
    assert placed[0].model == "mine"


def test_by_patches_models_of_other_patch_sizes_have_one_resolution():
    one, other = found("a", at(3)), found("b", at(3))
    model = other.model.model_copy(update={"patch": (16, 16), "image_size": (160, 1600)})
    other = other.model_copy(update={"model": model})
    for by_patches, places in ((False, [(1, 1), None]), (True, [(1, 2), (1, 2)])):
        rows = [row_of(each, by_patches=by_patches) for each in (one, other)]
        assert [row.rank for row in ranked(rows)[0]] == places
