"""The report of a design, from runs whose truth is planted: effects, answers, what is undecided, and what runs cannot say."""

import csv
import json
import math

import pytest
from tests.unit.experiments.lab import made_runs

import vitreg
from vitreg.data.sets.synthetic.parameters import USUAL
from vitreg.data.sets.synthetic.retrieval import least_error
from vitreg.experiments.lab.statistics.answers import half_way
from vitreg.records.lab import LabReport
from vitreg.report.lab.figures import effects_figure

DESIGN = """
title = "Planted"
seeds = 6
[[block]]
factors = { registers = [0, 4] }
[[block]]
factors = { diversity = [1], loss = [1] }
[[block]]
seeds = 4
factors = { registers = [0, 4], gate = [true] }
"""


def reported(monkeypatch, tmp_path, trained, design=DESIGN, figures=False):
    (tmp_path / "design.toml").write_text(design)
    made_runs.in_this_process(monkeypatch, trained, figures=figures)
    return vitreg.lab("run", tmp_path / "design.toml", out=tmp_path / "out")


def rows(found, **wanted):
    return [each for each in found.effects if all(getattr(each, name) == value for name, value in wanted.items())]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    place = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        return reported(
            patch,
            place,
            lambda config, folder: made_runs.write(folder, config, **made_runs.planted(config)),
        ), place / "out"


def test_planted_effects_are_found_with_their_sizes(found):
    (registers,) = [each for each in rows(found[0], factor="registers", where="") if each.level == "4"]
    ratio, solved = registers.measures["ratio"], registers.measures["solved"]
    assert ratio.decided
    assert ratio.low <= 1.5 / 30 <= ratio.high
    assert ratio.low < ratio.value < ratio.high < 0.1
    assert ratio.exact == pytest.approx(2 / math.comb(12, 6))
    assert (ratio.runs, ratio.left_out, solved.censored) == ((6, 6), 0, 0)
    assert solved.low <= -500 <= solved.high
    (loss,) = rows(found[0], factor="loss", where="on average over diversity")
    assert loss.average
    assert loss.measures["ratio"].low <= 0.05 <= loss.measures["ratio"].high
    assert loss.measures["ratio"].decided


def test_what_has_no_effect_is_undecided(found):
    for factor in ("diversity", "gate"):
        for each in rows(found[0], factor=factor):
            assert not any(measure.decided for measure in each.measures.values()), each
    (average,) = rows(found[0], factor="gate", average=True)
    assert average.measures["ratio"].low < 1 < average.measures["ratio"].high


def test_each_pair_of_cells_stands_once(found):
    pairs = [(tuple(each.cells[0]), tuple(each.cells[1])) for each in found[0].effects]
    assert len(pairs) == len(set(pairs))
    assert all(
        math.isfinite(each.adjusted) for row in found[0].effects for each in row.measures.values() if each.p is not None
    )


def test_the_answers_are_those_that_were_planted(found):
    said = {each.question: each for each in found[0].answers}
    need = said["What do artifacts need?"].sentence
    assert "Without a change artifacts came in 6 of 6 runs; in none with " in need
    assert "4 registers, loss 1 (0 of 6, 0 % to 39 % each)" in need
    assert "; in all with diversity 1 (6 of 6" in need
    when = said["When do artifacts come, and do they stay?"]
    assert "in 6 runs; they were there at the end of each." in when.sentence
    assert when.numbers["low"] < when.numbers["onset"] < when.numbers["high"]
    assert said["Are artifacts no-ops or broadcasters?"].decided
    assert (
        "0.075 (0.0554 to 0.0946) of the mean of all at the end of 6 runs: a no-op"
        in said["Are artifacts no-ops or broadcasters?"].sentence
    )
    assert (
        "Against no change, with 4 registers it falls"
        in said["Does the error fall earlier and lower with registers?"].sentence
    )
    assert "4 registers 0.89" in said["How much of the attention do registers take?"].sentence
    assert found[0].sentence.startswith(
        "Artifacts came in 6 of 6 runs of the base (0 registers). The largest norms are smaller with "
    )
    assert [each.least for each in found[0].cells[:2]] == [least_error(USUAL)] * 2


def test_what_registers_hold_whether_they_share_and_where_attention_goes_without_artifacts(found):
    said = {each.question: each for each in found[0].answers}
    holding, sharing = said["What do registers hold?"], said["Do several registers share the work?"]
    assert "4 registers have values 0.8 of the mean of all and norms 2.00 times the median patch" in holding.sentence
    assert not holding.decided  # equal values in every run have no interval
    # Two registers take 2/3 and 1/3: exp of the entropy is 3 / 2^(2/3).
    assert "the largest takes 0.667" in sharing.sentence
    assert sharing.numbers["4 effective"] == pytest.approx(3 / 2 ** (2 / 3), rel=1e-3)
    sink = said["Is there a sink without artifacts?"]
    assert "with loss 1 undecided (the background 0.06, one foreground tile 0.05)" in sink.sentence


