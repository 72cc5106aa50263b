"""How models and sets are named on the command line: -m SPEC in every verb, years in full, older spellings with a notice."""

import pytest
from tests.end_to_end.conftest import one_sentence

from vitreg.cli import OF_MODELS
from vitreg.cli.command import models_of, take_models
from vitreg.cli.verbs import train as train_words
from vitreg.errors import UserError


@pytest.mark.parametrize(
    ("words", "models", "left"),
    [
        ("-m a -m b photos --size 32", ["a", "b"], ["photos", "--size", "32"]),
        ("photos -m=a --model b,c", ["a", "b,c"], ["photos"]),  # a comma belongs to a name that -m gives
        ("a,b photos", ["a", "b"], ["photos"]),
        ("-m a,b photos", ["a,b"], ["photos"]),
    ],
)
def test_several_models_are_named_one_by_one_or_with_commas(words, models, left):
    spec, *rest = take_models(words.split(), "maps", several=True)
    assert (models_of(spec), rest) == (models, left)


def test_one_model_stands_first_or_behind_m():
    assert take_models(["photos", "-m", "a"], "scan", several=False) == ["a", "photos"]
    assert take_models(["a", "photos"], "scan", several=False) == ["a", "photos"]
    with pytest.raises(UserError, match="takes one model, not 2"):
        take_models(["-m", "a", "-m", "b", "photos"], "scan", several=False)


@pytest.mark.parametrize("verb", sorted(OF_MODELS))
def test_every_verb_with_a_model_takes_it_by_m(vitreg, verb):
    words = {
        "doctor": [], "export": ["--to", "timm", "--out", "mine"], "eval": ["knn", "photos"], "fix": ["test-time", "photos"],
    }.get(verb, ["photos"])  # fmt: skip
    assert "no source 'tim:' of models. Did you mean 'timm:x'?" in one_sentence(vitreg(verb, *words, "-m", "tim:x"))


def test_an_older_spelling_of_a_set_works_on_with_one_notice(vitreg, tmp_path):
    words = ("planted:clean", "segmentation", f"voc:{tmp_path}", "--out", str(tmp_path / "out"))
    first, *rest = vitreg("eval", *words).stderr.splitlines()
    assert first == f"vitreg: voc:{tmp_path} is written voc2012:{tmp_path} now; the old spelling still works."
    assert len(rest) == 1
    assert "ImageSets/Segmentation/train.txt" in rest[0]  # it looked for the set
    today = vitreg("eval", *("voc2012" + word[3:] if word.startswith("voc:") else word for word in words))
    assert today.stderr.splitlines() == rest


def test_train_takes_the_flags_that_every_verb_has(vitreg, tmp_path, monkeypatch):
    taken = {}
    monkeypatch.setattr(train_words, "_run", lambda config, *_, **__: taken.update(config=config) or 0)
    words = ("--device", "cpu", "--precision=fp32", "--workers", "2", "--limit", "7", "--out", str(tmp_path / "run"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").touch()
    assert vitreg("train", "deit3-smoke", "--data.root", str(tmp_path / "data"), *words).returncode == 0
    run, data = taken["config"].run, taken["config"].data
    assert (run.device, run.precision, data.workers, data.limit) == ("cpu", "fp32", 2, 7)
