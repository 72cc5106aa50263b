"""The shipped pair: it loads from anywhere, its card says the truth, and its own scan says high-norm and none."""

import re

import numpy as np
import pytest
import torch
from safetensors import safe_open

import vitreg
from vitreg.data.sets.synthetic.naming import named
from vitreg.data.sets.synthetic.tilings import Tilings
from vitreg.errors import UserError
from vitreg.experiments.lab.task_error import task_error
from vitreg.models.shipped import card_of, folder_of
from vitreg.specs import SHIPPED, images_for
from vitreg.verbs.doctor import doctor

BORN, TWIN = "vitreg:born", "vitreg:born-reg4"
TILES = "synthetic:retrieval"


@pytest.fixture(scope="module")
def pair():
    return {spec: vitreg.load(spec, device="cpu", precision="fp32") for spec in (BORN, TWIN)}


@pytest.fixture(scope="module")
def scans(pair):
    return {spec: vitreg.scan(model, [TILES]) for spec, model in pair.items()}


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_small_and_half_precision_and_the_card_is_of_this_model(name):
    weights = folder_of(name) / "model.safetensors"
    assert weights.stat().st_size < 1_000_000
    with safe_open(weights, "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    card = card_of(f"vitreg:{name}")
    assert (card.spec, card.made_for) == (f"vitreg:{name}", SHIPPED[name])
    assert f"--data.root {card.data} --run.seed {card.seed}" in card.command
    assert card_of(f"vitreg:{name} + test-time") == card  # also of one that is repaired
    assert card_of("planted:clean") is None


def test_both_are_of_one_seed_chosen_by_the_rule():
    born, twin = card_of(BORN), card_of(TWIN)
    assert (born.registers, twin.registers) == (0, 4)
    assert (born.seed, born.data, born.seeds, born.rule) == (twin.seed, twin.data, twin.seeds, twin.rule)
    first, *others = born.seeds
    fits = [each.seed for each in born.seeds if (each.without, each.with_registers) == ("artifacts", "none")]
    assert born.seed == (fits[0] if first.without in ("dissolved", "not solved") else first.seed)
    assert [each.seed for each in (first, *others)] == list(range(len(born.seeds)))


def test_every_record_says_that_it_was_born_and_what_it_was_made_for(pair):
    for spec, model in pair.items():
        assert model.weights_source == "shipped with vitreg"
        assert "Born by training on a synthetic task" in model.notes[0]
        assert "made for synthetic:retrieval" in model.notes[0]
        found = {each.subject: each for each in doctor(model)}["card"]
        card = card_of(spec)
        assert card.command in found.remedy
        assert str(card.seed) in found.message
        assert "artifacts" in found.message
    assert "neither planted nor natural" in pair[BORN].notes[0]


@pytest.mark.parametrize(
    ("spec", "words", "said"),
    [
        ("vitreg:bron", {}, "no shipped model 'bron'. Did you mean 'born'?"),
        ("vitreg:", {}, "names no model"),
        (BORN, {"random": True}, "vitreg: models bring their own weights"),
    ],
)
def test_wrong_names_are_one_sentence(spec, words, said):
    with pytest.raises(UserError, match=re.escape(said)):
        vitreg.load(spec, **words)


@pytest.mark.parametrize(("spec", "kind"), [(BORN, "high-norm"), (TWIN, "none")])
def test_its_own_scan_says_what_the_card_says(scans, spec, kind):
    result = scans[spec]
    card = card_of(spec)
    assert result.verdict.kind == card.scan.kind == kind
    assert result.verdict.sentence == card.scan.sentence
    assert "Born by training" in result.model.notes[0]
    if kind == "high-norm":
        tiles = Tilings(named(TILES), "train")
        share = np.mean([tiles[place].tiles.background.mean() for place in range(len(tiles))])
        assert result.verdict.outlier_fraction == pytest.approx(share, rel=0.05)  # it is the background


def test_photographs_are_scanned_and_the_record_says_that_they_are_not_its_task(pair, photographs):
    result = vitreg.scan(pair[BORN], photographs[:3])
    assert result.images.seen == 3
    assert "what is measured on other images says little of it" in result.model.notes[0]


def test_commands_after_a_scan_name_its_own_images(scans):
    from vitreg.report.scan.advice import next_steps

    steps = " ".join(next_steps(scans[BORN]))
    assert f"vitreg fix test-time {BORN} {TILES}" in steps
    assert "photos/" not in steps
    assert images_for("planted:clean") == "photos/"


def test_the_error_of_its_task_is_that_of_the_card_and_of_a_naive_loop(pair):
    for spec, model in pair.items():
        error = card_of(spec).error
        assert task_error(model) == pytest.approx(error.asked, rel=1e-3)
        assert error.asked < error.least_alone / 4  # it looks at other tiles

    model, tiles = pair[TWIN], Tilings(named(TILES), "val")
    total, count = 0.0, 0
    for place in range(0, len(tiles), 25):
        tiling = tiles[place]
        pixels = torch.from_numpy(np.asarray(tiling.image).copy()).permute(2, 0, 1)[None]
        with torch.inference_mode():
            tokens = model.anatomy.tower.forward_features((pixels.float() - 128) / 32)
            said = model.anatomy.tower.head(tokens[0, 4:])
        for tile in range(64):
            if tiling.tiles.marked[tile]:
                wanted = torch.from_numpy(tiling.tiles.asked[tile])
                total, count = total + float((said[tile] - wanted)[16:].square().mean()), count + 1
    assert task_error(model, TILES, images=4) == pytest.approx(total / count, rel=1e-4)


def test_the_task_is_asked_of_models_that_answer_it_only(pair):
    with pytest.raises(UserError, match="no head that gives 48 numbers"):
        task_error(vitreg.load("planted:clean", device="cpu"))
    with pytest.raises(UserError, match="not the task of the lab"):
        task_error(pair[BORN], "synthetic:scenes")


@pytest.mark.parametrize("spec", [BORN, TWIN])
def test_the_card_loads_it_into_timm(pair, spec):
    pytest.importorskip("timm")
    folder = folder_of(spec.partition(":")[2])
    code = card_of(spec).in_timm.replace('"model.safetensors"', repr(str(folder / "model.safetensors")))
    names: dict = {}
    exec(code, names)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = names["model"].eval().forward_features(images)
        ours = pair[spec](images)
    assert torch.allclose(tokens[:, -64:], ours.patches, atol=2e-4)


@pytest.mark.slow
def test_test_time_registers_remove_its_artifacts_and_the_task_gets_worse_but_is_still_done(pair):
    with pytest.raises(UserError, match=r"neurons of the first 2 blocks are left alone \(first_block 0"):
        vitreg.fit_repair(pair[BORN], [TILES], "test-time")
    repair = vitreg.fit_repair(pair[BORN], [TILES], "test-time", first_block=0, max_damage=0.5)
    fixed = repair.apply(pair[BORN])
    assert vitreg.scan(fixed, [TILES]).verdict.kind == "none"
    before, after = task_error(pair[BORN]), task_error(fixed)
    assert before < after < card_of(BORN).error.least_alone / 4


@pytest.mark.slow
def test_other_verbs_take_the_pair(pair, tmp_path):
    for spec, model in pair.items():
        vitreg.scan(model, [TILES], out=tmp_path / spec.partition(":")[2])
    page = tmp_path / "page.html"
    vitreg.compare([tmp_path / "born", tmp_path / "born-reg4"], out=page)
    assert BORN in page.read_text()
    assert vitreg.maps(BORN, [f"{TILES}@0:2"], out=tmp_path / "maps", what=("norm",))
    causal = vitreg.evaluate(pair[BORN], "causal", TILES, workers=0)
    moved = {row[0]: row[-1] for row in causal.tables[0].rows}
    assert moved["key hidden from patches"] == "yes"  # its sinks are needed, and what they hold is not
    assert moved["token: mean"] == moved["token: another image's"] == "no"
    with pytest.raises(UserError, match="no classes to tell apart"):
        vitreg.evaluate(pair[BORN], "tokens", TILES)
