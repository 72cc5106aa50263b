"""Claims of later work on numbers that are known: each can hold, fail, and be untestable, and carries its source."""

import pytest

from vitreg.experiments.critics import identical, local, relocated, repaired, zeroed
from vitreg.experiments.known import EXPERIMENTS
from vitreg.records.reproduction import PAPER, Measured

SHAPE = {"width": 192.0, "blocks": 12.0}
HELD, NOT, UNTESTED = "held", "not held", "not testable here"


def outcomes(experiment, *measured):
    """Outcomes of the last subject, by claim."""
    return {each.id: each.outcome for each in experiment.claims(list(measured)) if each.subject == measured[-1].subject}


def zeroing(zero, mean, shuffle, registers=4.0):
    numbers = {"registers": registers, "untouched": 80.0}
    for name, (value, low, high) in {"zero": zero, "mean": mean, "shuffle": shuffle}.items():
        numbers |= {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_cosine": 0.99}
    return Measured(subject="a", numbers=numbers)


LITTLE, MUCH, UNSURE = (0.2, -0.5, 1.0), (9.0, 7.0, 11.0), (1.0, -2.0, 4.0)


@pytest.mark.parametrize(
    ("measured", "zero", "replaced"),
    [
        (zeroing(MUCH, LITTLE, LITTLE), HELD, HELD),
        (zeroing(UNSURE, LITTLE, UNSURE), UNTESTED, UNTESTED),
        (zeroing(MUCH, LITTLE, MUCH), HELD, NOT),
        (zeroing(LITTLE, LITTLE, LITTLE), NOT, UNTESTED),
        (zeroing((3.67, 0.17, 7.11), LITTLE, LITTLE), UNTESTED, UNTESTED),  # by a hair: the interval holds 2 points
        (Measured(subject="a", numbers={"registers": 0.0}), UNTESTED, UNTESTED),
        (Measured(subject="a", failed="no such model."), UNTESTED, UNTESTED),
    ],
)
def test_zeroing_and_replacing_registers(measured, zero, replaced):
    assert outcomes(zeroed, measured) == {"zeroing-costs": zero, "replaced-registers": replaced}


def patches(subject, registers, share, position, pixels, outliers=1.0, width=0.005):
    numbers = SHAPE | {
        "registers": registers, "outliers": outliers, "could_see": 1.0, "sees_mild": 0.002, "share": share, "share_low": share - width,
        "share_high": share + width,
    }  # fmt: skip
    for name, value, half in (("position", position, 0.5), ("pixels", pixels, 0.05)):
        numbers |= {name: value, f"{name}_low": value - half, f"{name}_high": value + half}
    return Measured(subject=subject, numbers=numbers)


TWIN = patches("twin", 0.0, 0.05, 40.0, 18.0)


@pytest.mark.parametrize(
    ("own", "cleaner", "no_better"),
    [
        (patches("own", 4.0, 0.0, 40.0, 18.0, outliers=0.0), HELD, HELD),
        (patches("own", 4.0, 0.01, 43.0, 18.0), HELD, NOT),
        (patches("own", 4.0, 0.048, 40.0, 16.0), UNTESTED, NOT),
        (patches("own", 4.0, 0.07, 40.0, 16.0), NOT, NOT),
        (patches("own", 4.0, 0.0, 41.5, 18.0, outliers=0.0), HELD, UNTESTED),
        (patches("own", 4.0, 0.0, 30.0, 25.0, outliers=0.0), HELD, HELD),
        (patches("own", 0.0, 0.0, 40.0, 18.0), UNTESTED, UNTESTED),
    ],
)
def test_cleaner_norms_and_local_features(own, cleaner, no_better):
    assert outcomes(local, TWIN, own) == {"cleaner-norms": cleaner, "no-better-local": no_better}


def test_local_features_are_not_testable_with_too_few_images_or_without_a_twin_that_has_outliers():
    unsure = patches("own", 4.0, 0.0, 40.5, 18.0, outliers=0.0)
    unsure.numbers["position_high"] = 44.0
    assert outcomes(local, TWIN, unsure)["no-better-local"] == UNTESTED
    blind = patches("own", 4.0, 0.0, 40.0, 18.0, outliers=0.0)
    blind.numbers["sees_mild"] = 0.06
    assert outcomes(local, TWIN, blind)["cleaner-norms"] == UNTESTED
    plain = patches("twin", 0.0, 0.0, 40.0, 18.0, outliers=0.0)
    own = patches("own", 4.0, 0.0, 40.0, 18.0, outliers=0.0)
    assert set(outcomes(local, plain, own).values()) == set(outcomes(local, own).values()) == {UNTESTED}


def attending(subject, registers, on_sinks, on_registers, images=40):
    series = {
        name: [value + 0.01 * (place % 2) for place in range(images)]
        for name, value in (("on_sinks", on_sinks), ("on_registers", on_registers))
    }
    return Measured(subject=subject, numbers=SHAPE | {"registers": registers}, series=series)


@pytest.mark.parametrize(
    ("on_sinks", "on_registers", "leaves", "arrives"),
    [
        (0.02, 0.28, HELD, HELD),
        (0.02, 0.9, HELD, NOT),
        (0.02, 0.01, HELD, NOT),
        (0.30, 0.30, NOT, UNTESTED),
    ],
)
def test_attention_leaves_patches_and_goes_to_registers(on_sinks, on_registers, leaves, arrives):
    found = outcomes(relocated, attending("twin", 0.0, 0.30, 0.0), attending("own", 4.0, on_sinks, on_registers))
    assert found == {"leaves-patches": leaves, "goes-to-registers": arrives}


def test_attention_of_few_images_or_of_a_model_alone_shows_nothing():
    own, twin = attending("own", 4.0, 0.02, 0.28, images=3), attending("twin", 0.0, 0.3, 0.0, images=3)
    assert set(outcomes(relocated, twin, own).values()) == set(outcomes(relocated, own).values()) == {UNTESTED}


REPAIRED = {
    "outliers": 1.0, "none: outliers_peak": 2.0, "test-time: outliers_peak": 0.0, "test-time: outliers_peak_high": 0.1,
    "test-time: outliers_peak_change_high": -1.5, "clip-norm: ratio_peak_change_low": -8.0,
    "test-time: cls_change": 0.01, "test-time: cls_change_high": 0.02,
    "none: ratio_peak": 8.0, "clip-norm: ratio_peak": 1.0, "clip-norm: ratio_peak_change_high": -6.0, "none: attention_sinks": 20.0,
    "clip-norm: attention_sinks": 19.0, "clip-norm: attention_sinks_change_low": -2.0, "clip-norm: attention_sinks_change_high": 0.0,
    "test-time: position_probe_change_low": -0.5, "test-time: position_probe_change_high": 0.5,
    "test-time: pixel_probe_change_low": -1.0, "test-time: pixel_probe_change_high": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "claim", "wanted"),
    [
        ({}, "test-time-registers", HELD),
        (
            {"test-time: outliers_peak": 1.0, "test-time: outliers_peak_low": 0.6, "test-time: outliers_peak_high": 1.5},
            "test-time-registers", NOT,
        ),
        ({"test-time: cls_change": 0.2, "test-time: cls_change_low": 0.1, "test-time: cls_change_high": 0.3}, "test-time-registers", NOT),
        ({"test-time: outliers_peak_high": 0.5}, "test-time-registers", UNTESTED),
        ({}, "norm-not-sink", HELD),
        (
            {"clip-norm: attention_sinks_change_low": -18.0, "clip-norm: attention_sinks_change_high": -15.0},
            "norm-not-sink", NOT,
        ),
        ({"clip-norm: ratio_peak_change_high": 0.5}, "norm-not-sink", UNTESTED),
        ({"clip-norm: ratio_peak_change_low": 0.1, "clip-norm: ratio_peak_change_high": 0.5}, "norm-not-sink", NOT),
        ({"clip-norm: attention_sinks_change_low": -12.0}, "norm-not-sink", UNTESTED),
        ({}, "repaired-not-better", HELD),
        ({"test-time: position_probe_change_low": 2.5, "test-time: position_probe_change_high": 3.0}, "repaired-not-better", NOT),
        ({"test-time: position_probe_change_low": 0.5, "test-time: position_probe_change_high": 3.0}, "repaired-not-better", UNTESTED),
        ({"test-time: pixel_probe_change_high": 4.0}, "repaired-not-better", UNTESTED),
        ({"test-time: outliers_peak_change_high": 0.1}, "repaired-not-better", UNTESTED),
        ({"test-time: cls_change_high": None}, "test-time-registers", UNTESTED),
    ],
)  # fmt: skip
def test_repairs(changed, claim, wanted):
    assert outcomes(repaired, Measured(subject="a", numbers=REPAIRED | changed))[claim] == wanted


def test_repairs_of_a_model_without_outliers_hold_nothing():
    none = Measured(subject="a", numbers={"outliers": 0.0, "could_see": 1.0, "sees_mild": 0.001})
    assert set(outcomes(repaired, none).values()) == {NOT}


def test_each_claim_carries_its_source_and_the_papers_own_are_the_papers():
    later = {each.EXPERIMENT.id for each in (identical, local, relocated, repaired, zeroed)}
    for name, each in EXPERIMENTS.items():
        if not each.subjects or name in later:
            measured = [Measured(subject=one, failed="none.") for one in each.subjects or ("a",)]
            sources = {claim.by for claim in each.claims(measured)}
            assert (sources and PAPER not in sources) if name in later else sources <= {PAPER}
