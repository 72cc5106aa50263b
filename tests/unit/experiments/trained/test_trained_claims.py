"""Claims about trained models: each can hold, fail, and be beyond one seed or models without outliers."""

import pytest
from tests.unit.experiments.trained.test_seeds import model

from vitreg.experiments import future
from vitreg.experiments.figures import fig04b, fig04c, fig07, fig08
from vitreg.experiments.known import EXPERIMENTS
from vitreg.experiments.tables import table2a, table2b, table3
from vitreg.records.reproduction import Measured, TrainedAs

SEEN = {"outliers": 1.0, "undecided": 0.0, "could_see": 1.0}
NONE = {"outliers": 0.0, "undecided": 0.0, "could_see": 1.0, "sees_mild": 0.001}
BLIND = {"outliers": 0.0, "undecided": 0.0, "could_see": 0.0, "sees_mild": None}
SPREAD = (0.0, 0.1, -0.1)  # of three seeds


def trained(numbers, seed=0, **how):
    held = TrainedAs(**({"recipe": "dinov2", "registers": 0, "seed": seed} | how))
    return Measured(subject=f"{held.recipe}-{held.size}{held.registers}@{seed}", numbers=numbers, trained=held)


def outcomes(experiment, measured):
    return {(each.id, each.subject): each.outcome for each in experiment.EXPERIMENT.claims(measured)}


def pairs(name, without, with_, recipe="dinov2", registers=4, seeds=3, noise=1.0):
    """Both sides over seeds, which differ in equal seeds by a little."""
    found = [
        model(value + (noise * SPREAD[seed] if count else 0.0), seed, count, recipe=recipe, name=name)
        for seed in range(seeds) for count, value in ((0, without), (registers, with_))
    ]  # fmt: skip
    control = "control: chance" if name == "corloc" else f"{name} control: chance"
    return [
        each.model_copy(update={"numbers": {**each.numbers, control: 9.0 if name == "depth" else 1.0}})
        for each in found
    ]


@pytest.mark.parametrize(
    ("experiment", "name", "claim", "better", "worse"),
    [
        (table2a, "linear", "accuracy-kept", (84.3, 84.8), (84.3, 80.0)),
        (table2a, "segmentation", "segmentation-kept", (46.6, 47.9), (46.6, 40.0)),
        (table2a, "segmentation", "dense-better", (46.6, 47.9), (46.6, 45.0)),
        (table2a, "depth", "depth-kept", (0.378, 0.366), (0.378, 0.5)),
        (table3, "corloc", "objects-over-seeds", (35.3, 55.4), (35.3, 30.0)),
    ],
)
def test_pairs_are_judged_over_their_seeds(experiment, name, claim, better, worse):
    subject, noise = (claim, "DINOv2, 4 registers against none"), 0.01 if name == "depth" else 1.0
    assert outcomes(experiment, pairs(name, *better, noise=noise))[subject] == "held"
    assert outcomes(experiment, pairs(name, *worse, noise=noise))[subject] == "not held"
    assert outcomes(experiment, pairs(name, *better, seeds=1))[subject] == "not testable here"


def test_zero_shot():
    subject = ("zero-shot-kept", "OpenCLIP, 4 registers against none")
    assert outcomes(table2b, pairs("zeroshot", 59.9, 60.1, recipe="clip"))[subject] == "held"
    assert outcomes(table2b, pairs("zeroshot", 59.9, 50.0, recipe="clip"))[subject] == "not held"
    named = Measured(subject="openclip:x", numbers={"zeroshot": 60.0})
    assert outcomes(table2b, [named]) == {("zero-shot-kept", "openclip:x"): "not testable here"}


def test_what_has_no_data_names_the_option():
    found = table2a.EXPERIMENT.claims(pairs("linear", 84.3, 84.8))
    reasons = {each.id: each.reason for each in found if each.subject.startswith("DINOv2")}
    assert "--masks" in reasons["segmentation-kept"]
    assert "--depths" in reasons["depth-kept"]


@pytest.mark.parametrize("way", [fig07, fig08])
def test_registers_remove_outliers_only_where_there_are_some(way):
    claim = "outliers-removed" if way is fig07 else "one-is-enough"
    registers = 4 if way is fig07 else 1

    def found(without, with_, seen, seeds=3):
        measured = pairs("outlier_percent", without, with_, registers=registers, seeds=seeds, noise=0.01)
        measured = [
            each.model_copy(
                update={"numbers": each.numbers | (seen if not each.trained.registers else SEEN) | {"longest": None}}
            )
            for each in measured
        ]
        return next(
            outcome
            for (id, subject), outcome in outcomes(way, measured).items()
            if id == claim and subject.startswith("DINOv2")
        )

    assert found(2.4, 0.0, SEEN) == "held"
    assert found(2.4, 2.5, SEEN) == "not held"
    assert found(2.4, 0.0, SEEN, seeds=1) == "not testable here"
    assert found(0.0, 0.0, NONE) == "not held"
    assert found(0.0, 0.0, BLIND) == "not testable here"


