"""Whatever is handed over as a model: it is looked into, or one sentence says what it is and what to give."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from tests.apart import apart
from torch import nn

import vitreg
from vitreg.backbones.backbone import Backbone
from vitreg.backbones.loading.load import load
from vitreg.backbones.loading.preprocessing import preprocess_of
from vitreg.backbones.trace import Capture
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.testing import check_backbone
from vitreg.verbs.doctor import doctor
from vitreg.verbs.maps.verb import maps
from vitreg.verbs.scan.verb import scan


def vit(channels: int = 3) -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=64, embed_dim=48, depth=2, num_heads=3, in_chans=channels
    ).eval()


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))


def traced() -> nn.Module:
    return torch.jit.trace(vit(), torch.randn(1, 3, 64, 64), check_trace=False)


def without_values() -> nn.Module:
    with torch.device("meta"):
        return timm.create_model("vit_tiny_patch16_224")


def half_without_values() -> nn.Module:
    model = vit()
    model.blocks[1].to("meta")
    return model


NO_MODELS = {
    "scripted": (scripted, "a TorchScript module does not show its blocks"),
    "traced": (traced, "a TorchScript module does not show its blocks"),
    "meta": (without_values, "holds no values: .* meta device"),
    "half meta": (half_without_values, "holds no values: 12 of its tensors are on the meta device"),
    "path of nothing": (lambda: Path("/not/there"), "does not say where the model comes from"),
    "state dict": (lambda: vit().state_dict(), "this is a state dict"),
    "dict": (lambda: {"model": "timm:vit"}, "a dict is no model; give a spec"),
    "class": (lambda: VisionTransformer, "VisionTransformer is a class, not a model"),
    "None": (lambda: None, "None is no model; give a spec"),
    "list": (lambda: [vit()], "a list is no model"),
    "function": (lambda: vit, "a function is no model"),
    "empty dict": (dict, "a dict is no model"),
    "number": (lambda: 3, "an int is no model"),
    "bytes": (lambda: b"", "a bytes is no model"),
    "tensor": (lambda: torch.zeros(3), "a Tensor is no model"),
    "another network": (lambda: nn.Linear(2, 2), "not a Vision Transformer known here"),
}


@pytest.mark.parametrize("kind", NO_MODELS)
def test_what_is_no_model_gets_one_sentence_from_every_verb(kind, tmp_path):
    make, sentence = NO_MODELS[kind]
    images = torch.randn(2, 3, 64, 64)
    calls = [load, doctor, lambda model: scan(model, images, out=tmp_path / "scan")]
    calls.append(lambda model: maps([model], images))
    if kind != "list":  # several models
        calls.append(lambda model: maps(model, images))
    for call in calls:
        with pytest.raises(UserError, match=sentence) as caught:
            call(make())
        assert "\n" not in str(caught.value)


def test_a_path_of_a_folder_names_its_source(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"Did you mean 'hf:{tmp_path}'"):
        load(tmp_path)


def compiled_in_place() -> nn.Module:
    model = vit()
    model.compile(backend="eager")
    return model


def compiled_blocks() -> nn.Module:
    model = vit()
    for i, block in enumerate(model.blocks):
        model.blocks[i] = torch.compile(block, backend="eager")
    return model


WRAPPED = {
    "compiled": lambda: torch.compile(vit(), backend="eager"),
    "compiled in place": compiled_in_place,
    "compiled blocks": compiled_blocks,
    "data parallel": lambda: nn.DataParallel(vit()),
    "compiled data parallel": lambda: torch.compile(nn.DataParallel(vit()), backend="eager"),
    "data parallel of compiled": lambda: nn.DataParallel(torch.compile(vit(), backend="eager")),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrapped_modules_work_as_what_they_wrap(kind):
    apart(lambda: works_as_what_it_wraps(kind))


def works_as_what_it_wraps(kind):
    torch.manual_seed(0)
    wrapped = WRAPPED[kind]()
    torch.manual_seed(0)
    plain = vit()
    images = torch.randn(2, 3, 64, 64)
    capture = Capture(hidden="all", rows=([-1], [0]))
    for options in ({}, {"precision": "fp32"}, {"device": "cpu"}):
        backbone = load(wrapped, **options)
        trace, expected = backbone.trace(images, capture), Backbone(plain).trace(images, capture)
        torch.testing.assert_close(trace.hidden(-1), expected.hidden(-1))
        torch.testing.assert_close(trace.attention(-1, [0]), expected.attention(-1, [0]))
        torch.testing.assert_close(backbone(images).values, Backbone(plain)(images).values)
    assert next(f.message for f in doctor(wrapped)) == doctor(plain)[0].message


def test_doctor_takes_what_scan_and_maps_take(tmp_path):
    model = vit()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    spec = "timm:vit_tiny_patch16_224"
    subjects = [finding.subject for finding in vitreg.doctor(model)]
    assert [f.subject for f in doctor(Backbone(model))] == subjects
    untrained = doctor(spec, random=True, device="cpu", precision="fp32")
    assert [f.subject for f in untrained] == ["untrained weights", *subjects]
    assert [f.subject for f in doctor(copy.deepcopy(model), weights=tmp_path / "w.pth")] == subjects
    with pytest.raises(UserError, match="a loaded backbone keeps its weights"):
        doctor(Backbone(model), weights=tmp_path / "w.pth")


@pytest.mark.usefixtures("few_resamples", "blank_figures")
@pytest.mark.parametrize("channels", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 12))])
def test_models_of_other_channels_are_looked_into_with_tensors_of_theirs(channels, tmp_path):
    model = vit(channels)
    images = torch.randn(6, channels, 64, 64)
    assert check_backbone(Backbone(model))["attention"] == "held"
    result = scan(model, images, out=tmp_path / "scan")
    assert result.images.seen == 6
    assert (tmp_path / "scan" / "report.html").is_file()
    assert maps(model, images[:2], out=tmp_path / "maps").paths
    trace = load(model).trace(images, Capture(rows=([-1], [0])))
    assert trace.attention(-1, [0]).shape == (6, 3, 1, 17)
    assert doctor(model)


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_photographs_for_a_model_of_other_channels_are_one_sentence(channels, photographs):
    model = vit(channels)
    sentence = f"takes {channels}-channel images and photographs have 3; pass your own tensor \\[n, {channels}, H, W\\]"
    for call in (
        lambda: scan(model, photographs[:2]),
        lambda: maps(model, photographs[:2]),
        lambda: load(model).prepared((64, 64)),
        lambda: scan(Backbone(model), photographs[:2]),
    ):
        with pytest.raises(UserError, match=sentence):
            call()
    for call in (lambda: scan(model, torch.randn(2, 3, 64, 64)), lambda: load(model)(torch.randn(1, 3, 64, 64))):
        if channels != 3:
            with pytest.raises(UserError, match=f"{channels}, "):
                call()


def test_a_model_of_transformers_with_other_channels_loads_from_its_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    transformers.ViTModel(transformers.ViTConfig(**sizes, num_channels=4)).save_pretrained(tmp_path)
    backbone = load(f"hf:{tmp_path}", device="cpu", precision="fp32")
    assert backbone(torch.randn(1, 4, 32, 32)).values.shape == (1, 17, 32)
    with pytest.raises(UserError, match="takes 4-channel images"):
        backbone.prepared()
    assert preprocess_of(backbone.module).reason.endswith("in Python.")


def test_a_model_of_zeros_or_nan_is_refused_before_its_maps_are_drawn(tmp_path):
    for value in (0.0, float("nan")):
        model = vit()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)
        with pytest.raises(UserError, match="no maps of module:VisionTransformer"):
            maps(model, torch.randn(1, 3, 64, 64), out=tmp_path)
    assert not any(tmp_path.iterdir())
