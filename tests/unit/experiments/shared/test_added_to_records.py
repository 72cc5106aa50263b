"""A run adds to the record of its folder: nothing measured is lost, what was measured otherwise is refused, places don't matter."""

import json
import os
import shutil

import pytest

import vitreg
from vitreg.cli import run
from vitreg.errors import UserError
from vitreg.experiments.shared.adding import held_in

pytestmark = pytest.mark.usefixtures("planted_once", "few_resamples", "blank_figures", "undrawn")
CLEAN, HIGH = "planted:clean", "planted:high-norm"


@pytest.fixture(scope="module")
def photos(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adds") / "photos"
    folder.mkdir()
    for path in photographs[:5]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """A finished run of two experiments on one model."""
    out = tmp_path_factory.mktemp("added") / "out"
    words = {"images": (str(photos),), "size": 64}
    vitreg.reproduce(("fig3", "fig12"), out=out, models=(CLEAN,), **words)
    return out, words


@pytest.fixture
def copied(finished, tmp_path):
    out, words = finished
    return shutil.copytree(out, tmp_path / "elsewhere" / "copy"), words


def never(job):
    pytest.fail(f"{job.name} is done again")


def test_a_run_of_fewer_experiments_keeps_the_others_with_their_claims_figures_and_tables(copied):
    out, _ = copied
    before = held_in(out)
    files = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    found = vitreg.reproduce(("fig12",), out=out)
    assert [each.id for each in found.experiments] == ["fig3", "fig12"]
    assert [each.claims for each in found.experiments] == [each.claims for each in before.experiments]
    assert {path.relative_to(out) for path in out.rglob("*") if path.is_file()} >= files
    assert found.images == before.images


def test_a_model_that_is_added_adds_rows_and_an_experiment_its_section(copied):
    out, words = copied
    found = vitreg.reproduce(("fig3", "fig4a"), out=out, models=(HIGH,), **words)
    fig3, fig4a, fig12 = found.experiments
    assert [each.subject for each in fig3.measured] == [CLEAN, HIGH]
    assert {claim.subject for claim in fig3.claims} == {CLEAN, HIGH}
    assert [each.subject for each in fig4a.measured] == [HIGH]
    assert fig12.claims
    ledger = json.loads((out / "claims.json").read_text())["claims"]
    assert {claim["experiment"] for claim in ledger} == {"fig3", "fig4a", "fig12"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"scale": "lab"}, "with --scale smoke, not with --scale lab"),
        ({"limit": 3}, "with --limit 500, not with --limit 3"),
        ({"seed": 1}, "with --seed 0, not with --seed 1"),
        ({"size": 96}, "with --size 64, not with --size 96"),
        ({"images": ("synthetic:scenes@3:5",)}, "photos, not with --images synthetic:scenes@3:5"),
        ({"precision": "bf16"}, "with --precision fp32, not with --precision bf16"),
        ({"random": True}, "without --random, not with --random"),
    ],
)
def test_other_settings_are_refused_with_the_difference_and_the_record_stays(copied, words, told):
    out, before = copied
    held = (out / "result.json").read_bytes()
    with pytest.raises(UserError) as refused:
        vitreg.reproduce(("fig3",), out=out, started=never, **{"models": (CLEAN,), **before, **words})
    assert told in refused.value.sentence
    assert "name another place with --out" in refused.value.sentence
    assert (out / "result.json").read_bytes() == held


def test_more_seeds_are_refused_only_where_something_is_trained(copied):
    out, _ = copied
    assert len(vitreg.reproduce(("fig12",), out=out, seeds=3).experiments) == 2


def test_the_command_line_ends_with_2(copied, capsys):
    out, _ = copied
    with pytest.raises(UserError, match="with scale smoke, not with scale lab"):
        run(["reproduce", "fig12", "--scale", "lab", "--out", str(out)])


def test_images_that_changed_are_not_the_same(finished, photos, tmp_path):
    mine = shutil.copytree(photos, tmp_path / "mine")
    words = {"models": (CLEAN,), "size": 64, "images": (str(mine),)}
    vitreg.reproduce(("fig3",), out=tmp_path / "out", **words)
    os.utime(mine / next(iter(os.listdir(mine))), (1, 1))
    with pytest.raises(UserError, match="mine, as it was then"):
        vitreg.reproduce(("fig3",), out=tmp_path / "out", **words)


