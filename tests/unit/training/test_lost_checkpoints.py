"""A run whose checkpoints were deleted or damaged keeps the weights and records that it had come to."""

import json
import shutil

import pytest
from tests.end_to_end import tiny_run

from vitreg.config import decode
from vitreg.errors import UserError
from vitreg.training import fit
from vitreg.training.settings import TrainConfig
from vitreg.verbs.train.verb import train

STEPS = 6


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings")
    changes = {"duration": f"{STEPS} steps", "save_every": "2 steps", "watch_images": 0}
    file = tiny_run.settings_file(folder / "s.json", tiny_run.pictures(folder / "data", train=8), run=changes)
    settings = json.loads(file.read_text())
    settings["run"] = tiny_run.SETTINGS["run"] | changes
    return decode(TrainConfig, settings)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    assert train(config, run).step == STEPS
    return run


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def contents(run):
    files = ("config.json", "model.safetensors", "metrics.jsonl")
    return {name: (run / name).read_bytes() for name in files}


@pytest.fixture
def killed(monkeypatch):
    """Every run dies in the step that begins after as many as said."""
    real = fit._Loop._update

    def after(steps):
        left = [steps]

        def update(self, batch):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(self, batch)

        monkeypatch.setattr(fit._Loop, "_update", update)

    return after


def damage_newest(run):
    file = run / "checkpoints" / f"step-{STEPS:08d}" / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_a_finished_run_without_checkpoints_is_not_begun_again(config, run):
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    with pytest.raises(UserError, match="was finished before, and its checkpoints are gone") as error:
        train(config, run, resume=True)
    assert f"run.start_from run:{run} and another out" in str(error.value)
    assert contents(run) == before


@pytest.mark.parametrize("step", [4, None])
def test_weights_without_checkpoints_are_never_replaced_by_initial_ones(config, run, step):
    shutil.rmtree(run / "checkpoints")
    record = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**record, "step": step}))
    before = contents(run)
    with pytest.raises(UserError, match="its checkpoints are gone"):
        train(config, run, resume=True)
    assert contents(run) == before


@pytest.mark.parametrize("lose", ["gone", "damaged"])
def test_out_over_a_run_with_nothing_to_go_on_from_does_not_advise_resume(config, run, lose):
    if lose == "gone":
        shutil.rmtree(run / "checkpoints")
    else:
        for state in run.glob("checkpoints/*/state.json"):
            state.write_text("{}")
    with pytest.raises(UserError, match="choose another out") as error:
        train(config, run)
    assert "resume" not in str(error.value)


def test_published_weights_and_records_stay_until_the_run_is_past_them_again(config, finished, run, killed):
    before = contents(run)
    damage_newest(run)
    killed(0)
    with pytest.raises(KeyboardInterrupt):
        train(config, run, resume=True)
    assert contents(run) == before
    killed(1)  # step 5 is done anew, step 6 is not
    with pytest.raises(KeyboardInterrupt):
        train(config, run, resume=True)
    assert (run / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert json.loads((run / "config.json").read_text())["step"] == STEPS
    assert tiny_run.records(run) == tiny_run.records(finished)
    killed(100)
    assert train(config, run, resume=True).step == STEPS
    tiny_run.assert_same_run(run, finished)


def test_lost_weights_are_published_again(config, run):
    damage_newest(run)
    (run / "model.safetensors").unlink()
    assert train(config, run, resume=True).step == STEPS
    assert (run / "model.safetensors").is_file()


def test_a_loss_that_is_not_finite_does_not_name_weights_of_a_later_step(config, run, monkeypatch):
    damage_newest(run)
    finite = iter([True, False])
    monkeypatch.setattr(fit._Loop, "_finite", lambda *_: next(finite))
    with pytest.raises(UserError, match="the last good checkpoint is step-00000004") as error:
        train(config, run, resume=True)
    assert "run.start_from" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_was_edited_in_a_run_without_its_list_stays_beside(config, run, name):
    (run / ".vitreg.json").unlink()  # as `cp run/*` leaves it
    edited = (run / name).read_bytes() + b"\n" * (name == "config.json")
    if name == "model.safetensors":
        edited = edited[:-1] + bytes([edited[-1] ^ 1])
    (run / name).write_bytes(edited)
    for _ in range(2):
        assert train(config, run, resume=True).step == STEPS
        assert (run / f"{name}.kept-1").read_bytes() == edited
        assert [path.name for path in run.glob("*.kept-*")] == [f"{name}.kept-1"]


def test_a_copied_run_that_nobody_edited_has_no_copies_beside(config, run):
    (run / ".vitreg.json").unlink()
    before = contents(run)
    train(config, run, resume=True)
    assert contents(run) == before
    assert not list(run.glob("*.kept-*"))


def test_a_config_edited_while_the_run_goes_on_does_not_end_it(config, tmp_path, monkeypatch):
    run, real = tmp_path / "run", fit._Loop._update

    def update(self, batch):
        if self.step == 2:
            (run / "config.json").write_text("my notes")
        return real(self, batch)

    monkeypatch.setattr(fit._Loop, "_update", update)
    assert train(config, run).step == STEPS
    assert (run / "config.json.kept-1").read_text() == "my notes"
    assert json.loads((run / "config.json").read_text())["step"] == STEPS


def test_a_link_in_the_place_of_the_weights_is_not_written_through(config, run, tmp_path):
    (run / "model.safetensors").rename(tmp_path / "mine")
    (run / "model.safetensors").symlink_to(tmp_path / "mine")
    (run / ".vitreg.json").unlink()
    before = (tmp_path / "mine").read_bytes()
    damage_newest(run)
    train(config, run, resume=True)
    assert (run / "model.safetensors.kept-1").is_symlink()
    assert (tmp_path / "mine").read_bytes() == before
