"""The picture experiments on planted models: claims hold where something was planted, and fail on the clean twin."""

import shutil

import numpy as np
import pytest

import vitreg
from vitreg.experiments.known import EXPERIMENTS
from vitreg.experiments.maps.seen import read, views
from vitreg.experiments.pictures.fig09 import APART, _moved, _whole
from vitreg.models import planted

pytestmark = pytest.mark.usefixtures("planted_once", "few_resamples", "blank_figures")
IDS = ("fig1", "fig2", "fig6", "fig9", "fig13", "fig14", "fig15", "fig16")
MODELS = ("planted:high-norm", "planted:global", "planted:global-registers", "planted:clean")
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def run(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("pictures") / "out"
    words = {
        "out": out,
        "models": MODELS,
        "images": tuple(map(str, photographs)),
        "limit": 16,
        "boxes": "synthetic:scenes@0:60",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitreg.verbs.scan.verb._draw", lambda _outputs, result, *_seen: result)
        patch.setattr("vitreg.experiments.pictures.fig13.IMAGES", 8)
        patch.setattr("vitreg.experiments.maps.objects.IMAGES", 6)
        return vitreg.reproduce(IDS, **words), words


def outcome(found, id, claim, subject):
    (each,) = [each for each in found.experiments if each.id == id]
    return next(made.outcome for made in each.claims if (made.id, made.subject) == (claim, f"planted:{subject}"))


HELD = [
    ("fig2", "outliers-attended", "high-norm"), ("fig6", "no-position", "global-registers"), ("fig6", "dropped", "global-registers"),
    ("fig9", "unlike-class-token", "global-registers"), ("fig13", "scores-marked", "high-norm"),
    ("fig14", "fewer-peaks", "global-registers"), ("fig15", "component-marks", "high-norm"),
    ("fig15", "smoother-features", "global-registers"), ("fig16", "same-patches", "high-norm"),
]  # fmt: skip


@pytest.mark.parametrize("claim", HELD, ids="-".join)
def test_claims_hold_where_it_was_planted(run, claim):
    assert outcome(run[0], *claim) == "held"


def test_four_copies_of_one_register_are_not_taken_for_different_ones(run):
    assert outcome(run[0], "fig9", "registers-differ", "global-registers") == "not held"
    assert outcome(run[0], "fig9", "objects-attended", "global-registers") == "not held"


def test_boxes_that_cannot_be_had_take_one_claim_alone(run, tmp_path):
    _, words = run
    words = {**words, "out": shutil.copytree(words["out"], tmp_path / "copy")}
    (words["out"] / "result.json").unlink()  # its scans stay
    found = vitreg.reproduce(
        ("fig9",), **{**words, "models": ("planted:global-registers",), "boxes": "voc2007:nowhere"}
    )
    (record,) = found.experiments
    assert "no folder 'nowhere'" in record.measured[0].note
    assert [claim.outcome for claim in record.claims] == ["not held", "held", "not testable here"]


def test_nothing_holds_on_the_clean_twin(run):
    clean = [claim for each in run[0].experiments for claim in each.claims if claim.subject == "planted:clean"]
    assert len(clean) == 13
    assert {claim.outcome for claim in clean} <= {"not held", "not testable here"}


def test_a_job_of_each_model_serves_all_figures_and_they_are_drawn_again_without_one(run, monkeypatch):
    found, words = run
    names = [path.name for path in (words["out"] / "figures").iterdir()]
    assert sorted(name for name in names if name.endswith("png")) == [
        "fig1.png", "fig13.png", "fig14.png", "fig15.png", "fig16.png", "fig2.png", "fig6-2.png", "fig9-2.png",
    ]  # fmt: skip
    assert not found.undrawn
    (words["out"] / "figures" / "fig13.png").unlink()
    for verb in ("scan.verb.scan", "maps.verb.maps", "discover.verb.discover"):
        monkeypatch.setattr(f"vitreg.verbs.{verb}", None)
    again = vitreg.reproduce((), out=words["out"], only="figures")
    assert (words["out"] / "figures" / "fig13.png").exists()
    assert not again.undrawn


def test_maps_are_those_of_the_verb(run, photographs):
    """Of the same photographs, asked for one by one."""
    found, words = run
    folder = words["out"] / "runs" / found.experiments[0].measured[0].jobs["maps"]
    seen = read(folder)
    alone = vitreg.maps(
        "planted:high-norm", [photographs[3]], what=("attention", "norm", "pca"), precision="fp32"
    ).maps[0]
    np.testing.assert_allclose(seen.attention["CLS"][3], alone.attention["CLS"][0], rtol=1e-4)
    np.testing.assert_allclose(seen.last[3], alone.norm[0], rtol=1e-4)
    assert len(views(folder)) == len(seen.names) == 16


def test_the_outliers_of_a_map_are_the_planted_ones(run):
    import torch
    from PIL import Image

    found, words = run
    folder = words["out"] / "runs" / found.experiments[0].measured[0].jobs["maps"]
    from vitreg.records import ScanResult

    scanned = ScanResult.model_validate_json(
        (words["out"] / "runs" / found.experiments[0].measured[0].jobs["scan"] / "result.json").read_bytes()
    )
    prepared = vitreg.load("planted:high-norm").prepared()
    pictures = np.stack([np.asarray(Image.open(path)) for path in views(folder)])
    images = prepared.normalise(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    truth = planted.build("high-norm")[1].outliers(images).reshape(-1, 14, 14).numpy()
    assert (read(folder).outliers(scanned) == truth).mean() > 0.998  # pictures were rounded to bytes


def test_registers_that_were_never_trained_do_not_count_as_different(photographs):
    """The clean twin with registers: what random weights make of them."""
    made = vitreg.maps(
        planted.clean(registers=4),
        [str(each) for each in photographs[:6]],
        what=("registers",),
        precision="fp32",
    ).maps[0]
    first, second = (_whole(made.attention[f"register {n}"]) for n in (1, 2))
    assert 0.01 < _moved(first, second).mean() < APART


@SLOW
def test_on_all_photographs_the_clean_twin_is_told_to_hold_nothing(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("vitreg.verbs.scan.verb._draw", lambda _outputs, result, *_seen: result)
    found = vitreg.reproduce(
        ("fig2", "fig13", "fig15", "fig16"),
        out=tmp_path,
        models=("planted:clean",),
        images=tuple(map(str, photographs)),
    )
    about_outliers = ("outliers-attended", "scores-marked", "component-marks", "same-patches")
    claims = [claim for each in found.experiments for claim in each.claims if claim.id in about_outliers]
    assert {claim.outcome for claim in claims} == {"not held"}


def test_every_picture_has_a_claim():
    assert all(EXPERIMENTS[each].claims is not None and EXPERIMENTS[each].published for each in IDS)
