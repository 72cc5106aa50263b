"""Models are trained once for all experiments, by the hash of their configuration, and go on after a kill."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import vitreg
from vitreg.config import encode
from vitreg.errors import UserError
from vitreg.experiments.known import EXPERIMENTS
from vitreg.experiments.options import ReproduceOptions
from vitreg.experiments.setting import Setting
from vitreg.experiments.subjects import models_of, runs
from vitreg.experiments.trained.model import Trained
from vitreg.passes.jobs import Jobs

pytestmark = pytest.mark.usefixtures("few_resamples", "blank_figures", "tiny_scale")
SCENES = "synthetic:scenes@1:32"
MODEL = Trained(recipe="deit3", registers=0)


def setting(folder, **words):
    how = {"models": (), "images": (), "train": SCENES, "captions": SCENES, "reading": {}, "loading": {}}
    return Setting(jobs=Jobs(folder), **how | words)


def test_a_training_is_named_by_its_configuration(tmp_path):
    held = setting(tmp_path)
    key = held.training(MODEL)[0].key
    assert held.training(MODEL)[0].key == key
    others = [
        MODEL.with_seed(1),
        Trained(recipe="deit3", registers=4),
        Trained(recipe="deit3", registers=0, size="small"),
    ]
    others += [
        Trained(recipe="deit3", registers=4, slots=True),
        Trained(recipe="deit3", registers=4, decorrelation=1.0),
    ]
    keys = {held.training(each)[0].key for each in others} | {key}
    assert len(keys) == 6
    assert setting(tmp_path, train="synthetic:scenes@2:32").training(MODEL)[0].key not in keys
    assert setting(tmp_path, loading={"device": "cpu"}).training(MODEL)[0].key == key  # where is no part of what


def test_a_stopped_training_goes_on_from_its_checkpoint_to_the_same_weights(tmp_path, monkeypatch):
    """Stopped after two of six steps, and killed before the first checkpoint of another: the same bits as in one go."""
    from vitreg.verbs.train import verb

    whole = setting(tmp_path / "whole").trained(MODEL)[0]
    held, (job, _), train, seen = (
        setting(tmp_path / "cut"),
        setting(tmp_path / "cut").training(MODEL),
        verb.train,
        [],
    )

    def stopped(config, out, **words):
        seen.append(words["resume"])
        monkeypatch.setattr(
            "vitreg.training.fit.agree", lambda stop, finite: (2, finite) if len(seen) == 1 else (0, finite)
        )
        return train(config, out, **words)

    monkeypatch.setattr(verb, "train", stopped)
    folder = held.jobs.files(job)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"train": encode(held.config(MODEL))}))
    (folder / "metrics.jsonl").write_text("a killed run's")
    with pytest.raises(KeyboardInterrupt):
        held.trained(MODEL)
    assert held.jobs.row(job) is None
    assert any((folder / "checkpoints").iterdir())
    again = held.trained(MODEL)[0]
    assert seen == [False, True]
    one, other = (load_file(f"{spec.removeprefix('run:')}/model.safetensors") for spec in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert held.trained(MODEL)[0] == again  # its row is there
    assert seen == [False, True]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three experiments that share models."""
    tmp_path = tmp_path_factory.mktemp("trained")
    begun, words = (
        [],
        {
            "out": tmp_path,
            "train": SCENES,
            "captions": SCENES,
            "images": ("synthetic:scenes@0:8",),
            "limit": 8,
            "processes": 1,
        },
    )
    words |= dict.fromkeys(("classes", "masks", "depths", "boxes"), "synthetic:scenes@0:16")
    found = vitreg.reproduce(("fig4b", "table2b", "future"), started=lambda job: begun.append(job.name), **words)
    return SimpleNamespace(words=words, found=found, begun=begun, out=tmp_path)


def test_experiments_share_models_and_scans(run):
    trainings = [name for name in run.begun if name.startswith("training")]
    assert len(trainings) == len(set(trainings)) == 6
    assert run.begun.index("scan of trained:dinov2-reg0@0") > max(map(run.begun.index, trainings))
    names = {each.id: [found.subject for found in each.measured] for each in run.found.experiments}
    assert names["future"] == [
        "trained:dinov2-reg4@0",
        "trained:dinov2-reg4-decorrelated@0",
        "trained:dinov2-reg4-slots@0",
    ]
    assert not [found.failed for each in run.found.experiments for found in each.measured if found.failed]
    assert all("synthetic" in found.note for each in run.found.experiments for found in each.measured)
    assert not run.found.undrawn
    vitreg.reproduce(("fig4b", "table2b", "future"), started=lambda job: pytest.fail(job.name), **run.words)


def test_nothing_is_claimed_from_one_seed_and_the_record_says_how_it_was_trained(run):
    record = json.loads((run.out / "result.json").read_text())
    by_id = {each["id"]: each for each in record["experiments"]}
    (claim,) = by_id["table2b"]["claims"]
    assert (claim["outcome"], claim["reason"][:6]) == ("not testable here", "1 seed")
    assert by_id["future"]["measured"][2]["trained"]["slots"]
    assert (run.out / "figures" / "fig4b-0.png").exists()
    again = vitreg.reproduce((), out=run.out, only="claims")
    assert [each.claims for each in again.experiments] == [each.claims for each in run.found.experiments]


def test_models_of_the_users_are_asked_in_place_of_trained_ones(tmp_path, photographs):
    """Without a name, experiments of trained models alone are left out; with one they run."""
    words = {
        "models": ("planted:clean",),
        "images": (str(photographs[0]),),
        "limit": 1,
        "size": 64,
        "classes": "synthetic:scenes@0:8",
    }
    found = vitreg.reproduce(("table2b", "fig7"), out=tmp_path, **words)
    assert [each.subject for record in found.experiments for each in record.measured] == ["planted:clean"] * 2
    (failed,) = found.experiments[1].measured
    assert "has no text tower" in failed.failed
    held = ReproduceOptions(models=("planted:clean",))
    assert models_of(EXPERIMENTS["fig8"], held)
    assert not runs(EXPERIMENTS["fig8"], held, named=False)
    assert not models_of(EXPERIMENTS["table2a"], held)


def test_a_scale_without_its_data_says_which_and_the_others_run(tmp_path, monkeypatch):
    found = vitreg.reproduce(("fig3", "fig4b", "fig12", "table2b"), out=tmp_path, scale="paper")
    by_id = {each.id: each for each in found.experiments}
    assert {each.failed for each in by_id["fig3"].measured} == {"It needs images; name them with --images."}
    assert "--images" in by_id["fig4b"].measured[0].failed
    assert "--classes" in by_id["table2b"].measured[0].failed
    assert by_id["fig12"].claims[0].outcome == "held"
    alone = setting(tmp_path, train="")
    with pytest.raises(UserError, match="name DATA with train"):
        alone.trained(MODEL)
    monkeypatch.delitem(EXPERIMENTS, "fig12")  # as if another version had written the record
    with pytest.raises(UserError, match="fig12"):
        vitreg.reproduce((), out=tmp_path, only="claims")
