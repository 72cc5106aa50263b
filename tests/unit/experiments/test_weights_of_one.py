"""A checkpoint for the one model that is named reaches every verb, and another file is another job."""

import pytest

import vitreg
from vitreg.errors import UserError
from vitreg.experiments.setting import Setting
from vitreg.passes.jobs import Jobs

MODEL = "timm:vit_tiny_patch16_224"


def setting(jobs, weights=""):
    return Setting(jobs=jobs, models=(MODEL,), images=(), reading={}, loading={"device": "cpu"}, weights=str(weights))


def test_it_belongs_to_the_model_named_and_to_no_other(tmp_path):
    with Jobs(tmp_path) as jobs:
        given = setting(jobs, "w.pth")
        assert given.loads(MODEL) == {"device": "cpu", "weights": "w.pth"}
        assert given.loads("planted:clean") == setting(jobs).loads(MODEL) == {"device": "cpu"}


def test_another_file_is_another_job(tmp_path):
    keys, files = [], [tmp_path / name for name in ("a.pth", "b.pth")]
    for file in files:
        file.write_bytes(b"weights")
    with Jobs(tmp_path / "run") as jobs:
        for weights in ("", *files, files[0]):
            _, key = setting(jobs, weights).done("nothing", {"verb": "none"}, MODEL, lambda folder: {})
            keys.append(key)
    assert len(set(keys)) == 3
    assert keys[1] == keys[3]


@pytest.mark.parametrize("models", [(), (MODEL, "planted:clean")])
def test_it_needs_one_model(models, tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(b"weights")
    with pytest.raises(UserError, match="weights belong to"):
        vitreg.reproduce(("fig6",), out=tmp_path / "out", models=models, weights=file)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"absent\.pth"):
        vitreg.reproduce(("fig6",), out=tmp_path / "out", models=(MODEL,), weights=tmp_path / "absent.pth")
    assert not (tmp_path / "out").exists()