def test_a_sink_in_a_foreground_tile_is_found_where_the_background_has_none(monkeypatch, tmp_path):
    """Without artifacts a foreground tile takes 0.4 to 0.6 of the attention, and the background 0.06."""

    def trained(config, folder):
        peak = 1.4 if config.model.gate else 30.0
        return made_runs.write(folder, config, peak=peak, foreground=0.4 + 0.05 * config.run.seed if peak < 5 else 0.05)

    result = reported(monkeypatch, tmp_path, trained, "seeds = 5\n[[block]]\nfactors = { gate = [true] }")
    (sink,) = [each for each in result.answers if each.question == "Is there a sink without artifacts?"]
    assert sink.decided
    assert (
        "with gate on a sink in one foreground tile (0.5 (0.402 to 0.598) of the attention, with values 0.9"
        in sink.sentence
    )
    assert "the most attended token is an unmarked tile in 75 % of the images" in sink.sentence
    assert result.cells[1].foreground == pytest.approx(0.5)


def test_runs_of_vitreg_0_1_0_say_what_they_can(monkeypatch, tmp_path):
    def trained(config, folder):
        return made_runs.write(folder, config, older=True, **made_runs.planted(config))

    result = reported(monkeypatch, tmp_path, trained, "seeds = 3\n[[block]]\nfactors = { registers = [0, 4] }")
    asked = [each.question for each in result.answers]
    assert "Are artifacts no-ops or broadcasters?" in asked
    assert "Do several registers share the work?" not in asked
    assert "Is there a sink without artifacts?" not in asked
    assert (result.runs[0].most, result.runs[1].registers_share, result.cells[1].effective) == (None, None, None)
    with (tmp_path / "out" / "runs.csv").open() as file:
        assert [each["attention_foreground"] for each in csv.DictReader(file)] == [""] * 6


def test_an_interaction_of_runs_is_found(found):
    """Gates change nothing, with registers and without."""
    (row,) = [each for each in found[0].effects if each.interaction and each.factor == "gate"]
    assert row.measures["ratio"].low < 1 < row.measures["ratio"].high
    (row,) = [each for each in found[0].effects if each.interaction and each.factor == "diversity"]
    assert row.where == "with loss 1 against 0"


def test_all_is_drawn_again_from_the_record_alone(found, tmp_path, monkeypatch):
    monkeypatch.setattr("vitreg.report.lab.page.draw_figures", lambda *given: None)
    out = found[1]
    drawn = vitreg.draw(out, out=tmp_path / "again")
    assert drawn.paths == (tmp_path / "again" / "report.html",)
    for name in ("report.html", "effects.csv", "runs.csv"):
        assert (tmp_path / "again" / name).read_text() == (out / name).read_text()


def test_the_figure_of_effects_has_a_row_for_each_change_and_its_interval(found):
    figure = effects_figure(found[0])
    axes = figure.axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["registers 4 against 0", "diversity 1 against 0", "loss 1 against 0", "gate on against off"]
    (row,) = rows(found[0], factor="loss", average=True)
    drawn = [each.get_segments()[0][:, 0].tolist() for each in axes.collections]
    assert drawn[2] == pytest.approx([row.measures["ratio"].low, row.measures["ratio"].high])


@pytest.mark.slow
def test_figures_are_written_in_three_formats_and_drawn_again_to_the_byte(monkeypatch, tmp_path):
    def trained(config, folder):
        return made_runs.write(folder, config, **made_runs.planted(config))

    reported(monkeypatch, tmp_path, trained, figures=True)
    out = tmp_path / "out"
    kept = {path.name: path.read_bytes() for path in (out / "figures").iterdir()}
    assert set(kept) == {
        f"{name}.{kind}" for name in ("effects", "courses-norms", "courses-error") for kind in ("png", "svg", "pdf")
    }
    assert 'href="figures/effects.svg"' in (out / "report.html").read_text()
    vitreg.draw(out)
    assert {path.name: path.read_bytes() for path in (out / "figures").iterdir()} == kept


def test_cells_say_what_became_of_their_runs(found):
    cells = {each.name: each for each in found[0].cells}
    assert cells["0 registers"].outcomes == {"artifacts": 6}
    assert cells["4 registers"].outcomes == {"none": 6}
    share = cells["4 registers"].artifacts
    assert (share.hits, share.of, share.low) == (0, 6, 0.0)
    assert cells["0 registers"].ratio == pytest.approx(30, rel=0.2)


