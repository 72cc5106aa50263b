"""`zoo` on planted models: one board, resumed and shared; a model that fails is a row; records of others are refused alone."""

import json
import os
import shutil
import signal
import weakref

import pytest
from tests.apart import end_of
from tests.patience import until

import vitreg
from vitreg.errors import UserError
from vitreg.records import Detectable, Power
from vitreg.records.zoo import Board
from vitreg.verbs.zoo import verb

pytestmark = pytest.mark.usefixtures("planted_once", "few_resamples", "undrawn")
MODELS = ("planted:high-norm", "planted:position-locked")
WORDS = {"size": 160, "detector": "mad", "limit": 6}


@pytest.fixture(scope="module")
def photos(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "photos"
    folder.mkdir()
    for path in photographs[:6]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(autouse=True)
def power(monkeypatch):
    """What the images could have shown is made up: to simulate it takes longer than the scan."""
    edges = [Detectable(ratio=ratio, share=0.01) for ratio in (2.25, 3.5, 6.0)]
    made = Power(layer=0, probability=0.8, unevenness=0.1, detectable=edges)
    monkeypatch.setattr("vitreg.verbs.scan.readout.power_of", lambda *_: made)


@pytest.fixture
def scanned(monkeypatch):
    """Count the scans that are made."""
    seen, scan = [], verb.scan

    def counted(model, *given, **named):
        seen.append(str(model) if isinstance(model, str) else model.spec)
        return scan(model, *given, **named)

    monkeypatch.setattr(verb, "scan", counted)
    return seen


def test_a_board_has_a_row_a_scan_and_a_link_for_each_model_and_failed_ones_say_why(photos, tmp_path, scanned):
    ended = []
    models = ("planted:high-norm", "planted:clean", "timm:vit_tinny_patch16_224", "planted:clean")
    board = vitreg.zoo(photos, out=tmp_path, models=models, ended=lambda *told: ended.append(told), **WORDS)
    assert [(row.model, done, of) for row, done, of in ended] == [(each, i + 1, 3) for i, each in enumerate(models[:3])]
    rows = {row.model: row for row in board.rows}
    assert len(rows) == 3
    assert rows["planted:high-norm"].kind == "high-norm"
    assert rows["planted:high-norm"].note.startswith("PLANTED")
    found = rows["planted:high-norm"]
    assert 0 <= found.low <= found.share <= found.high
    assert "Did you mean 'vit_tiny_patch16_224'" in rows[models[2]].failed
    assert rows["planted:clean"].share == 0
    assert rows["planted:clean"].could == "These images would have shown: above the median 1.0 % at 2.25 times."
    held = Board.model_validate_json((tmp_path / "result.json").read_text())
    assert [row.model for row in held.rows] == [row.model for row in board.rows]
    assert (tmp_path / "report.html").exists()
    assert not board.undrawn
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/result.json")]
    assert sorted(each["model"]["spec"] for each in records) == sorted(models[:2])
    assert {each["provenance"]["precision"] for each in records} == {"float32"}, "whatever the machine is fast at"
    before = list(scanned)
    vitreg.zoo(photos, out=tmp_path, models=models[:2], **WORDS)
    assert scanned == before, "finished scans are kept"


def test_one_model_is_in_memory_at_a_time(photos, tmp_path, monkeypatch):
    from vitreg.verbs.scan import verb as scans

    opened, alive = scans.opened, []

    def noted(*given, **named):
        assert [each() for each in alive] == [None] * len(alive)
        backbone = opened(*given, **named)
        backbone.itself = backbone  # a circle, as hooks make them
        alive.append(weakref.ref(backbone))
        return backbone

    monkeypatch.setattr(scans, "opened", noted)
    words = {"size": 64, "detector": "mad", "limit": 1}
    board = vitreg.zoo(photos, out=tmp_path, models=(*MODELS, "planted:low-norm"), **words)
    assert [row.failed for row in board.rows] == ["", "", ""]
    assert len(alive) == 3


def test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one(photos, tmp_path, scanned):
    def killed():
        def second(job, seen=[]):  # noqa: B006
            seen.append(job)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        vitreg.zoo(photos, out=tmp_path / "a", models=MODELS, started=second, **WORDS)

    assert end_of(killed) == -signal.SIGKILL
    assert not (tmp_path / "a" / "result.json").exists()
    gone_on = vitreg.zoo(photos, out=tmp_path / "a", models=MODELS, **WORDS)
    assert scanned == [MODELS[1]]
    whole = vitreg.zoo(photos, out=tmp_path / "b", models=MODELS, **WORDS)
    assert gone_on.rows == whole.rows
    assert gone_on.protocol == whole.protocol


def test_ctrl_c_in_a_scan_ends_the_run_and_leaves_no_row_of_it(photos, tmp_path, monkeypatch):
    from vitreg.analysis.tally import Tally

    add, calls = Tally.add, []

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return add(*given)

    words = {"out": tmp_path, "models": MODELS[:1], "size": 64, "detector": "mad", "limit": 2, "batch_size": 1}
    with monkeypatch.context() as patch:
        patch.setattr(Tally, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            vitreg.zoo(photos, **words)
    assert not list((tmp_path / "jobs").glob("*.json"))
    assert [row.protocol.seen for row in vitreg.zoo(photos, **words).rows] == [2]


def test_two_processes_share_a_run_and_each_has_the_whole_board(photos, tmp_path, scanned):
    out = tmp_path / "out"

    def other():
        from vitreg.verbs.zoo import verb as its

        scan = its.scan

        def slow(model, *given, **named):
            (tmp_path / f"begun-{model.partition(':')[2]}").touch()
            if model == MODELS[0]:
                until((tmp_path / "waited").exists)
            return scan(model, *given, **named)

        its.scan = slow
        found = vitreg.zoo(photos, out=out, models=MODELS, **WORDS)
        assert len([row for row in found.rows if not row.failed]) == 2
        assert not (tmp_path / "begun-position-locked").exists(), "done by the first"

    child = os.fork()
    if not child:
        os._exit(end_of(other))
    until((tmp_path / "begun-high-norm").exists)
    board = vitreg.zoo(photos, out=out, models=MODELS, waits=lambda job: (tmp_path / "waited").touch(), **WORDS)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert scanned == [MODELS[1]]
    assert {row.model for row in board.rows if not row.failed} == set(MODELS)


def test_records_stand_beside_and_one_of_another_schema_is_refused_alone(photos, tmp_path):
    sent, other, old = tmp_path / "sent", tmp_path / "other", tmp_path / "old"
    vitreg.scan(MODELS[0], photos, out=sent, precision="fp32", **WORDS)
    for folder, change in ((other, {"schema": "vitreg.eval/1"}), (old, {"provenance": {}})):
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(json.loads((sent / "result.json").read_text()) | change))
    board = vitreg.zoo(out=tmp_path / "board", models=[str(sent)], records=[other, old])
    good, *refused = board.rows
    assert good.origin == "record"
    assert good.rank == (1, 1)
    assert ["schema vitreg.eval/1" in refused[0].failed, "another version" in refused[1].failed] == [True, True]
    with_ours = vitreg.zoo(photos, out=tmp_path / "with", models=[MODELS[1]], records=[tmp_path], **WORDS)
    assert {(row.model, row.origin) for row in with_ours.rows if row.protocol} >= {
        ("planted:high-norm", "record"),
        (MODELS[1], "scan"),
    }
    protocols = {row.model: row.protocol for row in with_ours.rows if row.protocol}
    assert protocols[MODELS[0]] == protocols[MODELS[1]], "the same images, wherever they were seen"


def test_models_of_other_patches_are_shown_as_many(photos, tmp_path):
    board = vitreg.zoo(photos, out=tmp_path, models=MODELS[1:], patches=(4, 5), detector="mad", limit=2)
    (row,) = board.rows
    assert row.image_size == (64, 80)
    assert row.protocol.resolution == "4x5 patches"


def test_mistakes(photos, tmp_path):
    with pytest.raises(UserError, match="no model named"):
        vitreg.zoo(photos, out=tmp_path)
    with pytest.raises(UserError, match="no images named"):
        vitreg.zoo(out=tmp_path, models=MODELS)
    with pytest.raises(UserError, match=r"no group 'dinov22' in vitreg zoo. Did you mean 'dinov2'"):
        vitreg.zoo(photos, out=tmp_path, models=["@dinov22"])
    with pytest.raises(UserError, match="patches and size both"):
        vitreg.zoo(photos, out=tmp_path, models=MODELS, size=64, patches=4)
    with pytest.raises(UserError, match="holds no scan"):
        vitreg.zoo(out=tmp_path, records=[photos])
    assert not list(tmp_path.iterdir())


def test_weights_that_cannot_be_fetched_name_what_helps_on_a_board(photos, tmp_path, monkeypatch):
    """A zoo has no --weights: those belong to one model."""

    def unreachable(*_given, **_named):
        raise UserError(
            "could not fetch the weights of it; pass --weights FILE, or --random to look at untrained weights."
        )

    monkeypatch.setattr(verb, "scan", unreachable)
    board = vitreg.zoo(photos, out=tmp_path, models=("timm:vit_tiny_patch16_224",), **WORDS)
    assert board.rows[0].failed == (
        "could not fetch the weights of it; name with -m the folder of a scan made with --weights FILE, or --random to look at "
        "untrained weights."
    )
