"""Zero-shot classification and retrieval with open_clip's towers and with those of a run, against open_clip itself."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import towers_of_colours as colours
from safetensors.torch import save_file

from vitreg.backbones import Backbone, Edit, load
from vitreg.backbones.reweighted import reweighted
from vitreg.data.sets.sides import open_test
from vitreg.errors import UserError
from vitreg.passes.bench import Bench
from vitreg.passes.clip.towers import open_towers, text_classifier
from vitreg.probes.zeroshot import ranks_of
from vitreg.verbs.eval.tasks.retrieval import Retrieval, _in_order
from vitreg.verbs.eval.tasks.zeroshot import ZeroShot

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")

NAME = "tiny-of-vitreg-tests"
SPEC = f"openclip:{NAME}"
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
WORDS = ["red", "green", "blue", "white"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return colours.pictures(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    return colours.clip_run(root, tmp_path_factory.mktemp("clip") / "run", steps=60, register_positions=True)


@pytest.fixture(scope="module", autouse=True)
def tiny_architecture(tmp_path_factory):
    """An architecture that open_clip knows by name, as all others, and builds in no time."""
    file = tmp_path_factory.mktemp("architectures") / f"{NAME}.json"
    file.write_text(json.dumps(TINY))
    open_clip.add_model_config(file)


@pytest.fixture(scope="module")
def theirs(tiny_architecture):
    """The weights of `theirs` as a file, another model than the untrained one of `load`."""
    torch.manual_seed(5)
    return open_clip.create_model(NAME).eval()


@pytest.fixture(scope="module")
def weights(theirs, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "open_clip.safetensors"
    save_file({name: value.contiguous() for name, value in theirs.state_dict().items()}, file)
    return file


@pytest.fixture(scope="module")
def backbone(weights):
    return load(SPEC, weights=weights, device="cpu", precision="fp32")


def bench(backbone, data, **settings):
    return Bench(backbone=backbone, data=str(data), features=Path("/nowhere"), workers=0, **settings)


def of_run(folder):
    return load(f"run:{folder}", device="cpu", precision="fp32")


def test_the_classifier_is_that_of_open_clip(theirs, backbone):
    towers = open_towers(backbone)
    tokenizer = open_clip.get_tokenizer(NAME)
    for which, templates in (
        ("openai", open_clip.OPENAI_IMAGENET_TEMPLATES),
        ("simple", open_clip.SIMPLE_IMAGENET_TEMPLATES),
    ):
        expected = open_clip.build_zero_shot_classifier(theirs, tokenizer, WORDS[:2], templates)
        torch.testing.assert_close(text_classifier(towers, WORDS[:2], which), expected.T, atol=1e-5, rtol=1e-4)


def test_what_the_image_tower_returns_is_placed_among_the_sentences(backbone, run):
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for model in (backbone, of_run(run)):
        towers = open_towers(model)
        with torch.inference_mode():
            placed = F.normalize(towers.place(model.module(pixels)), dim=-1)
        torch.testing.assert_close(placed, towers.encode_images(pixels))


def test_a_repaired_tower_embeds_the_images_and_the_model_goes_on_as_it_was(theirs, backbone, run):
    """The same change by a hook of the library's own module, by an edit, and by other weights."""
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, texts = open_towers(backbone).encode_images(pixels), open_towers(backbone).encode_texts(WORDS)
    shift = torch.linspace(-1, 1, 32)
    edited = backbone.edited([Edit("block", 0, lambda hidden, place: hidden + shift)], "shifted")
    name = "transformer.resblocks.0.mlp.c_proj.bias"
    bias = dict(backbone.anatomy.tower.named_parameters())[name]
    other = reweighted(backbone, {name: bias + shift}, "other bias")
    hook = theirs.visual.transformer.resblocks[0].register_forward_hook(lambda _module, _given, found: found + shift)
    with torch.inference_mode():
        expected = theirs.encode_image(pixels, normalize=True)
    hook.remove()
    assert (expected - plain).abs().max() > 0.01
    for changed in (edited, other):
        towers = open_towers(changed)
        torch.testing.assert_close(towers.encode_images(pixels), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(towers.encode_texts(WORDS), texts)
    torch.testing.assert_close(open_towers(backbone).encode_images(pixels), plain)
    ours = of_run(run)
    zeroed = ours.edited([Edit("block", -1, lambda hidden, place: 0 * hidden)], "zeroed")
    assert (
        open_towers(zeroed).encode_images(pixels)[0] - open_towers(ours).encode_images(pixels)[0]
    ).abs().max() > 0.01
    assert (open_towers(zeroed).encode_images(pixels).std(0) < 1e-6).all()


def test_images_are_encoded_and_counted_as_by_open_clip(theirs, backbone, root):
    outcome = ZeroShot(templates="simple").run(bench(backbone, root / "classes"))
    preprocess = open_clip.image_transform(32, is_train=False)
    data, _ = open_test(str(root / "classes"))
    examples = [data.read(index) for index in range(len(data))]
    tokenizer = open_clip.get_tokenizer(NAME)
    with torch.inference_mode():
        features = theirs.encode_image(torch.stack([preprocess(e.image) for e in examples]), normalize=True)
        assert data.classes is not None
        classifier = open_clip.build_zero_shot_classifier(
            theirs, tokenizer, data.classes, open_clip.SIMPLE_IMAGENET_TEMPLATES
        )
    logits = 100 * features @ classifier
    truth = torch.tensor([e.target for e in examples])
    assert outcome.metrics["top1"] == pytest.approx(100 * (logits.argmax(1) == truth).float().mean().item())
    assert outcome.counts == {"test": 8}
    assert outcome.protocol["resize"] == 32
    assert outcome.controls["chance"] == 25
    towers = open_towers(backbone)
    pixels = torch.stack([bench(backbone, "").view(resize_ratio=1.0).pictures(e.image) for e in examples])
    torch.testing.assert_close(100 * towers.encode_images(pixels) @ classifier, logits, atol=1e-3, rtol=1e-4)
    assert int((ranks_of(logits, truth) == 0).sum()) == round(outcome.metrics["top1"] / 100 * 8)


def test_a_trained_clip_beats_its_controls(run, root):
    outcome = ZeroShot().run(bench(of_run(run), root / "classes"))
    assert outcome.metrics["top1"] > max(outcome.controls.values())
    assert outcome.metrics["top1"] >= 75  # four plain colours
    assert outcome.protocol["sentences_per_class"] == 80
    table = outcome.tables[0]
    assert [row[0] for row in table.rows] == sorted(colours.COLOURS)
    assert sum(row[2] * row[3] for row in table.rows) / 8 == pytest.approx(outcome.metrics["top1"])


def test_wrong_names_make_a_trained_clip_wrong(run, root, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("blue\tgreen\ngreen\tred\nred\twhite\nwhite\tblue\n")
    wrong = ZeroShot(names=file).run(bench(of_run(run), root / "classes"))
    assert wrong.metrics["top1"] < ZeroShot().run(bench(of_run(run), root / "classes")).metrics["top1"]
    assert wrong.protocol["names"] == "names.txt"


def test_a_trained_clip_retrieves_its_captions(run, root):
    outcome = Retrieval().run(bench(of_run(run), root / "captions.json"))
    assert outcome.counts == {"images": 8, "captions": 16}
    assert outcome.metrics["mean_recall"] > max(outcome.controls.values())
    assert outcome.controls["chance"] == pytest.approx(
        (12.5 + 62.5 + 100 + 100 * (1 - 14 / 16) + 100 * (1 - 11 * 10 / (16 * 15)) + 100 * (1 - 6 * 5 / (16 * 15))) / 6
    )
    assert Retrieval(captions_per_image=1).run(bench(of_run(run), root / "captions.json")).counts["captions"] == 8


def test_features_of_a_run_are_those_of_its_recipe(run, root):
    backbone = of_run(run)
    towers = open_towers(backbone)
    images = torch.randn(
        3, 3, 48, 32, generator=torch.Generator().manual_seed(0)
    )  # another size than it was trained at
    tokens = (
        backbone(images).hidden if hasattr(backbone(images), "hidden") else backbone.module.forward_features(images)
    )
    expected = F.normalize(tokens[:, 0] @ towers.model.get_parameter("projection"), dim=-1)
    torch.testing.assert_close(towers.encode_images(images), expected, atol=1e-5, rtol=1e-4)
    assert towers.encode_texts(
        ["red", "a much longer text than the context of this model can ever hold"] * 3
    ).shape == (6, 16)


def test_models_without_text_tower_are_refused(root, run, tmp_path):
    with pytest.raises(UserError, match="no text tower; name an openclip"):
        ZeroShot().run(bench(load("timm:vit_tiny_patch16_224", random=True, device="cpu"), root / "classes"))
    supervised = colours.clip_run(root, tmp_path / "supervised", steps=1, kind="supervised")
    with pytest.raises(UserError, match="trained as supervised, without captions"):
        Retrieval().run(bench(of_run(supervised), root / "captions.json"))
    mixed = shutil.copytree(run, tmp_path / "mixed")
    save_file(load_other(run), mixed / "model.safetensors")
    with pytest.raises(UserError, match="not that of its newest checkpoint"):
        open_towers(of_run(mixed))


def load_other(run):
    state = {name: value.clone() for name, value in of_run(run).module.state_dict().items()}
    state["norm.weight"] += 1
    return state


def test_a_file_of_the_image_tower_alone_is_refused(theirs, tmp_path):
    file = tmp_path / "image_tower.safetensors"
    save_file({f"visual.{k}": v.contiguous() for k, v in theirs.visual.state_dict().items()}, file)
    backbone = load(SPEC, weights=file, device="cpu", precision="fp32")
    with pytest.raises(UserError, match="does not hold both towers"):
        open_towers(backbone)


def test_other_weights_than_were_loaded_are_refused(backbone):
    other = Backbone(
        backbone.module, preprocess=backbone.preprocess, spec=SPEC, weights_source="random", weights_sha256="0" * 16
    )
    with pytest.raises(UserError, match="another image tower"):
        open_towers(other)


def test_what_cannot_be_told_apart_is_refused(run, root, tmp_path):
    with pytest.raises(UserError, match="no classes of which each image has one"):
        ZeroShot().run(bench(of_run(run), root / "classes" / "test" / "red"))
    with pytest.raises(UserError, match="leave out size"):
        ZeroShot().run(bench(load(SPEC, random=True, device="cpu"), root / "classes", size=(64, 64)))
    one = tmp_path / "one.json"
    rows = json.loads((root / "captions.json").read_text())[:1]
    one.write_text(json.dumps([{"image": str(root / row["image"]), "captions": row["captions"]} for row in rows]))
    with pytest.raises(UserError, match="one image only"):
        Retrieval().run(bench(of_run(run), one))
    with pytest.raises(UserError, match="no captions"):
        Retrieval().run(bench(of_run(run), root / "classes"))


def test_flickr8k_of_an_untrained_model_is_near_chance(test_data):
    backbone = load(SPEC, random=True, device="cpu", precision="fp32")
    outcome = Retrieval().run(bench(backbone, test_data / "flickr8k" / "captions.json", limit=100))
    assert outcome.counts == {"images": 100, "captions": 500}
    assert abs(outcome.metrics["mean_recall"] - outcome.controls["chance"]) < 5


def test_half_precision_changes_little(weights, backbone):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    exact = open_towers(backbone)
    half = open_towers(load(SPEC, weights=weights, device="cpu", precision="bf16"))
    texts = ["a photo of a cat", "the sea"]
    for one, other in (
        (exact.encode_images(images), half.encode_images(images)),
        (exact.encode_texts(texts), half.encode_texts(texts)),
    ):
        assert other.dtype == torch.float32
        assert (one * other).sum(-1).min() > 0.999


def test_what_processes_embedded_is_joined_in_one_numbering():
    images, texts = torch.eye(5), torch.eye(5)[[0, 0, 1, 2, 3, 3, 4]]
    owners = [0, 0, 1, 2, 3, 3, 4]
    parts = []
    for rank in range(2):
        places = list(range(rank, 5, 2))
        rows = [row for row, owner in enumerate(owners) if owner % 2 == rank]
        parts.append((places, images[places], texts[rows], [owners[row] for row in rows], {}))
    joined, captions, image_of = _in_order([*parts, ([], torch.empty(0), torch.empty(0), [], {})])
    assert torch.equal(joined[image_of], captions)
