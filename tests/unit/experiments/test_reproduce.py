"""`reproduce` on planted models: claims hold where they were planted and fail on the clean twin; nothing is done twice."""

import json

import pytest

import vitreg
from vitreg.errors import UserError
from vitreg.passes.drawing import as_written
from vitreg.records.reproduction import Reproduction

pytestmark = pytest.mark.usefixtures("planted_once", "few_resamples", "blank_figures")
IDS = ("fig3", "fig4a", "fig5a")
MODELS = ("planted:high-norm", "planted:clean")


@pytest.fixture(scope="module")
def run(photographs, tmp_path_factory):
    """A run that was interrupted after its first scan, and went on."""
    out = tmp_path_factory.mktemp("reproduction") / "out"
    words = {"out": out, "models": MODELS, "images": tuple(map(str, photographs)), "limit": 16}
    begun = []

    def stop(job):
        begun.append(job.name)
        if len(begun) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vitreg.reproduce(IDS, started=stop, **words)
    assert not (out / "result.json").exists()
    found = vitreg.reproduce(IDS, started=lambda job: begun.append(job.name), **words)
    return out, words, found, begun


def outcomes(found, id):
    (each,) = [each for each in found.experiments if each.id == id]
    return {(claim.id, claim.subject): claim.outcome for claim in each.claims}


def test_claims_hold_where_they_were_planted_and_fail_on_the_clean_twin(run):
    _, _, found, _ = run
    assert outcomes(found, "fig3")["two-groups", "planted:high-norm"] == "held"
    assert outcomes(found, "fig5a")["redundant", "planted:high-norm"] == "held"
    clean = {of: outcome for each in IDS[:3] for of, outcome in outcomes(found, each).items() if "clean" in of[1]}
    assert set(clean.values()) <= {"not held", "not testable here"}


def test_each_model_is_scanned_once_for_all_experiments_and_not_again(run, photographs):
    _, words, found, begun = run
    assert begun == [
        "scan of planted:high-norm",
        "scan of planted:clean",
        "scan of planted:clean",
    ]  # the second was stopped
    again = vitreg.reproduce(IDS, started=lambda job: pytest.fail(job.name), **words)
    assert [each.claims for each in again.experiments] == [each.claims for each in found.experiments]


def test_the_record_the_ledger_the_page_and_the_figures_are_there(run):
    out, _, found, _ = run
    held = Reproduction.model_validate_json((out / "result.json").read_text())
    assert held.experiments == as_written(found).experiments
    ledger = json.loads((out / "claims.json").read_text())["claims"]
    assert len(ledger) == sum(len(each.claims) for each in found.experiments)
    page = (out / "report.html").read_text()
    assert "PLANTED" in page
    assert all(each.label in page for each in found.experiments)
    assert {path.name for path in (out / "figures").iterdir()} >= {
        "fig3-0.png",
        "fig3-1.png",
        "fig4a-0.png",
        "fig5a-0.png",
    }
    assert not found.undrawn


@pytest.mark.parametrize("only", ["claims", "figures"])
def test_judged_and_drawn_again_without_a_model(run, only, monkeypatch):
    out, _, found, _ = run
    monkeypatch.setattr("vitreg.verbs.scan.verb.scan", None)
    (out / "report.html").unlink()
    again = vitreg.reproduce((), out=out, only=only)
    assert as_written(again).experiments == as_written(found).experiments
    assert (out / "report.html").exists()


def test_a_model_that_fails_says_why_and_the_others_run(photographs, tmp_path):
    found = vitreg.reproduce(
        ("fig3",),
        out=tmp_path,
        models=("planted:none", "planted:clean"),
        images=(str(photographs[0]),),
        limit=1,
        size=64,
    )
    first, second = found.experiments[0].measured
    assert "no planted kind 'none'" in first.failed
    assert not second.failed


def test_ctrl_c_in_a_scan_ends_the_run_and_leaves_no_row_of_it(photographs, tmp_path, monkeypatch):
    from vitreg.analysis.tally import Tally

    add, calls = Tally.add, []

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return add(*given)

    monkeypatch.setattr(Tally, "add", interrupted)
    words = {"models": MODELS, "images": tuple(map(str, photographs[:3])), "size": 64, "batch_size": 1}
    with pytest.raises(KeyboardInterrupt):
        vitreg.reproduce(("fig3",), out=tmp_path, **words)
    assert len(calls) == 2
    assert not list((tmp_path / "jobs").glob("*.json"))


def test_photographs_are_a_job_and_a_folder_of_that_name_is_not_taken_for_them(tmp_path, monkeypatch):
    seen = []

    def write(folder):
        folder.mkdir(exist_ok=True)
        seen.append(folder)
        raise UserError("the demo needs scikit-image.")

    monkeypatch.setattr("vitreg.verbs.demo.verb.write_photographs", write)
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "mine.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="needs scikit-image"):
        vitreg.reproduce(("fig3",), out=tmp_path, processes=1)
    assert seen
    assert tmp_path / "photographs" not in seen
    assert vitreg.reproduce(("fig12",), out=tmp_path).experiments  # needs none


def test_models_run_in_fp32_unless_told_otherwise(run):
    out, _, found, _ = run
    assert found.provenance.precision == "fp32"
    records = [json.loads(path.read_text()) for path in (out / "runs").glob("*/result.json")]
    assert {each["provenance"]["precision"] for each in records} == {"float32"}


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"no experiment 'tabel1'.*'table1'"):
        vitreg.reproduce(("tabel1",), out=tmp_path)
    with pytest.raises(UserError, match="leave out only to measure first"):
        vitreg.reproduce((), out=tmp_path, only="claims")
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(UserError, match=r"result\.json exists"):
        vitreg.reproduce((), out=tmp_path, only="claims")


def test_figures_and_tables_are_the_same_each_time_and_latex_is_escaped(tmp_path):
    """Neither dates nor random names; drawn for real, unlike in the other tests."""
    from vitreg.report.paper import axes_of, save_figure
    from vitreg.report.reproduction.tables import escaped

    for kind in ("svg", "pdf", "png"):
        for name in ("a", "b"):
            figure, axes = axes_of(2, 2)
            axes.plot([0, 1], [1, 2])
            (tmp_path / name).mkdir(exist_ok=True)
            save_figure(figure, tmp_path / name / f"figure.{kind}")
        first, second = ((tmp_path / name / f"figure.{kind}").read_bytes() for name in ("a", "b"))
        assert first == second
    assert escaped("50 % of a_b & c – d~\\") == r"50 \% of a\_b \& c -- d\textasciitilde{}\textbackslash{}"
