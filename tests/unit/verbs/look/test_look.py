"""A look at single photos: its numbers are those of `Trace` and of a scan, nothing is replaced, and what fails is said."""

import io
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tests.end_to_end.conftest import one_sentence

import vitreg as package
from vitreg.backbones import Capture
from vitreg.passes.view import view_of
from vitreg.records.look import LookResult
from vitreg.verbs.look import choice

PLANTED = "planted:high-norm"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A textured photo with a plain corner: the planted model has outliers on some plain patches."""
    pixels = np.random.default_rng(0).integers(0, 255, (240, 240, 3)).astype(np.uint8)
    pixels[:100, 140:] = (120, 170, 210)
    path = tmp_path_factory.mktemp("photos") / "plain.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def looked(plain):
    return package.look(plain, [PLANTED, "planted:clean"])


def test_the_norms_and_attention_are_those_of_trace(plain, looked):
    backbone = package.load(PLANTED)
    view = view_of(backbone)
    pixels = view.fit(view.pictures(Image.open(plain).convert("RGB"))[None])
    found = looked.record.photos[0].models[0]
    layout = backbone.layout(view.size)
    trace = backbone.trace(pixels, Capture(norms="all", rows=([found.attention_block], layout.cls)))
    norms = layout.take(trace.norms(found.peak), -1)[0].float().numpy().reshape(layout.grid)
    assert np.allclose(found.norms.values, norms, rtol=1e-5)
    above = norms >= found.threshold
    assert [tuple(place) for place in np.argwhere(above)] == found.patches
    assert found.share == pytest.approx(above.mean(), rel=1e-5)
    assert found.ratio == pytest.approx(np.median(norms[above]) / np.median(norms[~above]), rel=0.02)
    for block in found.blocks:
        of_block = layout.take(trace.norms(block.index), -1).float()
        assert block.max == pytest.approx(float(of_block.max()), rel=1e-5)
        assert block.median == pytest.approx(float(of_block.median()), rel=0.02)


def test_the_verdict_is_that_of_a_scan_of_the_photo(plain, looked):
    for model in looked.record.photos[0].models:
        scan = package.scan(model.model.spec, plain, power=False)
        assert model.found == (scan.verdict.kind != "none")
        assert (model.first, model.share) == (
            scan.verdict.first_layer,
            pytest.approx(scan.verdict.outlier_fraction, rel=1e-5),
        )
        assert [each.median for each in model.blocks] == [layer.median for layer in scan.layers]
        if model.found:
            assert (model.peak, model.threshold) == (scan.verdict.peak_layer, scan.layers[model.peak].threshold)


def test_the_sentence_says_how_many_how_large_where_and_from_which_block(looked):
    planted, clean = looked.record.photos[0].models
    assert planted.found
    assert not clean.found
    assert f"({len(planted.patches)} of 196)" in planted.sentence
    assert planted.place
    assert planted.place in planted.sentence
    assert f"the group is first found after block {planted.first}" in planted.sentence
    assert clean.sentence == "none of the 12 blocks shows a second group of patch norms."
    assert clean.place == ""
    assert looked.record.caution.startswith("One photo establishes nothing")


def test_nothing_is_written_without_a_place_and_the_picture_is_there(looked):
    assert looked.record.photos[0].picture is None
    shown = Image.open(io.BytesIO(looked.pictures[0]))
    assert shown.format == "PNG"
    assert looked._repr_html_().count("<img") == 1
    width, height = looked.plot().get_size_inches() * looked.plot().dpi
    assert (round(width), round(height)) == shown.size
    with pytest.raises(package.UserError, match="there is no photo 1; there are 1, counted from 0"):
        looked.plot(1)
    frame, models = looked.to_pandas(), looked.record.photos[0].models
    assert frame["share"].tolist() == [each.share for each in models]
    assert frame["patches"].tolist() == [len(each.patches) for each in models]


def test_what_is_shown_names_the_photo_what_was_left_out_and_what_one_photo_cannot_show(plain, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff is no picture")
    look = package.look([plain, broken], "planted:clean", size=64)
    page = package.explore("planted:clean", [plain, broken], size=64, blocks=[0])
    for said in (str(look), look._repr_html_(), str(page)):
        assert "plain.png" in said
        assert "broken.jpg could not be read" in said
        assert "One photo establishes nothing" in said
    assert len(repr(look)) < 1000
    assert len(repr(page)) < 1000


def test_a_repaired_model_stands_below_its_own_and_shows_the_same_block(plain, tmp_path):
    package.fit_repair(PLANTED, [plain] * 4, "clip-norm", force=True).save(tmp_path / "repair")
    own, repaired = package.look(plain, repair=tmp_path / "repair").record.photos[0].models
    assert own.model.spec == PLANTED
    assert "clip-norm" in repaired.name
    assert repaired.peak == own.peak
    assert max(map(max, repaired.norms.values)) < max(map(max, own.norms.values))


def test_a_repair_of_another_model_is_refused(plain, tmp_path):
    package.fit_repair(PLANTED, [plain] * 4, "clip-norm", force=True).save(tmp_path / "repair")
    with pytest.raises(package.UserError, match="this repair belongs to"):
        package.look(plain, "planted:clean", repair=tmp_path / "repair")


class Folder:
    """The command line in a folder, on the model of the tests."""

    def __init__(self, vitreg, monkeypatch, place):
        monkeypatch.chdir(place)
        self.vitreg, self.place = vitreg, place

    def __call__(self, *words):
        return self.vitreg("look", *words, "-m", "planted:clean", "--size", "64", "--no-show")

    @property
    def pictures(self):
        return sorted(path.name for path in self.place.iterdir())


@pytest.fixture
def folder(vitreg, monkeypatch, tmp_path):
    return Folder(vitreg, monkeypatch, tmp_path)


def test_a_picture_takes_a_free_name_beside_the_command(folder, plain):
    (folder.place / "plain-look.png").write_bytes(b"mine")
    assert folder(plain).stdout.endswith("Open plain-look-2.png\n")
    assert folder(plain).stdout.endswith("Open plain-look-3.png\n")
    assert (folder.place / "plain-look.png").read_bytes() == b"mine"
    assert folder.pictures == ["plain-look-2.png", "plain-look-3.png", "plain-look.png"]


def test_out_names_a_file_or_a_folder(folder, plain):
    assert folder(plain, "--out", "a/b.png").stdout.endswith("Open a/b.png\n")
    assert folder(plain, "--out", "c").stdout.endswith("Open c/plain-look.png\n")
    assert folder(plain, "--out", "a/b.png").stdout.endswith("Open a/b-2.png\n")


@pytest.mark.parametrize("name", ["x.jpg", "x.PDF", "a/x.html"])
def test_a_name_of_another_format_makes_no_folder(folder, plain, name):
    assert "the picture of a look is a PNG; name x.png, or a folder that is there" in one_sentence(
        folder(plain, "--out", name)
    )
    with pytest.raises(package.UserError, match=rf"^out {name}: the picture of a look is a PNG"):
        package.look(plain, "planted:clean", size=64, out=name)
    assert folder.pictures == []


def test_photos_of_one_name_are_told_apart_by_their_folders(folder, plain, tmp_path_factory):
    place = tmp_path_factory.mktemp("trips")
    for where in ("a/f", "b/f"):
        (place / where).mkdir(parents=True)
        (place / where / "1.png").write_bytes(plain.read_bytes())
    photos = [place / where / "1.png" for where in ("a/f", "b/f", "b/f")]
    found = package.look(photos, "planted:clean", size=64, out=folder.place)
    assert [each.photo for each in found.record.photos] == ["a/f/1.png", "b/f/1.png", "b/f/1.png (2)"]
    assert folder.pictures == ["1-look-2.png", "1-look-3.png", "1-look.png"]


def test_the_name_of_a_picture_is_one_that_windows_takes(folder):
    assert folder("synthetic:retrieval:1").stdout.endswith("Open synthetic-retrieval@0-train-00000-look.png\n")


def test_a_broken_photo_among_good_ones_is_named_and_the_others_are_looked_at(folder, plain, tmp_path_factory):
    broken = tmp_path_factory.mktemp("broken") / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff is no picture")
    done = folder(broken, plain, plain)
    assert done.returncode == 0
    assert f"{broken} could not be read" in done.stdout
    assert done.stdout.count("none of the 12 blocks") == 2
    assert done.stdout.count("One photo establishes nothing") == 1
    assert folder.pictures == ["plain-look-2.png", "plain-look.png"]
    assert "broken.jpg could not be read" in one_sentence(folder(broken))


def test_json_is_one_object_of_the_schema(folder, plain):
    done = folder(plain, "--json")
    record = LookResult.model_validate_json(done.stdout)
    assert json.loads(done.stdout)["schema"] == "vitreg.look/1"
    assert record.photos[0].picture == "plain-look.png"
    assert record.chosen == ""


def test_a_photo_comes_from_standard_input(folder, plain, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(plain.read_bytes())))
    assert folder("-").stdout.endswith("Open stdin-look.png\n")
    for given, why in (b"", "standard input is empty"), (b"words", "standard input could not be read"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        assert why in one_sentence(folder("-"))


def test_a_folder_is_looked_at_up_to_the_limit(folder, plain, tmp_path_factory):
    several = tmp_path_factory.mktemp("several")
    for number in range(3):
        (several / f"{number}.png").write_bytes(plain.read_bytes())
    done = folder(several, "--limit", "2")
    assert "Looked at the first 2 of 3 photos; --limit 3 looks at all of them." in done.stdout
    assert folder.pictures == ["0-look.png", "1-look.png"]


def test_a_model_without_class_token_or_readable_attention_shows_the_rest(plain):
    timm = pytest.importorskip("timm")
    settings = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    torch.manual_seed(0)
    without = timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg", reg_tokens=3, **settings)
    with_cls = timm.create_model("vit_tiny_patch16_224", **settings)
    found = package.look(plain, [without, with_cls]).record.photos[0].models
    assert found[0].missing == {"cls": "this model has no class token"}
    assert found[1].missing == {"registers": "this model has no registers"}
    by_hand = timm.create_model("vit_tiny_patch16_224", **settings)
    for block in by_hand.blocks:
        block.attn.forward = lambda x, *_, layer=block.attn, **__: layer.proj(layer.qkv(x)[..., : x.shape[-1]])
    unread = package.look(plain, by_hand).record.photos[0].models[0]
    assert unread.attention_block is None
    assert "cannot be read" in unread.missing["cls"]
    assert unread.blocks[-1].median > 0


def test_weights_that_give_no_numbers_are_one_sentence(plain):
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    model.blocks[1].mlp.fc2.weight.data.fill_(torch.nan)
    with pytest.raises(package.UserError, match="NaN or infinite"):
        package.look(plain, model)


def test_without_a_model_the_planted_pair_is_called_planted(plain, monkeypatch):
    monkeypatch.setattr(choice, "in_the_hub_cache", lambda: None)
    monkeypatch.setattr(choice, "in_torch_hub", lambda: None)
    record = package.look(plain, size=64).record
    assert [each.model.spec for each in record.photos[0].models] == ["planted:high-norm", "planted:clean"]
    assert "PLANTED" in record.chosen
    assert "PLANTED" in record.photos[0].models[0].name


@pytest.mark.parametrize(
    ("repository", "files", "spec"),
    [
        ("timm/vit_base_patch14_dinov2.lvd142m", {"model.safetensors"}, "timm:vit_base_patch14_dinov2.lvd142m"),
        ("facebook/dinov2-base", {"model.safetensors", "config.json"}, "hf:facebook/dinov2-base"),
        ("facebook/dinov2-base", {"model.safetensors"}, None),  # transformers needs the configuration too
        ("timm/resnet50.a1_in1k", {"model.safetensors"}, None),
    ],
)
def test_a_known_model_in_the_cache_of_the_hub_is_found(repository, files, spec):
    if spec is not None and spec.startswith("hf:"):
        pytest.importorskip("transformers")
    found = choice.in_the_hub_cache(lambda place, file: file if place == repository and file in files else None)
    assert (found and found.spec) == spec


def test_a_known_checkpoint_of_torch_hub_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert choice.in_torch_hub() is None
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    file = tmp_path / "hub" / "checkpoints" / "dinov2_vitb14_pretrain.pth"
    file.touch()
    assert choice.in_torch_hub().weights == file


def test_a_shipped_model_says_what_it_was_made_for(plain):
    found = package.look(plain, "vitreg:born").record
    assert "made for synthetic:retrieval" in found.photos[0].models[0].sentence
    [twin] = package.look("synthetic:retrieval:1", "vitreg:born-reg4").record.photos[0].models
    assert "vitreg doctor vitreg:born-reg4. None of the 4 blocks shows" in twin.sentence


def test_a_model_that_nobody_trained_says_so_before(plain):
    pytest.importorskip("timm")
    found = package.look(plain, "timm:vit_tiny_patch16_224", random=True, size=64).record.photos[0].models[0]
    assert re.match(r"These weights are random: the model was not trained\. ([A-Z]|\d)", found.sentence)
