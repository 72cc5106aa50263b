"""Several models and tasks: what is complete is kept, what changed is measured again, what fails costs only itself."""

import csv
import json
from dataclasses import dataclass

import pytest

from vitreg.errors import UserError
from vitreg.features.key import hash_of_data
from vitreg.verbs.eval.several import evaluate_all, folders_of
from vitreg.verbs.eval.task import Outcome

RAN = []


@dataclass(frozen=True, kw_only=True)
class Knn:
    """A task that counts its runs."""

    k: int = 3
    breaks_on: str = ""
    how: str = "user"

    def run(self, bench):
        RAN.append((bench.backbone.spec, "knn"))
        if self.breaks_on and self.breaks_on in bench.backbone.spec:
            raise UserError("no images.") if self.how == "user" else ZeroDivisionError("of ours")
        return Outcome(
            headline="top1", metrics={"top1": 50.0}, controls={"chance": 10.0}, counts={"test": 8}, protocol={}
        )


@dataclass(frozen=True, kw_only=True)
class Linear(Knn):
    """Another."""


MODELS = ("planted:clean", "planted:high-norm")


@pytest.fixture(autouse=True)
def _counted(planted_once):
    RAN.clear()


def run(out, tasks=(Knn(), Linear()), models=MODELS, data="", **more):
    return evaluate_all(models, tasks, data, out=out, precision="fp32", **more)


def test_every_pair_has_its_record_and_the_table_all_of_them(tmp_path):
    result = run(tmp_path)
    assert [(p.model, p.task, p.folder) for p in result.pairs] == [
        (m, t, f"{m.replace(':', '-')}/{t}") for m in MODELS for t in ("knn", "linear")
    ]
    for pair in result.pairs:
        assert json.loads((tmp_path / pair.folder / "result.json").read_text())["task"] == pair.task
        assert (tmp_path / pair.folder / "report.html").is_file()
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [(row["model"], row["task"], row["value"]) for row in rows] == [
        (p.model, p.task, "50.0") for p in result.pairs
    ]
    assert json.loads((tmp_path / "result.json").read_text())["schema"] == "vitreg.evals/1"


def test_what_is_complete_is_not_measured_again(tmp_path):
    run(tmp_path)
    RAN.clear()
    ended = []
    again = run(tmp_path, ended=ended.append)
    assert RAN == []
    assert all(pair.kept for pair in again.pairs)
    assert ended == again.pairs


def test_another_set_of_the_same_name_is_measured_anew(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "train").mkdir(parents=True)
    (data / "train" / "a.png").write_bytes(b"one")
    run(out, tasks=[Knn()], models=MODELS[:1], data=data)
    assert run(out, tasks=[Knn()], models=MODELS[:1], data=data).pairs[0].kept
    RAN.clear()
    (data / "train" / "a.png").write_bytes(b"another")
    assert not run(out, tasks=[Knn()], models=MODELS[:1], data=data).pairs[0].kept
    (data / "train" / "b.png").write_bytes(b"one more")
    run(out, tasks=[Knn()], models=MODELS[:1], data=data)
    assert len(RAN) == 2


def test_the_files_of_data_are_found_however_it_is_spelled(tmp_path):
    (tmp_path / "shards").mkdir()
    for number in range(2):
        (tmp_path / "shards" / f"{number}.tar").write_bytes(b"x" * number)
    folder = hash_of_data(str(tmp_path / "shards"))
    assert (
        folder == hash_of_data(f"voc2012:{tmp_path / 'shards'}") == hash_of_data(f"voc2012:{tmp_path / 'shards'}@val")
    )
    pattern = str(tmp_path / "shards" / "{0..1}.tar")
    before = hash_of_data(pattern)
    (tmp_path / "shards" / "1.tar").write_bytes(b"other")
    assert before != hash_of_data(pattern)
    assert folder != hash_of_data(str(tmp_path / "shards"))
    assert hash_of_data("cifar10") == hash_of_data("") == ""


