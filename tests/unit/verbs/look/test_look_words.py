"""The sentence of a look, by what the detector found: one patch or several, before the group, at the end, or no group."""

from types import SimpleNamespace

import numpy as np
import pytest

from vitreg.records import LayerRecord, VerdictRecord
from vitreg.records.scan import Followed
from vitreg.verbs.look.one import single_from
from vitreg.verbs.look.words import following, sentence_of


@pytest.mark.parametrize(
    ("followed", "words"),
    [
        (None, "after the last block these patches are gone"),
        (Followed(median=9.0, ratio=0.93, auc=0.4), "the last block no longer shows it"),
        (
            Followed(median=18.0, ratio=1.8, auc=1.0),
            "have 1.8 times the norm of the others, and form no group of their own",
        ),
    ],
)
def test_what_the_group_is_after_the_last_block(followed, words):
    """Patches may stand out there and be no group of their own: a scan tells the two apart, and so does a look."""
    last = LayerRecord.model_construct(outlier_fraction=0.0, side="high", followed=followed)
    peak = LayerRecord.model_construct(outlier_fraction=0.01, side="high")
    verdict = VerdictRecord.model_construct(first_layer=0, peak_layer=0, ratio=2.6, outlier_fraction=0.01)
    assert words in sentence_of(verdict, [peak, last], 2, 196, "in the middle")


def patches_by_block(*blocks):
    """A look at a photo of 3 x 3 patches, of which the group takes the first two."""
    norms = [np.array([*first_two, *[1.0] * 7]).reshape(3, 3) for first_two in blocks]
    return SimpleNamespace(group=lambda block: (norms[block], None))


@pytest.mark.parametrize(
    ("blocks", "side", "single"),
    [
        ([(1, 1), (3, 1), (4, 1), (4, 4)], "high", 1),
        ([(3, 1), (1, 1), (4, 1), (4, 4)], "high", 2),  # what stands out and falls back is no beginning
        ([(1, 1), (1, 1), (1.9, 1), (4, 4)], "high", None),
        ([(1, 1), (0.5, 1), (0.2, np.nan), (0.2, 0.2)], "low", 1),
    ],
)
def test_single_patches_that_stand_out_before_a_group_is_found_are_told(blocks, side, single):
    group = np.array([True, True, *[False] * 7]).reshape(3, 3)
    assert single_from(patches_by_block(*blocks), group, 3, side) == single
    layers = [LayerRecord.model_construct(outlier_fraction=0.2, side=side) for _ in blocks]
    verdict = VerdictRecord.model_construct(first_layer=3, peak_layer=3, ratio=4.0, outlier_fraction=0.2)
    said = sentence_of(verdict, layers, 2, 9, "in the middle", single)
    bound = {"high": "2 times the median norm or more", "low": "0.5 times the median norm or less"}[side]
    assert "the group is first found after block 3" in said
    assert (f"single patches of it have {bound} from block {single} on" in said) == (single is not None)


def layer_of(index, largest, smallest=1.0):
    """A block by its largest and its smallest norm, of which the median is 2."""
    return LayerRecord.model_construct(index=index, max_ratio=largest, min=2 * smallest, median=2.0)


def test_a_single_patch_that_is_no_group_is_told():
    layers = [layer_of(block, ratio) for block, ratio in enumerate((1.6, 21.3, 22.7))]
    verdict = VerdictRecord.model_construct(first_layer=None, peak_layer=None, ratio=None)
    said = sentence_of(verdict, layers, 0, 64, "")
    assert said == (
        "none of the 3 blocks shows a second group of patch norms; the largest norm is 23 times the median, after block 2."
    )
    assert sentence_of(verdict, layers[:1], 0, 64, "") == "no block shows a second group of patch norms."


def test_a_norm_far_below_the_others_is_told_as_one_far_above():
    verdict = VerdictRecord.model_construct(first_layer=None, peak_layer=None, ratio=None)
    low = [layer_of(0, 1.2, 0.51), layer_of(1, 1.9, 0.11), layer_of(2, 1.2, 0.2)]
    none = "none of the 3 blocks shows a second group of patch norms"
    assert sentence_of(verdict, low, 0, 64, "") == f"{none}; the smallest norm is 0.11 times the median, after block 1."
    both = [layer_of(0, 4.0, 0.5), *low[1:]]
    assert sentence_of(verdict, both, 0, 64, "") == (
        f"{none}; the largest norm is 4 times the median, after block 0; "
        "the smallest norm is 0.11 times the median, after block 1."
    )
    assert sentence_of(verdict, [layer_of(0, 1.9, 0.51)] * 3, 0, 64, "") == f"{none}."


@pytest.mark.parametrize("side", ["high", "low"])
def test_a_group_of_one_patch_is_told_of_one(side):
    last = LayerRecord.model_construct(
        outlier_fraction=0.0, side=side, followed=Followed(median=18.0, ratio=1.8 if side == "high" else 0.5, auc=1.0)
    )
    peak = LayerRecord.model_construct(outlier_fraction=0.005, side=side)
    verdict = VerdictRecord.model_construct(first_layer=0, peak_layer=0, ratio=2.6, outlier_fraction=1 / 196)
    said = sentence_of(verdict, [peak, last], 1, 196, "in the centre", single=0)
    bound = {"high": "2 times the median norm or more", "low": "0.5 times the median norm or less"}[side]
    assert "(1 of 196) forms a second group" in said
    assert f"; it has {bound} from block 0 on;" in said
    assert "patches" not in said
    if side == "high":
        assert said.endswith("the same patch has 1.8 times the norm of the others, and forms no group of its own.")
    gone = sentence_of(verdict, [peak, last.model_copy(update={"followed": None})], 1, 196, "in the centre")
    assert gone.endswith("; after the last block this patch is gone.")


def test_a_sentence_begins_with_a_capital_behind_another():
    assert following(["", "It is random.", "So."], "none of them. x") == "It is random. So. None of them. x"
    assert following(["", ""], "none of them.") == "none of them."
