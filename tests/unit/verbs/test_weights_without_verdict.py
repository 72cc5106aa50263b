"""Weights that nobody trained, or that are no numbers: it is said first, and there is no verdict on the latter."""

import json

import pytest
import timm
import torch
from PIL import Image

from vitreg import doctor, load, maps, scan
from vitreg.errors import UserError
from vitreg.verbs.discover.verb import discover
from vitreg.verbs.eval.tasks.position import Position
from vitreg.verbs.eval.verb import evaluate
from vitreg.verbs.extract.verb import extract_features

pytestmark = pytest.mark.usefixtures("few_resamples")

TINY = "timm:vit_tiny_patch16_224"
IMAGES = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A file without blocks 3 and 7, and without the bias of block 1's first norm."""
    state = timm.create_model("vit_tiny_patch16_224").state_dict()
    gone = ("blocks.3.", "blocks.7.", "norm.weight")
    path = tmp_path_factory.mktemp("weights") / "short.pth"
    torch.save({key: value for key, value in state.items() if not key.startswith(gone)}, path)
    return path


def test_a_model_with_random_blocks_is_said_to_be_one_before_anything_else(short):
    backbone = load(TINY, weights=short, allow_partial=True, device="cpu", precision="fp32")
    said = "2 of 12 blocks (3, 7) and 1 other tensor (norm.weight) are not, or not wholly, in short.pth"
    assert backbone.untrained.startswith(said)
    assert backbone.notes[0] == backbone.untrained
    first = doctor(backbone)[0]
    assert (first.level, first.message) == ("problem", backbone.untrained)
    result = scan(backbone, IMAGES)
    assert result.verdict.sentence.startswith(said)
    assert result.model.notes[0] == backbone.untrained
    assert maps(backbone, IMAGES, what="norm").notes[0].endswith(backbone.untrained)


def test_a_whole_file_leaves_nothing_to_be_said(tmp_path):
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "w.pth")
    backbone = load(TINY, weights=tmp_path / "w.pth", device="cpu", precision="fp32")
    assert not backbone.untrained
    assert not [finding for finding in doctor(backbone) if finding.subject == "untrained weights"]


def test_random_weights_are_said_to_be_random_before_the_verdict():
    backbone = load(TINY, random=True, device="cpu", precision="fp32")
    assert scan(backbone, IMAGES).verdict.sentence.startswith("These weights are random")
    assert next(f.subject for f in doctor(backbone) if f.level == "warning") == "untrained weights"


def nan(state):
    state["blocks.5.attn.qkv.weight"][3, 4] = float("nan")


def infinite(state):
    state["norm.bias"][7] = float("inf")
    state["blocks.0.norm1.weight"][:2] = float("-inf")


def all_zero(state):
    for value in state.values():
        value.zero_()


def no_patches(state):
    state["patch_embed.proj.weight"].zero_()


BROKEN = {
    nan: "blocks.5.attn.qkv.weight holds 1 value that is NaN or infinite: ",
    infinite: "blocks.0.norm1.weight holds 2 values that are NaN or infinite, and so does 1 other tensor",
    all_zero: "all 49 weight matrices are zero",
    no_patches: "patch_embed.proj.weight is zero",
}


@pytest.mark.parametrize(("spoil", "said"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", None))
def test_weights_that_are_no_numbers_or_zero_get_no_verdict(spoil, said, tmp_path):
    state = timm.create_model("vit_tiny_patch16_224").state_dict()
    spoil(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no verdict on") as caught:
        scan(TINY, IMAGES, weights=tmp_path / "w.pth", out=tmp_path / "out", device="cpu")
    assert said in str(caught.value)
    found = [f for f in doctor(load(TINY, weights=tmp_path / "w.pth", device="cpu")) if f.level == "problem"]
    assert said in found[0].message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spoil", [nan, all_zero])
@pytest.mark.parametrize(
    ("verb", "said"),
    [
        (lambda model, photos, out: discover(model, photos, out=out), "no boxes of"),
        (lambda model, photos, out: extract_features(model, photos, out=out), "no features of"),
        (lambda model, photos, out: evaluate(model, Position(), photos, out=out), "no evaluation of"),
    ],
    ids=["discover", "extract", "eval"],
)
def test_no_verb_works_with_weights_that_are_no_numbers(spoil, verb, said, tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", depth=6)
    state = model.state_dict()
    spoil(state)
    model.load_state_dict(state)
    for number in range(3):
        Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / f"{number}.png")
    with pytest.raises(UserError, match=f"{said} .*(NaN|zero)"):
        verb(model, tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.*"))


def test_a_head_that_is_zero_and_one_dead_branch_do_not_stop_a_scan(tmp_path):
    state = timm.create_model("vit_tiny_patch16_224").state_dict()
    for name in ("head.weight", "head.bias", "blocks.2.mlp.fc2.weight"):
        state[name].zero_()
    torch.save(state, tmp_path / "w.pth")
    result = scan(TINY, IMAGES, weights=tmp_path / "w.pth", device="cpu")
    warned = [finding.message for finding in result.lint if finding.subject == "weight values"]
    assert len(warned) == 1
    assert warned[0].startswith("blocks.2.mlp.fc2.weight is zero throughout")


def test_a_table_that_is_no_square_loads_exactly_at_the_size_it_was_trained_at(tmp_path):
    source = timm.create_model("vit_tiny_patch16_224", img_size=(160, 320)).eval()
    torch.save(source.state_dict(), tmp_path / "wide.pth")
    with pytest.raises(UserError, match=r"wide\.pth has 201 positions, which is no square grid.*size HEIGHTxWIDTH"):
        load(TINY, weights=tmp_path / "wide.pth", device="cpu", precision="fp32")
    images = torch.randn(2, 3, 160, 320)
    expected = source.forward_features(images)
    for size in ({"image_size": (160, 320)}, {"weights_size": (160, 320)}):
        backbone = load(TINY, weights=tmp_path / "wide.pth", device="cpu", precision="fp32", strict=True, **size)
        torch.testing.assert_close(backbone(images).values, expected, rtol=1e-5, atol=1e-5)
    # and where no size is asked for that explains it, it is no more than said
    with pytest.raises(UserError, match="no square grid"):
        load(TINY, weights=tmp_path / "wide.pth", image_size=(160, 304), device="cpu")


@pytest.mark.usefixtures("undrawn")
def test_the_size_of_a_scan_explains_the_table_of_its_weights(tmp_path):
    from vitreg import ScanOptions

    source = timm.create_model("vit_tiny_patch16_224", img_size=(160, 320), num_classes=0)
    torch.save(source.state_dict(), tmp_path / "wide.pth")
    from PIL import Image

    for i in range(2):
        Image.effect_noise((320, 160), 60 + i).convert("RGB").save(tmp_path / f"{i}.png")
    out = tmp_path / "out"
    scan(TINY, [tmp_path / "0.png", tmp_path / "1.png"], weights=tmp_path / "wide.pth", out=out, device="cpu",
         options=ScanOptions(size=(160, 320)))  # fmt: skip
    assert json.loads((out / "result.json").read_text())["model"]["grid"] == [10, 20]


def test_a_square_table_is_still_a_square_whatever_size_is_asked_for(tmp_path):
    source = timm.create_model("vit_tiny_patch16_224", img_size=224, num_classes=0)
    torch.save(source.state_dict(), tmp_path / "square.pth")
    backbone = load(TINY, weights=tmp_path / "square.pth", image_size=(112, 448), device="cpu", precision="fp32")
    assert backbone.anatomy.native_size == (224, 224)  # 7 x 28 patches are 196 as well
