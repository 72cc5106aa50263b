"""`vitreg.load`: every kind of spec, weights from files, and one sentence for every mistake. Nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from vitreg.backbones.loading.load import load
from vitreg.backbones.weights.into_module import sha256_of_weights
from vitreg.data.views.transforms import IMAGENET
from vitreg.errors import UserError
from vitreg.models.planted import KINDS, build
from vitreg.models.vit import VisionTransformer

TINY = {"image_size": 32, "patch": 8, "width": 32, "depth": 2, "heads": 2}
# A torch.hub repository of a ViT, as small as it can be: timm's class stands for the repository's own code.
HUBCONF = """
dependencies = ["torch", "timm"]

def vit_toy_reg(pretrained=True, **kwargs):
    from timm.models.vision_transformer import VisionTransformer
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0, reg_tokens=4)
"""


@pytest.fixture
def offline(monkeypatch):
    """Make every name unresolvable, as on a machine without a network."""

    def refuse(*_args, **_kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    for name in ("HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", "/nonexistent-cache")


def run_folder(folder: Path, **changes) -> VisionTransformer:
    model = VisionTransformer(**(TINY | {"registers": 3} | changes))
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps({"schema": "vitreg.run/1", "model": TINY | {"registers": 3} | changes})
    )
    save_file(model.state_dict(), folder / "model.safetensors")
    return model.eval()


def test_a_run_folder_loads_with_its_own_weights(tmp_path):
    model = run_folder(tmp_path, image_size=[16, 40])
    backbone = load(f"run:{tmp_path}", device="cpu", precision="fp32")
    images = torch.randn(2, 3, 16, 40)
    torch.testing.assert_close(backbone(images).values, model.forward_features(images))
    assert backbone.spec == f"run:{tmp_path}"
    assert backbone.weights_source == str(tmp_path / "model.safetensors")
    assert backbone.weights_sha256 == sha256_of_weights(model)
    assert backbone.preprocess.size == (16, 40)


def test_a_damaged_run_folder_gives_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"no readable config\.json"):
        load(f"run:{tmp_path}")
    for text, message in (
        ("{", "no valid JSON"),
        ("[]", "has the schema None, not 'vitreg.run/1'"),
        ('{"schema": "vitreg.run/2", "model": {}}', "has the schema 'vitreg.run/2'"),
        ('{"schema": "vitreg.run/1", "model": {"pach": 8}}', "no setting 'pach'; nearest: patch"),
        ('{"schema": "vitreg.run/1", "model": {"width": 30, "heads": 4}}', "cannot be shared by 4 heads"),
        (json.dumps({"schema": "vitreg.run/1", "model": TINY}), r"no weights file .*model\.safetensors"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=message):
            load(f"run:{tmp_path}")


def test_planted_models_load_by_kind_and_seed():
    backbone = load("planted:high-norm@3", device="cpu", precision="fp32")
    assert backbone.weights_sha256 == sha256_of_weights(build("high-norm", 3)[0])
    assert backbone.weights_source == "planted"
    assert backbone.preprocess == IMAGENET
    assert any("Planted" in note for note in backbone.notes)
    with pytest.raises(UserError, match="Did you mean 'high-norm'"):
        load("planted:high-nrom")
    for options in ({"random": True}, {"weights": "x.pth"}):
        with pytest.raises(UserError, match="planted: models bring their own weights"):
            load(f"planted:{KINDS[0]}", **options)


def test_random_weights_are_always_the_same_and_say_so():
    state, cuda = torch.get_rng_state(), torch.cuda.is_available()
    first = load("timm:vit_tiny_patch16_224", random=True, device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert not cuda or torch.cuda.initial_seed() != 0
    assert first.weights_sha256 == load("timm:vit_tiny_patch16_224", random=True, device="cpu").weights_sha256
    assert first.weights_source == "random"
    assert any("random" in note for note in first.notes)
    assert first.preprocess.size == (224, 224)
    assert not any(p.requires_grad for p in first.module.parameters())
    with pytest.raises(UserError, match="exclude each other"):
        load("timm:vit_tiny_patch16_224", random=True, weights="x.pth")


def test_the_real_deit_tiny_loads_strictly_and_classifies(test_data):
    file = test_data / "models" / "deit_tiny_patch16_224.safetensors"
    if not file.is_file():
        pytest.skip(f"no {file}")
    backbone = load("timm:deit_tiny_patch16_224", weights=file, strict=True, device="cpu", precision="fp32")
    assert backbone.weights_source == str(file)
    assert not backbone.notes
    assert next(backbone.module.parameters()).dtype == torch.float32  # the file is float16
    classes = json.loads((test_data / "photos" / "imagenet_wnid_to_index.json").read_text())
    photos = sorted((test_data / "photos").glob("*.jpg"))[::10]
    images = torch.stack([backbone.preprocess(Image.open(photo).convert("RGB")) for photo in photos])
    with torch.no_grad():
        guesses = backbone.module(images).argmax(-1).tolist()
    right = sum(guess == classes[photo.name.split("_")[0]] for guess, photo in zip(guesses, photos, strict=True))
    assert right >= 0.5 * len(photos)  # 73.6 % of photographs by its documentation


def test_a_weights_file_of_another_size_leaves_a_note(tmp_path):
    source = timm.create_model("vit_tiny_patch16_224", img_size=96, num_classes=0)
    torch.save({"model": source.state_dict()}, tmp_path / "small.pth")
    backbone = load("timm:vit_tiny_patch16_224", weights=tmp_path / "small.pth", device="cpu", image_size=(64, 96))
    assert (
        "small.pth has 1 + 6*6 positions, the model wants 1 + 14*14. Resampled; pass --strict to refuse."
        in backbone.notes
    )
    assert backbone.preprocess.size == (64, 96)
    assert backbone(torch.randn(1, 3, 64, 96)).layout.grid == (4, 6)
    with pytest.raises(UserError, match="leave out strict"):
        load("timm:vit_tiny_patch16_224", weights=tmp_path / "small.pth", strict=True, device="cpu")
    with pytest.raises(UserError, match=r"cls_token is \[1, 1, 192\] in the file and \[1, 1, 384\] in the model"):
        load("timm:vit_small_patch16_224", weights=tmp_path / "small.pth", allow_partial=True, device="cpu")


def test_a_local_hub_clone_loads_by_entry(tmp_path):
    (tmp_path / "hubconf.py").write_text(HUBCONF)
    backbone = load(f"hub:{tmp_path}:vit_toy_reg", random=True, device="cpu", precision="fp32", trust=True)
    assert len(backbone.layout((32, 32)).registers) == 4
    assert backbone(torch.randn(1, 3, 32, 32)).registers.shape == (1, 4, 32)
    with pytest.raises(UserError, match="Did you mean 'vit_toy_reg'"):
        load(f"hub:{tmp_path}:vit_toy_rge", random=True, trust=True)
    with pytest.raises(UserError, match=r"no hubconf\.py"):
        load(f"hub:{tmp_path.parent}:vit_toy_reg")
    with pytest.raises(UserError, match="names no entry"):
        load("hub:facebookresearch/dinov2")
    with pytest.raises(UserError, match="no folder /not/there"):
        load("hub:/not/there:entry")


@pytest.mark.parametrize("size", [(208, 240), (288, 288)], ids=["1 + 13*15 is 14*14", "another square"])
def test_weights_at_the_size_that_the_user_names_give_the_features_of_the_model_at_that_size(size, tmp_path):
    source = timm.create_model("vit_tiny_patch16_224", img_size=size).eval()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    images = torch.randn(1, 3, *size)
    for named in ({"image_size": size}, {"weights_size": size}):
        backbone = load(
            "timm:vit_tiny_patch16_224", weights=tmp_path / "w.pth", device="cpu", precision="fp32", strict=True,
            **named,
        )  # fmt: skip
        assert backbone.anatomy.native_size == size
        torch.testing.assert_close(backbone(images).values, source.forward_features(images), rtol=1e-4, atol=1e-4)


def test_the_image_tower_of_an_open_clip_model_loads():
    pytest.importorskip("open_clip")
    backbone = load("openclip:ViT-S-32", random=True, device="cpu", image_size=64)
    assert (backbone.anatomy.library, backbone.anatomy.patch) == ("open_clip", (32, 32))
    assert backbone.preprocess.mean == (0.48145466, 0.4578275, 0.40821073)
    assert backbone(torch.randn(1, 3, 64, 64)).values.shape == (1, 5, 384)
    with pytest.raises(UserError, match=r"openclip:convnext_tiny: .* is not a Vision Transformer"):
        load("openclip:convnext_tiny", random=True, device="cpu")
    with pytest.raises(UserError, match="Did you mean 'ViT-B-32'"):
        load("openclip:ViT-B-3", random=True)
    with pytest.raises(UserError, match="Did you mean 'openai'"):
        load("openclip:ViT-B-32@opneai")
    with pytest.raises(UserError, match="is a ResNet"):
        load("openclip:RN50", random=True)


@pytest.mark.slow
def test_a_siglip_of_open_clip_has_a_tower_of_timm():
    pytest.importorskip("open_clip")
    siglip = load("openclip:ViT-B-16-SigLIP", random=True, device="cpu").preprocess
    assert (siglip.size, siglip.resize, siglip.crop, siglip.mean) == ((224, 224), (224, 224), False, (0.5, 0.5, 0.5))


def test_a_torchvision_model_loads():
    backbone = load("torchvision:vit_b_32", random=True, device="cpu")
    assert (backbone.preprocess.size, backbone.preprocess.interpolation) == ((224, 224), "bilinear")
    with pytest.raises(UserError, match="Did you mean 'vit_b_16'"):
        load("torchvision:vit_b16")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:vit_tinny_patch16_224", "no model 'vit_tinny_patch16_224' in timm. Did you mean 'vit_tiny_patch16_224'"),
        ("timm:vit_small_patch14_dinov2.lvd142", "Did you mean 'lvd142m'"),
        ("tim:vit_tiny_patch16_224", "Did you mean 'timm:vit_tiny_patch16_224'"),
        ("vit_tiny_patch16_224", "Did you mean 'timm:vit_tiny_patch16_224'"),
        ("vit_tinny_patch16_224", "'timm:vit_tiny_patch16_224'"),
        ("ViT-B-32", "'openclip:ViT-B-32'"),
        ("vit_b_16", "'torchvision:vit_b_16'"),
        ("qqqq", "Write SOURCE:NAME"),
        ("timm:", "names no model"),
        ("timm:resnet50", "timm:resnet50: .*ResNet is not a Vision Transformer"),
        ("torchvision:resnet18", "is not a Vision Transformer"),
    ],
)
def test_a_wrong_spec_names_the_right_one(spec, message):
    with pytest.raises(UserError, match=message) as caught:
        load(spec)
    assert "\n" not in str(caught.value)


def test_the_folder_of_a_run_needs_no_source_before_it(tmp_path, monkeypatch):
    run_folder(tmp_path / "a:run")
    whole = load(f"run:{tmp_path / 'a:run'}")
    for spec in (str(tmp_path / "a:run"), f"{tmp_path}/a:run/"):
        bare = load(spec)
        assert bare.spec == f"run:{spec}"
        assert bare.weights_sha256 == whole.weights_sha256
    monkeypatch.chdir(tmp_path)
    assert load("a:run").spec == "run:a:run"


def test_a_folder_or_file_without_a_source_says_which(tmp_path):
    run_folder(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="Did you mean 'hf:"):
        load(str(tmp_path / "run"))
    with pytest.raises(UserError, match="give the file as its weights"):
        load(str(tmp_path / "run" / "model.safetensors"))


@pytest.mark.parametrize(
    "spec",
    [
        "timm:vit_tiny_patch16_224",
        "hf:nobody/nothing",
        "openclip:ViT-B-32@openai",
        "torchvision:vit_b_32",
        "hub:nobody/nothing:vit",
    ],
)
def test_without_a_network_the_remedy_is_named(spec, offline, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub._get_torch_home", lambda: str(tmp_path))
    with pytest.raises(
        UserError, match=r"could not fetch the weights of .* \(no connection to the hub\); pass weights"
    ) as caught:
        load(spec, trust=spec.startswith("hub:"))
    assert "\n" not in str(caught.value)


def test_a_module_is_never_changed(tmp_path):
    model = VisionTransformer(**TINY).train()
    before = sha256_of_weights(model)
    backbone = load(model)
    assert backbone.module is model
    assert backbone.spec == "module:VisionTransformer"
    assert backbone.dtype == torch.float32
    torch.save(VisionTransformer(**TINY).state_dict(), tmp_path / "w.pth")
    other = load(model, weights=tmp_path / "w.pth", precision="bf16", image_size=64)
    assert other.module is not model
    assert other.dtype == torch.bfloat16
    assert other.preprocess.size == (64, 64)
    assert other.weights_sha256 != before
    assert sha256_of_weights(model) == before
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(UserError, match="Linear is not a Vision Transformer"):
        load(nn.Linear(2, 2))
    with pytest.raises(UserError, match="a module comes with its own"):
        load(model, random=True)


def test_a_named_precision_is_that_of_the_weights(tmp_path):
    run_folder(tmp_path)
    half = load(f"run:{tmp_path}", precision="bf16", device="cpu")
    full = load(f"run:{tmp_path}", precision="fp32", device="cpu")
    assert (half.dtype, full.dtype) == (torch.bfloat16, torch.float32)
    assert half.weights_sha256 == full.weights_sha256  # the hash names what was loaded, not how it runs
    with pytest.raises(UserError, match="Did you mean 'bf16'"):
        load("planted:high-norm", precision="b16")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no device"):
        load("planted:high-norm", device="gpu7")
    with pytest.raises(UserError, match="height, width"):
        load("planted:high-norm", image_size=(0, 4))