def test_record_page_and_tables_are_written_and_a_report_is_the_same_again(found, monkeypatch):
    monkeypatch.setattr("vitreg.report.lab.page.draw_figures", lambda *given: None)
    result, out = found
    assert LabReport.model_validate(json.loads((out / "result.json").read_text())) == result
    page = (out / "report.html").read_text()
    assert result.undrawn == []
    assert page.index(result.sentence) < page.index("What each change does")
    assert page.count('class="chart lab-course"') == 2 * len(result.cells)
    assert "undecided" in page
    with (out / "effects.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == sum(len(each.measures) for each in result.effects)
    assert {each["measure"] for each in lines} == {"ratio", "solved", "error"}
    with (out / "runs.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [each["outcome"] for each in lines] == [run.outcome for run in result.runs]
    first, second = lines[0], lines[1]  # without registers, and with 4
    assert (first["attention_most"], first["kinds_most"]) == (first["attention_background"], "background 1")
    assert (first["effective_registers"], second["norm_registers"], second["values_registers"]) == ("", "2.0", "0.8")
    assert second["attention_each_register"].count(" ") == 1
    assert (second["attention_foreground"], second["kinds_foreground"]) == ("0.05", "marked 0.25 unmarked 0.75")
    before = (out / "design.json").read_text()
    assert vitreg.lab("report", out) == result
    assert (out / "design.json").read_text() == before


def test_no_run_is_judged_before_its_onset(monkeypatch, tmp_path):
    """Runs with 4 registers never solve the task: nothing is said of their norms, and their steps count as their last."""

    def trained(config, folder):
        return made_runs.write(
            folder,
            config,
            peak=1.4 if config.model.registers else 30.0,
            solved=None if config.model.registers else 3000,
        )

    result = reported(monkeypatch, tmp_path, trained, "seeds = 4\n[[block]]\nfactors = { registers = [0, 4] }")
    assert result.cells[1].outcomes == {"not solved": 4}
    assert result.cells[1].artifacts is None
    (row,) = result.effects
    assert "ratio" not in row.measures
    assert "error" not in row.measures
    assert row.measures["solved"].censored == 4
    assert "4 registers (no run past its onset)" in result.answers[0].sentence
    assert "undecided" in result.answers[0].sentence


@pytest.mark.parametrize("kept", [lambda line: line["kind"] != "norms", lambda line: line["step"] <= 2000])
def test_a_run_whose_last_look_cannot_be_read_is_not_judged(monkeypatch, tmp_path, kept):
    """Without its looks, or with the first of them alone, a run with artifacts would count as one without."""
    reported(monkeypatch, tmp_path, made_runs.plausible, "seeds = 2\n[[block]]\nfactors = { registers = [0, 4] }")
    for path in (tmp_path / "out" / "runs").glob("*/metrics.jsonl"):
        lines = [line for line in path.read_text().splitlines() if kept(json.loads(line))]
        path.write_text("\n".join(lines) + "\n")
    result = vitreg.lab("report", tmp_path / "out")
    assert [each.failed == 2 for each in result.cells] == [True, True]
    assert all("no look at the norms of its last step" in each.failed for each in result.runs)
    assert all(each.artifacts is None for each in result.cells)


def test_artifacts_of_runs_that_did_not_solve_the_task_may_still_grow(monkeypatch, tmp_path):
    """Their norms are clearly smaller so far, and the row is not decided for that."""

    def trained(config, folder):
        slow = config.model.gate
        return made_runs.write(folder, config, peak=40.0 if slow else 100.0, solved=None if slow else 3000)

    result = reported(monkeypatch, tmp_path, trained, "seeds = 6\n[[block]]\nfactors = { gate = [true] }")
    assert result.cells[1].outcomes == {"artifacts": 6}
    ratio = result.effects[0].measures["ratio"]
    assert ratio.adjusted < 0.001
    assert ratio.high < 0.5
    assert (ratio.decided, ratio.censored) == (False, 6)


def test_artifacts_that_dissolve_are_seen(monkeypatch, tmp_path):
    design = "seeds = 3\n[[block]]\nfactors = { registers = [0] }"
    result = reported(monkeypatch, tmp_path, lambda config, folder: made_runs.write(folder, config, last=1.3), design)
    assert result.cells[0].outcomes == {"dissolved": 3}
    assert (result.cells[0].artifacts.hits, result.effects) == (3, [])


def test_half_way():
    assert half_way([0, 100, 200], [0.0, 0.2, 1.0]) == pytest.approx(100 + 100 * 0.3 / 0.8)
    assert half_way([0, 100, 200], [None, 0.0, 1.0]) == pytest.approx(150)
    assert half_way([0, 100], [1.0, 0.5]) is None
    assert half_way([0], [1.0]) is None
