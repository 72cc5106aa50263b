import re

import numpy as np
import pytest

from vitreg.analysis import outliers
from vitreg.analysis.norms import NormHistogram
from vitreg.analysis.outliers import Detection
from vitreg.analysis.verdict import absence, resampling
from vitreg.analysis.verdict import decide as verdict
from vitreg.records import Detectable, Followed, Power


def detection(found, share=0.02, ratio=5.0, side="high"):
    return Detection(found, side, 100.0 if found else None, share, ratio if found else None, {})


def pair(high=None, low=None):
    return {"high": high or detection(False), "low": low or detection(False, side="low")}


def test_strength_words_follow_the_ratio():
    assert [verdict.strength_of(r) for r in (2.0, 2.99, 3.0, 5.99, 6.0, 40)] == [
        "mild",
        "mild",
        "moderate",
        "moderate",
        "strong",
        "strong",
    ]


def test_the_peak_is_where_outliers_stand_out_most_not_where_they_begin():
    layers = [
        pair(),
        pair(detection(True, share=0.001, ratio=9)),
        pair(detection(True, ratio=6)),
        pair(detection(True, ratio=5)),
        pair(),
    ]
    assert verdict.choose(layers) == ("high", 1, 2)


def test_the_side_with_the_larger_effect_speaks():
    layers = [pair(detection(True, ratio=2.5), detection(True, ratio=7, side="low"))]
    assert verdict.choose(layers) == ("low", 0, 0)
    assert verdict.choose([pair(), pair()]) == (None, None, None)


def test_positions_are_locked_only_if_most_outliers_return_to_the_same_places():
    locked, scattered = np.zeros(196), np.full(196, 0.02)
    locked[[3, 77]] = 1.0
    assert verdict.position_locked(locked, images=10)
    assert not verdict.position_locked(scattered, images=10)
    assert not verdict.position_locked(locked, images=2), "two images cannot tell place from content"
    mostly_scattered = scattered.copy()
    mostly_scattered[3] = 1.0
    assert not verdict.position_locked(mostly_scattered, images=10)


def test_two_of_four_images_that_share_a_corner_are_not_locked():
    two_of_four = np.zeros(196)
    two_of_four[:5] = 0.5
    assert not verdict.position_locked(two_of_four, images=4)
    assert verdict.position_locked(two_of_four, images=8)
    assert verdict.position_locked(1.5 * two_of_four, images=4)


@pytest.fixture
def groups():
    """Norms of 20 images: in `everywhere` each has outliers, in `one_image` a single odd image has them all."""
    rng = np.random.default_rng(0)
    base = rng.lognormal(3, 0.15, (20, 196))
    everywhere, one_image = base.copy(), base.copy()
    everywhere[:, :4] *= 6
    one_image[7, :80] *= 6
    return {
        name: np.stack([NormHistogram.of(image).counts[None] for image in images])
        for name, images in (("everywhere", everywhere), ("one image", one_image), ("clean", base))
    }


def test_confidence_is_high_only_if_the_images_agree(groups):
    assert resampling.bootstrap(groups["everywhere"], "high", outliers.mixture, resamples=20) == 1.0
    assert 0.3 < resampling.bootstrap(groups["one image"], "high", outliers.mixture) < resampling.MIN_CONFIDENCE
    assert resampling.bootstrap(groups["clean"], "high", outliers.mixture, resamples=20) == 0.0


def test_one_odd_image_is_not_a_verdict_on_the_model(groups):
    pooled = NormHistogram(groups["one image"].sum((0, 1)))
    found = [{"high": outliers.mixture(pooled, "high"), "low": outliers.mixture(pooled, "low")}]
    chosen = verdict.choose(found)
    confidence = resampling.bootstrap(groups["one image"], "high", outliers.mixture)
    evidence = verdict.Evidence(
        layers=1,
        images=20,
        images_with=0.05,
        grid=(14, 14),
        positions=np.zeros(196),
        isolated=0.0,
        redundancy_auc=None,
        cls_attention={},
        received={},
        at_output=True,
        output=Followed(median=1.0, ratio=1.0, auc=0.5),
    )
    record = verdict.conclude(found, chosen, confidence, evidence, images=20)
    assert record.kind == "none"
    assert record.undecided
    assert "resamples" in record.reason


def outliers_whose_patches(auc, images=60, share=0.0417):
    evidence = verdict.Evidence(
        layers=4,
        images=images,
        images_with=1.0,
        grid=(4, 6),
        positions=np.zeros(24),
        isolated=None,
        redundancy_auc=auc,
        cls_attention={},
        received={},
        at_output=True,
        output=Followed(median=1.0, ratio=5.0, auc=0.9),
    )
    layers = [pair(), pair(detection(True, share))]
    return verdict.conclude(layers, verdict.choose(layers), 1.0, evidence, images=images).reason