def test_a_named_pair_is_judged_as_before_beside_trained_ones():
    shape = {"width": 96.0, "blocks": 6.0}
    plain = Measured(subject="plain", numbers=SEEN | shape | {"registers": 0.0, "longest": None, "share": 0.02})
    cured = Measured(subject="cured", numbers=NONE | shape | {"registers": 4.0, "longest": 9.0, "share": 0.0})
    assert outcomes(fig07, [plain, cured])["no-outliers", "cured"] == "held"
    assert not any(id == "outliers-removed" for id, _ in outcomes(fig07, [plain, cured]))


def test_outliers_late_in_training():
    def found(part, seen=SEEN, seeds=3, odd=None):
        numbers = [seen | {"onset": 400.0, "steps": 1000.0, "part": part} for _ in range(seeds)]
        numbers[-1] |= odd or {}
        (outcome,) = outcomes(fig04b, [trained(each, seed) for seed, each in enumerate(numbers)]).values()
        return outcome

    assert found(0.4) == "held"
    assert found(0.0) == "not held"
    assert found(0.4, seeds=1) == found(0.4, seeds=2) == found(0.4, NONE, seeds=1) == "not testable here"
    assert found(None, NONE) == "not held"
    assert found(None, BLIND) == "not testable here"
    assert found(None) == "not testable here"
    assert found(0.4, odd=NONE) == "not testable here"  # two seeds with outliers
    assert found(0.4, odd={"part": 0.1}) == "not testable here"  # they do not agree


def test_outliers_in_the_larger_models_only():
    def sizes(*shown, seeds=3):
        return [
            trained((SEEN if seen else NONE) | {"share": 0.02 * seen, "size": float(place)}, seed, size=str(place))
            for seed in range(seeds) for place, seen in enumerate(shown)
        ]  # fmt: skip

    def found(*words, **named):
        (outcome,) = outcomes(fig04c, sizes(*words, **named)).values()
        return outcome

    assert found(False, False, True) == "held"
    assert found(False, True, True) == "held"
    assert found(True, False, True) == "not held"
    assert found(True, True, True) == "not held"
    assert found(False, False, False) == "not held"
    assert found(False, False, True, seeds=1) == found(False, False, True, seeds=2) == "not testable here"
    assert list(outcomes(fig04c, [trained(BLIND | {"share": 0.0, "size": 1.0})]).values()) == ["not testable here"]


def test_registers_that_are_pushed_apart():
    def runs(plain, apart, slots, seeds=3):
        ways = ((plain, {}), (apart, {"decorrelation": 1.0}), (slots, {"slots": True}))
        return [
            trained({"overlap": value + 0.1 * SPREAD[seed] * bool(how), "registers": 4.0, "images": 8.0}, seed, registers=4, **how)
            for seed in range(seeds) for value, how in ways
        ]  # fmt: skip

    found = outcomes(future, runs(0.92, 0.4, 0.97))
    assert found["penalty-parts", "DINOv2, 4 registers decorrelated against 4"] == "held"
    assert found["slots-part", "DINOv2, 4 registers as slots against 4"] == "not held"
    one = outcomes(future, runs(0.5, 0.4, 0.9, seeds=1))
    assert one["penalty-parts", "DINOv2, 4 registers decorrelated against 4"] == "not testable here"


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
@pytest.mark.parametrize("seeds", [1, 2])
def test_of_fewer_than_three_seeds_nothing_is_decided_of_trained_models(experiment, seeds):
    """Whatever the numbers: outliers that are gone, and probes far above their controls."""
    wanted = [model.with_seed(seed) for seed in range(seeds) for model in experiment.trains("smoke")]
    probes = {"linear": 80.0, "knn": 70.0, "segmentation": 40.0, "depth": 0.4, "zeroshot": 60.0, "corloc": 50.0}
    controls = {f"{name} control: chance": 9.0 if name == "depth" else 1.0 for name in probes} | {
        "control: centre box": 1.0
    }
    measured = []
    for each in wanted:
        sick = {
            "outliers": 1.0,
            "outlier_percent": 4.0,
            "share": 0.04,
            "part": 0.5,
            "onset": 5.0,
            "steps": 10.0,
            "size": 1.0,
        }
        cured = {**NONE, "outlier_percent": 0.0, "share": 0.0, "size": 0.0}
        gain = each.registers + 100 * each.decorrelation + 100 * each.slots
        numbers = {
            name: value * (1 - 0.01 * gain if name == "depth" else 1 + 0.1 * gain) for name, value in probes.items()
        }
        numbers |= controls | (cured if each.registers or each.size == "small" else sick)
        numbers |= {"overlap": 0.9 - 0.005 * gain, "longest": 9.0, "registers": float(each.registers)}
        held = TrainedAs(recipe=each.recipe, registers=each.registers, size=each.size, decorrelation=each.decorrelation, slots=each.slots,
                         seed=each.seed)  # fmt: skip
        measured.append(Measured(subject=each.name, numbers=numbers, trained=held))
    claims = experiment.claims(measured) if wanted else []
    assert {each.outcome for each in claims} <= {"not testable here"}
    assert bool(claims) == bool(wanted)
