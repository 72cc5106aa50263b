"""The ledger of a search: a result also where nothing was found; and the designs that search and that grow known sinks."""

import json

import pytest
from tests.unit.experiments.lab import made_runs

import vitreg
from vitreg.experiments.lab.reading import design_named
from vitreg.experiments.lab.statistics.ledger import searched
from vitreg.records.lab import DesignRun
from vitreg.training.history import read_run
from vitreg.training.settings import changed

SEARCH = {
    "seeds": 3,
    "steps": 50,
    "block": [
        {
            "name": "MAE",
            "preset": "mae-smoke",
            "base": {"root": "synthetic:scenes:64", "registers": 0},
            "factors": {"registers": [0]},
        }
    ],
}


def runs(*peaks, **over):
    return [
        DesignRun(name=f"run {i}", registers=0, seed=i, cell=0, seconds=1800.0, peak_ratio=peak, **over)
        for i, peak in enumerate(peaks)
    ]


def test_no_find_is_a_result_with_runs_hours_and_what_chance_leaves():
    found = searched(runs(1.2, 1.7, 1.4, 1.1), 4, 12)
    assert found.sentence == (
        "No artifact above 2 times the median in 4 runs of 2.00 hours of a core; the largest is 1.70 (run 1). By chance alone up to "
        "49 % of such runs could be (95 %)."
    )
    assert not found.decided
    assert (found.numbers["runs"], found.numbers["above"], found.numbers["largest"]) == (4, 0, 1.7)


def test_finds_are_named_the_largest_first_and_what_is_missing_says_why():
    found = searched([*runs(2.5, 1.1, 7.0), DesignRun(name="x", registers=0, seed=9, cell=0, failed="no disk")], 9, 1.5)
    assert found.sentence.startswith(
        "2 above 2 times the median in 3 runs of 1.50 hours of a core (run 2: 7.00; run 0: 2.50)."
    )
    assert (
        "1 run failed or diverged. 5 runs of the design are not among them: the hours of the design are spent."
        in found.sentence
    )
    assert found.decided
    assert "they have not ended" in searched(runs(1.0), 2, None).sentence
    assert (
        searched([], 2, None).sentence
        == "No run has ended yet. 2 runs of the design are not among them: they have not ended."
    )


def test_runs_without_an_error_are_judged_by_their_whole_length_and_the_report_begins_with_the_ledger(
    monkeypatch, tmp_path
):
    path = tmp_path / "search.json"
    path.write_text(json.dumps(SEARCH))

    def trained(config, folder):
        return made_runs.write(folder, config, peak=1.4, solved=None)

    made_runs.in_this_process(monkeypatch, trained)
    found = vitreg.lab("run", path, out=tmp_path / "out")
    assert [each.outcome for each in found.runs] == ["none"] * 3
    assert found.sentence.startswith("No artifact above 2 times the median in 3 runs of ")
    assert found.answers[0].question == "Did the search find artifacts?"
    assert "No artifact above 2 times the median" in (tmp_path / "out" / "report.html").read_text()


def test_the_natural_search_asks_what_it_should_within_its_hours():
    found = design_named("natural")
    assert found.hours == 12
    configs = [run.config for run in found.runs]
    assert {each.recipe.kind for each in configs} == {"dino", "mae", "supervised"}
    assert {each.model.registers for each in configs} == {0, 1, 4}
    assert {each.model.depth for each in configs} == {12}
    assert {each.model.mlp for each in configs} == {"mlp", "swiglu"}
    assert {each.model.cls_token for each in configs} == {True, False}
    assert {each.model.layer_scale for each in configs} == {None, 1.0, 1e-4}
    assert all(each.optim.min_lr == each.optim.lr for each in configs)
    roots = " ".join(each.data.root for each in configs)
    assert all(f"canvas={word}" in roots for word in ("letterbox", "flat", "blurred"))
    assert "photos=scikit-image,pixels=1" in roots


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "steps", "kind"),
    [("broadcast", 1500, "broadcast"), ("nothing, without norms, 1 register", 2500, "no-op")],
)
def test_the_scan_names_the_sinks_that_the_toys_grow(cell, steps, kind, tmp_path):
    """A minute of a core each: all tiles must give what one of them holds, or most must write nothing."""
    run = next(run for run in design_named("toys").runs if run.cell.name == cell)
    short = {
        "duration": f"{steps} steps",
        "until": None,
        "watch_every": f"{steps} steps",
        "evaluate_every": "500 steps",
    }
    outcome = vitreg.train(changed(run.config, {"run": short}), tmp_path / "run", quiet=True)
    assert outcome is not None
    curves = {curve.name: curve.values for curve in read_run(tmp_path / "run").evaluations}
    assert curves["val_asked"][-1] < 0.03  # 1 without looking
    found = vitreg.scan(f"run:{tmp_path / 'run'}", [run.config.data.root], limit=64, trust=True, out=tmp_path / "scan")
    assert {each for _, _, each in found.head_sinks.kinds()} == {kind}
    assert found.head_sinks.places[0] == {"register": 1.0} or kind == "broadcast"