def test_patches_are_called_more_or_less_redundant_only_beyond_chance():
    # 60 outliers of 1440 patches in places drawn at random: the AUC has a deviation of 0.038.
    for auc in (0.505, 0.43):
        assert "more than other patches do is not decided on 60 images (AUC" in outliers_whose_patches(auc)
    for auc, words in ((0.60, "more than"), (0.40, "less than")):
        assert f"patches resemble their neighbours {words} other patches do (AUC" in outliers_whose_patches(auc)
    assert "neighbours more than other patches do" in outliers_whose_patches(0.505, images=60_000)


def test_few_outliers_leave_redundancy_undecided_and_many_may_show_that_there_is_none():
    """One outlier of 24 patches lies anywhere by chance: an AUC of 0.949 does not say "no more", nor "more"."""
    reason = outliers_whose_patches(0.949, images=1)
    assert "is not decided on 1 image (AUC 0.949; 0.5 is no difference" in reason
    assert "as many patches at random places reach 0 to 1)" in reason
    assert "resemble their neighbours about as much as other patches do" in outliers_whose_patches(0.501, images=6_000)


def test_numbers_of_one_side_of_the_median_do_not_stand_for_both():
    shares = {"detectable": (None, None, None), "below": (0.03, 0.02, None)}
    edges = {side: [Detectable(ratio=2.0, share=s) for s in each] for side, each in shares.items()}
    power = Power(layer=7, below_layer=3, probability=0.8, unevenness=2.0, **edges)
    assert "No group above the median would show dependably" in absence.none([], 1.0, 6, power).reason
    power = power.model_copy(update={"below": []})  # a record that asked one side only
    assert "would show no group dependably" in absence.none([], 1.0, 6, power).reason


def split(share, ratio, side="high", **gates):
    return Detection(False, side, 100.0, share, ratio, {"bic": True, "separation": True, **gates})


def test_none_is_not_said_where_the_images_do_not_agree_on_it():
    layers = [pair(), pair(split(0.004, 1.9))]
    firm, shaky = (verdict.conclude(layers, (None, None, None), sure, None, images=40) for sure in (0.8, 0.69))
    assert not firm.undecided
    assert firm.sentence.startswith("No artifacts were found: in these images")
    assert shaky.kind == "none"
    assert shaky.undecided
    assert "31 % of the resamples of the images show a second group" in shaky.reason
    assert shaky.advice == [absence.MORE_IMAGES]


def test_the_closest_split_is_the_one_that_fails_the_fewest_gates_and_they_are_named():
    layers = [
        pair(split(0.47, 1.29)),
        pair(split(0.004, 1.93)),
        pair(split(0.21, 9.0, bic=False)),
        pair(low=split(0.00004, 1.5, "low", separation=False, ashman_d=1.2)),
    ]
    record = verdict.conclude(layers, (None, None, None), 1.0, None, images=40)
    assert (
        "Block 1 comes closest: 0.40 % of the patches have 1.93 times the median norm of the others. "
        "This group does not count: its norm is below 2 times that of the others." in record.reason
    )
    assert outliers.shortfalls(layers[0]["high"]) == [
        "it holds more than 20 % of the patches",
        "its norm is below 2 times that of the others",
    ]
    assert len(outliers.shortfalls(layers[2]["high"])) == 2
    assert any("Ashman's D is 1.20" in failed for failed in outliers.shortfalls(layers[3]["low"]))
    assert outliers.shortfalls(detection(True)) == []


def every_text():
    """All that a verdict without artifacts can say, on both sides."""
    power = Power(
        layer=7,
        probability=0.8,
        unevenness=2.0,
        detectable=[Detectable(ratio=r, share=s) for r, s in ((2.25, None), (3.5, 0.0326), (6.0, 0.0079))],
    )
    for side in ("high", "low"):
        for group in (
            split(0.3457, 1.2, side),
            split(0.00004, 1.5, side, separation=False, ashman_d=1.234, bic=False),
            split(0.02, 3.0, side, made_by_blocks=False, entering_ratio=4.0),
        ):
            for confidence, images in ((1.0, 200), (0.69, 40), (None, 1)):
                yield absence.none([pair(group)], confidence, images, power)
        yield absence.unstable(split(0.0031, 2.2, side), 6, 0.67, 40)
        yield absence.few(split(0.0031, 2.2, side), 6, 2 / 3, 3)


def test_every_text_writes_shares_in_one_way_and_in_sentences_that_can_be_read():
    for record in every_text():
        for text in (record.sentence, record.reason, *record.advice):
            assert not re.search(r"\d%|nan|None", text.replace("None of", "")), text
            for sentence in re.split(r"(?<=[.!?]) ", text):
                assert re.match(r"[A-Z0-9'].*\.$", sentence), sentence
                assert len(sentence.split()) <= 55, sentence
