"""What a run of `reproduce` cannot take is one sentence, and everything else is done."""

import json
import shutil

import pytest

import vitreg
from vitreg.cli import run
from vitreg.errors import UserError

pytestmark = pytest.mark.usefixtures("planted_once", "few_resamples", "blank_figures", "undrawn")
PLANTED = "planted:clean"
NO_CLS = "timm:vit_wee_patch16_reg1_gap_256"  # one register, no class token


@pytest.fixture(scope="module")
def photos(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refuses") / "photos"
    folder.mkdir()
    for path in photographs[:5]:
        shutil.copy(path, folder)
    return folder


def said(found, id):
    (each,) = [each for each in found.experiments if each.id == id]
    return {claim.id: (claim.outcome, claim.reason) for claim in each.claims}


def one_sentence(reason):
    return "\n" not in reason and "Error" not in reason and reason.endswith(".")


def test_a_model_that_experiments_cannot_take_says_why_and_the_others_run(photos, tmp_path):
    words = {"classes": "synthetic:scenes@0:16", "boxes": "synthetic:scenes@0:6", "masks": "", "depths": ""}
    ids = ("fig1", "fig9", "fig12", "table2b")
    found = vitreg.reproduce(
        ids, out=tmp_path, models=(NO_CLS,), random=True, images=(str(photos),), size=64, limit=5, **words
    )
    assert [each.id for each in found.experiments] == [*ids]
    assert said(found, "fig1")["readable"] == ("not testable here", "It has no class token.")
    assert said(found, "fig9")["registers-differ"] == ("not testable here", "It has a single register.")
    assert said(found, "fig9")["unlike-class-token"] == ("not testable here", "It has no class token.")
    assert said(found, "fig9")["objects-attended"][0] == "not held", "its one register attends nowhere in particular"
    outcome, reason = said(found, "table2b")["zero-shot-kept"]
    assert outcome == "not testable here"
    assert f"{NO_CLS} has no text tower" in reason
    assert all(one_sentence(reason) for id in ids for _, reason in said(found, id).values())
    assert said(found, "fig12")["parameters"][0] == "held"


def test_a_model_without_registers_is_not_asked_about_them(photos, tmp_path):
    found = vitreg.reproduce(
        ("fig6", "fig7", "fig9"), out=tmp_path, models=(PLANTED,), images=(str(photos),), size=64, boxes=""
    )
    reasons = [said(found, id).values() for id in ("fig6", "fig7", "fig9")]
    assert {outcome for each in reasons for outcome, _ in each} == {"not testable here"}
    assert {reason for each in reasons for _, reason in each} == {"It has no registers."}


def test_a_scale_without_its_data_says_which_option_names_them(tmp_path):
    found = vitreg.reproduce(("fig3", "fig11", "table3"), out=tmp_path, scale="paper", models=(PLANTED,))
    assert said(found, "fig3")["two-groups"] == ("not testable here", "It needs images; name them with --images.")
    reason = "It needs images with true boxes; name a set with --boxes."
    assert said(found, "table3")["objects"] == ("not testable here", reason)
    assert said(found, "fig11")["stripes"][0] == "held"


def test_a_record_of_another_version_is_refused_and_stays(tmp_path, capsys):
    vitreg.reproduce(("fig12",), out=tmp_path)
    held = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / ".vitreg.json").unlink()
    (tmp_path / "result.json").write_text(json.dumps(held | {"schema": "vitreg.reproduce/2"}))
    before = (tmp_path / "result.json").read_bytes()
    for words in (["reproduce", "fig12"], ["reproduce", "--only", "claims"], ["reproduce", "--only", "figures"]):
        with pytest.raises(UserError, match=r"result\.json exists"):
            run([*words, "--out", str(tmp_path)])
    with pytest.raises(UserError, match=r"of the schema vitreg\.reproduce/2, and no record that vitreg draw knows"):
        run(["draw", str(tmp_path)])
    assert (tmp_path / "result.json").read_bytes() == before


def test_folders_of_the_user_in_the_place_of_ours(photos, tmp_path):
    words = {"models": (PLANTED,), "images": (str(photos),), "size": 64}
    for name in ("jobs", "runs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    vitreg.reproduce(("fig3",), out=tmp_path, **words)
    assert [(tmp_path / name / "mine.txt").read_text() for name in ("jobs", "runs")] == ["mine", "mine"]
    (tmp_path / "jobs" / "mine.json").write_text("[]")
    with pytest.raises(UserError, match="is no row of vitreg's jobs; move it away"):
        vitreg.reproduce(("fig3",), out=tmp_path, **words)


def test_a_damaged_result_of_a_job_names_what_to_delete_and_then_it_is_done_again(photos, tmp_path):
    words = {"models": (PLANTED,), "images": (str(photos),), "size": 64}
    whole = vitreg.reproduce(("fig3",), out=tmp_path, **words)
    (record,) = (tmp_path / "runs").glob("*/result.json")
    record.write_bytes(record.read_bytes()[:100])
    ended = []
    found = vitreg.reproduce(("fig3", "fig12"), out=tmp_path, ended=ended.append, **words)
    reason = f"delete {record.parent}, and the same command measures again."
    assert reason in next(each for each in ended if each.id == "fig3").measured[0].failed
    (row,) = found.experiments[0].measured
    assert row.numbers == whole.experiments[0].measured[0].numbers, "what was measured before stays"
    assert reason in row.note
    assert said(found, "fig12")["parameters"][0] == "held"
    shutil.rmtree(record.parent)
    again = vitreg.reproduce(("fig3",), out=tmp_path, **words)
    assert again.experiments[:1] == whole.experiments
