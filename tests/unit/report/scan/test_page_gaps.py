"""What was not measured, is no number or is not there is said in words."""

import re

import pytest
from tests.unit.report.scan.read_page import Page

from vitreg.records import Heatmap, ImagesRecord, LayerRecord, Skipped
from vitreg.report.scan.page import SKIPPED_SHOWN, render


@pytest.mark.parametrize("registers", [0, 1, 4])
@pytest.mark.parametrize("cls", [True, False])
def test_with_and_without_registers_and_class_token(scan_result, make_examples, cls, registers):
    text = render(
        scan_result(cls=cls, registers=registers), make_examples(2, cls=cls, registers=registers, grid=(9, 6))
    )
    assert text.count('data-map="attention"') == 2 * (cls + registers)
    assert ("line-cls" in text.split("<main")[1]) == cls
    assert ("line-register" in text.split("<main")[1]) == bool(registers)
    assert ("This model has no class token" in text) == (not cls)


def test_what_was_not_measured_is_said_in_words(scan_result):
    bare = scan_result(redundancy=False, positions=None, per_image=None)
    page = Page(render(bare, []))
    for words in (
        "Positions were not recorded.",
        "Counts per image were not recorded.",
        "Redundancy was not measured.",
        "The scan kept no example images.",
    ):
        assert words in page


def test_no_token_attention_means_no_promise_of_it(scan_result, make_examples):
    example = make_examples(1, grid=(5, 5), attended=0)[0]
    assert example.attends.shape == (25, 0)
    page = Page(render(scan_result(grid=(5, 5)), [example]))
    assert "the attention of single tokens was not kept" in page


def test_one_image_and_one_block(scan_result, make_examples):
    result = scan_result(seen=1, blocks=1, grid=(1, 1))
    verdict = result.verdict.model_copy(update={"confidence": None})
    page = Page(render(result.model_copy(update={"verdict": verdict}), make_examples(1, grid=(1, 1))))
    assert "1 image, 1 block" in page
    assert "too few images to resample" in page


def test_no_image_at_all(scan_result):
    result = scan_result("none").model_copy(update={"layers": [], "images": ImagesRecord(seen=0), "per_image": None})
    assert "No block was measured." in Page(render(result, []))


def test_values_that_are_not_numbers_are_dashes(scan_result):
    result = scan_result()
    broken = LayerRecord(
        **result.layers[2].model_dump() | {"max": float("inf"), "p99": float("nan"), "cls_norm": float("nan")}
    )
    text = render(result.model_copy(update={"layers": [*result.layers[:2], broken, *result.layers[3:]]}), [])
    assert not re.search(r"\bnan\b|\binf\b", Page(text).text)
    assert "nan" not in "".join(re.findall(r'points="[^"]*"', text))


def test_zero_norms_are_drawn_at_the_edge(scan_result):
    result = scan_result()
    layers = [la.model_copy(update={"min": 0.0}) for la in result.layers]
    heat = Heatmap(rows=2, cols=3, values=[[0.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    text = render(result.model_copy(update={"layers": layers, "positions": heat}), [])
    assert "Highest at row 1, column 1: 50" in text


def test_many_skipped_images_are_counted_by_reason_and_listed_to_a_limit(scan_result):
    skipped = [Skipped(name=f"{i}.jpg", reason="truncated" if i % 3 else "not an image") for i in range(3000)]
    text = render(scan_result(skipped=skipped), [])
    page = Page(text)
    assert "3,000 images were not scanned." in page
    assert "2,000 truncated" in page
    assert f"and {3000 - SKIPPED_SHOWN:,} more" in page
    assert text.count("<td><bdi>") == SKIPPED_SHOWN


def test_an_interrupted_scan_says_so_at_the_top(scan_result):
    result = scan_result(images=ImagesRecord(seen=120, interrupted=True, planned=1000))
    assert "Interrupted. 120 images were scanned of 1,000 planned" in Page(render(result, []))


def test_why_there_is_no_attention_is_the_reason_that_the_model_gave(scan_result):
    why = "the softmax of block 3 is written by hand; name its projections."
    bare = [la.model_copy(update={"cls_attention": None, "received": None}) for la in scan_result().layers]
    page = Page(render(scan_result(layers=bare, attention_unread=why), []))
    assert f"Attention was not read: {why}" in page
    assert "Without outliers there is no attention" in Page(render(scan_result("none"), []))
    assert "Not measured." in Page(render(scan_result(layers=bare), []))