def test_a_record_that_cannot_be_read_is_refused_also_where_the_list_of_files_proves_it(copied):
    from vitreg.writing.ledger import read_ledger, write_ledger, written

    out, _ = copied
    whole = (out / "result.json").read_bytes()
    other = json.dumps(json.loads(whole) | {"schema": "vitreg.reproduce/99"}).encode()
    for bad, told in ((whole[:500], "is damaged"), (other, r"of the schema vitreg\.reproduce/99")):
        (out / "result.json").write_bytes(bad)
        ledger = read_ledger(out)
        ledger.files["result.json"] = written(out / "result.json", "reproduce")
        write_ledger(out / ".vitreg.json", ledger)
        with pytest.raises(UserError, match=told):
            vitreg.reproduce(("fig12",), out=out)
        assert (out / "result.json").read_bytes() == bad


def test_a_record_without_settings_is_added_to_as_far_as_it_says_what_it_is(copied):
    out, words = copied
    from vitreg.writing.ledger import read_ledger, write_ledger, written

    held = json.loads((out / "result.json").read_bytes())
    for name in ("settings", "earlier"):
        del held[name]
    for each in held["experiments"]:
        del each["data"]
    (out / "result.json").write_text(json.dumps(held))
    ledger = read_ledger(out)
    ledger.files["result.json"] = written(out / "result.json", "reproduce")
    write_ledger(out / ".vitreg.json", ledger)
    with pytest.raises(UserError, match="with scale smoke, not with scale lab"):
        vitreg.reproduce(("fig12",), out=out, scale="lab")
    assert len(vitreg.reproduce(("fig4a",), out=out, models=(CLEAN,), started=never, **words).experiments) == 3


def test_scans_of_own_photographs_are_found_in_a_copy_and_under_every_spelling(photographs, tmp_path, monkeypatch):
    def write(folder):
        folder.mkdir(exist_ok=True)
        shutil.copy(photographs[0], folder)

    monkeypatch.setattr("vitreg.verbs.demo.verb.write_photographs", write)
    monkeypatch.chdir(tmp_path)
    words = {"models": (CLEAN,), "size": 64}
    vitreg.reproduce(("fig3",), out="here", **words)
    shutil.copytree("here", "there")
    for place in ("here", tmp_path / "here", "there", tmp_path / "there"):
        vitreg.reproduce(("fig3",), out=place, started=never, **words)


def test_a_missing_set_stops_what_needs_it_and_the_end_says_so(tmp_path, capsys):
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match=r"classes: no file or folder '/nonexistent'"):
        run(
            [
                "reproduce",
                "table1",
                "fig11",
                "-m",
                CLEAN,
                "--classes",
                "/nonexistent",
                "--images",
                "synthetic:scenes@3:2",
                "--out",
                out,
            ]
        )
    said = capsys.readouterr()
    assert said.err.count("no file or folder '/nonexistent'") == 1
    table1, fig11 = sorted(held_in(tmp_path / "out").experiments, key=lambda each: each.id, reverse=True)
    assert "'/nonexistent'" in table1.claims[0].reason
    assert fig11.claims[0].outcome == "held"


def test_a_set_that_all_of_them_need_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(UserError, match=r"^boxes: no data 'nonsense:/x': there is no folder '/x'"):
        run(["reproduce", "table3", "--boxes", "nonsense:/x", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_one_model_that_cannot_be_taken_does_not_stop_the_others_and_none_ends_with_2(photos, tmp_path):
    words = ["reproduce", "fig3", "fig12", "--images", str(photos), "--size", "64"]
    assert run([*words, "--out", str(tmp_path / "a"), "-m", CLEAN, "-m", "planted:none"]) == 0
    rows = held_in(tmp_path / "a").experiments[0].measured
    assert [bool(each.failed) for each in rows] == [False, True]
    with pytest.raises(UserError, match=r"no planted kind 'none'"):
        run([*words, "--out", str(tmp_path / "b"), "-m", "planted:none"])
    with pytest.raises(UserError, match=r"no model could be measured; the first, timm:vit_tinny"):
        run([*words, "--out", str(tmp_path / "c"), "-m", "timm:vit_tinny_patch16_224", "--random"])
    assert held_in(tmp_path / "c").experiments[1].claims[0].outcome == "held", "what needs no model is there"