@pytest.mark.parametrize(
    "change", [{"limit": 5}, {"seed": 1}, {"size": 64}, {"tasks": (Knn(k=4), Linear(k=4))}, {"precision": "bf16"}]
)
def test_other_settings_are_measured_anew(tmp_path, change):
    run(tmp_path, models=MODELS[:1])
    RAN.clear()
    evaluate_all(MODELS[:1], change.pop("tasks", (Knn(), Linear())), out=tmp_path, **{"precision": "fp32", **change})
    assert len(RAN) == 2


def test_a_changed_record_or_other_weights_are_no_result(tmp_path):
    """A run that was trained on has the same spec, and other weights."""
    run(tmp_path, tasks=[Knn()], models=MODELS[:1])
    path = tmp_path / "planted-clean" / "knn" / "result.json"
    held = json.loads(path.read_text())
    for field, value in (("weights_sha256", "0"), ("spec", "planted:other")):
        changed = {**held, "model": {**held["model"], field: value}}
        _replace(path, json.dumps(changed))
        RAN.clear()
        if field == "spec":  # the folder belongs to another model
            with pytest.raises(UserError, match="holds another result"):
                run(tmp_path, tasks=[Knn()], models=MODELS[:1])
        else:
            run(tmp_path, tasks=[Knn()], models=MODELS[:1])
            assert len(RAN) == 1
    path.write_text(json.dumps(held))  # the same, and not as vitreg wrote it
    with pytest.raises(UserError, match="changed since vitreg wrote it"):
        run(tmp_path, tasks=[Knn()], models=MODELS[:1])


def _replace(path, text):
    from vitreg.writing.files import write_text
    from vitreg.writing.ledger import note_written

    write_text(path, text)
    note_written(path.parent, [path.name], "eval")


@pytest.mark.parametrize(("how", "words"), [("user", "no images."), ("fault", "ZeroDivisionError")])
def test_a_pair_that_fails_is_named_and_the_others_run(tmp_path, how, words):
    result = run(tmp_path, tasks=(Knn(breaks_on="clean", how=how), Linear()))
    assert [bool(pair.failed) for pair in result.pairs] == [True, False, False, False]
    assert words in result.pairs[0].failed
    assert words in (tmp_path / "report.html").read_text()
    assert not (tmp_path / result.pairs[0].folder / "result.json").exists()


def test_a_model_that_does_not_load_costs_its_own_pairs(tmp_path):
    result = run(tmp_path, models=("planted:nope", *MODELS))
    assert [bool(pair.failed) for pair in result.pairs] == [True] * 2 + [False] * 4


def test_if_all_fail_there_is_no_table(tmp_path):
    with pytest.raises(UserError, match="no images"):
        run(tmp_path / "out", tasks=[Knn(breaks_on="planted")])
    assert not (tmp_path / "out" / "result.json").exists()


def test_an_interrupt_keeps_what_is_done(tmp_path):
    def stop(_pair):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ended=stop)
    assert len(RAN) == 1
    run(tmp_path)
    assert len(RAN) == 4


def test_a_model_that_is_handed_over_is_measured_each_time(tmp_path):
    from vitreg.backbones import load

    backbone = load("planted:clean", precision="fp32")
    for _ in range(2):
        evaluate_all([backbone], [Knn()], out=tmp_path)
    assert len(RAN) == 2


def test_folders_have_names_that_every_system_takes():
    assert folders_of(["timm:a/b.c", "run:runs/x"]) == ["timm-a-b.c", "run-runs-x"]
    one, two = folders_of(["run:a/b", "run:a-b"])
    assert one != two
    assert one.startswith("run-a-b-")
    (long,) = folders_of(["run:" + "x" * 300])
    assert len(long) <= 100


def test_words_that_fit_no_pair_are_refused(tmp_path):
    with pytest.raises(UserError, match="each task once"):
        run(tmp_path, tasks=[Knn(), Knn(k=4)])
    with pytest.raises(UserError, match="belong to one model"):
        run(tmp_path, weights=tmp_path / "w.pth")
    (tmp_path / "result.json").write_text('{"schema": "vitreg.scan/1"}')
    with pytest.raises(UserError, match="holds another result"):
        run(tmp_path)
