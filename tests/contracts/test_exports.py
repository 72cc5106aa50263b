"""Models of every library, repaired or not, are exported: what another program loads answers as the model does here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from planted_shapes import SHAPES
from test_repairs import CASES, PREPARED, fitted, planted_model
from torch import Tensor, nn

import vitreg
from vitreg.backbones import Backbone
from vitreg.cli import run as command
from vitreg.errors import UserError
from vitreg.repair.repair import Repair
from vitreg.repair.settings import METHODS
from vitreg.verbs.export.verb import export

pytestmark = pytest.mark.usefixtures("planted_once")
IN_WEIGHTS = ("position-rows", "singular", "distill")
TRACED = ("ours", "timm", "torchvision")  # exported with every repair; the others are tried
QUICK = {("timm", "test-time")}
SEVERAL = [n if n == "position-rows" else pytest.param(n, marks=pytest.mark.slow) for n in IN_WEIGHTS]


@pytest.fixture(scope="module")
def images(photographs: list[Path]) -> Tensor:
    from PIL import Image

    return torch.stack([PREPARED(Image.open(path).convert("RGB")) for path in photographs[9:12]])


def shaped(name: str, shape: str) -> nn.Module:
    model = planted_model(name)[0]
    return model if shape == "ours" else SHAPES[shape](model)


def repaired(name: str, shape: str, photographs: list[Path]) -> tuple[Backbone, Repair]:
    return fitted(name, photographs, shaped(name, shape))


def near(found: Tensor | np.ndarray, wanted: Tensor) -> None:
    found = torch.as_tensor(found)
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= 1e-4 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("shape", ["ours", "timm"])
def test_timm_alone_opens_a_model_repaired_in_its_weights(name, shape, photographs, images, tmp_path):
    backbone, repair = repaired(name, shape, photographs)
    fixed = repair.apply(backbone)
    export(fixed, "timm", tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.inference_mode():
        near(model.forward_features(images), fixed(images).values)
        near(model(images), fixed.module(images))
    assert (model.num_reg_tokens == 2) == (name == "distill")
    about = json.loads((tmp_path / "out" / "vitreg.json").read_text())
    assert about["registers"] == list(fixed.layout((112, 112)).registers)
    assert float((fixed(images).patches - backbone(images).patches).abs().max()) > 1e-3  # or nothing was repaired


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("shape", ["ours", "transformers dinov2"])
def test_transformers_alone_opens_a_model_repaired_in_its_weights(name, shape, photographs, images, tmp_path):
    from transformers import AutoModel

    backbone, repair = repaired(name, shape, photographs)
    fixed = repair.apply(backbone)
    export(fixed, "transformers", tmp_path / "out")
    model, info = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert ("WithRegisters" in type(model).__name__) == (name == "distill")
    with torch.inference_mode():
        near(model.eval()(images).last_hidden_state, fixed(images).values)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        (shape, name) if (shape, name) in QUICK else pytest.param(shape, name, marks=pytest.mark.slow)
        for shape in TRACED
        for name in (None, *METHODS)
        if (shape, name) != ("torchvision", "border")
    ],
)  # torchvision's own modules take one size only, and the border makes images larger: below
def test_onnx_gives_the_tokens_and_answers_of_every_repaired_model(shape, name, photographs, images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if name is None:
        fixed = plain = Backbone(shaped("test-time", shape), preprocess=PREPARED)
    else:
        plain, repair = repaired(name, shape, photographs)
        fixed = repair.apply(plain)
        assert float((fixed(images).patches - plain(images).patches).abs().max()) > 1e-3
    result = export(fixed, "onnx", tmp_path / "model.onnx")
    assert result.difference is not None
    assert result.difference <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    outputs = [each.name for each in session.get_outputs()]
    for some in (images[:1], images):
        found = dict(zip(outputs, session.run(None, {"images": some.numpy()}), strict=True))
        near(found["tokens"], fixed(some).values)
        if len(outputs) > 1:
            with torch.inference_mode():
                near(found[outputs[-1]], fixed.module(some))
    about = json.loads(session.get_modelmeta().custom_metadata_map["vitreg"])
    layout = fixed.layout((112, 112))
    assert about["registers"] == list(layout.registers)
    places = range(*about["patches"]) if "patches" in about else about["patch_index"]
    assert [*places] == layout.patch_index.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "name"),
    [(s, n) for s in SHAPES if s not in TRACED for n in (None, "test-time", "attention-bias", "substitute", "prefix")]
    + [("torchvision", "border")],
)
def test_onnx_of_other_libraries_is_equal_or_refused_with_a_reason(shape, name, photographs, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if name is None:
        fixed = Backbone(shaped("test-time", shape), preprocess=PREPARED)
    else:
        plain, repair = repaired(name, shape, photographs)
        fixed = repair.apply(plain)
    refused = None
    try:
        result = export(fixed, "onnx", tmp_path / "model.onnx")
    except UserError as error:
        refused = str(error)
    if refused is None:
        assert result.difference is not None
        assert result.difference <= 1e-4
        return
    assert refused.startswith(("torch ", "onnxruntime ", "loaded back with onnxruntime"))
    assert "\n" not in refused
    assert name is not None, refused  # without a repair all of them can be exported
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["ours", "timm", "torchvision"])
def test_onnx_of_a_repaired_model_at_another_size(shape, photographs, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    plain, repair = repaired("substitute", shape, photographs)
    fixed = repair.apply(plain)
    export(fixed, "onnx", tmp_path / "model.onnx", size=(128, 160))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    pixels = torch.randn(3, 3, 128, 160, generator=torch.Generator().manual_seed(1))
    near(session.run(["tokens"], {"images": pixels.numpy()})[0], fixed(pixels).values)


def test_a_model_and_its_repair_are_named_on_the_command_line(photographs, tmp_path, capsys):
    repair = vitreg.fit_repair("planted:position-locked@3", photographs[-12:], "position-rows", device="cpu")
    repair.save(tmp_path / "fixed")
    for number, words in enumerate(
        (["planted:position-locked@3", "--repair", str(tmp_path / "fixed")], [f"fixed:{tmp_path / 'fixed'}"])
    ):
        out = tmp_path / f"{number}.safetensors"
        assert command(["export", *words, "--format", "safetensors", "--out", str(out)]) == 0
        assert "differ from the model's by at most" in capsys.readouterr().out
        from safetensors.torch import load_file

        table = load_file(out)["pos_embed"]
        assert torch.equal(table, repair.tensors["pos_embed"])


def test_a_module_in_half_precision_is_exported_in_full_and_left_alone(tmp_path):
    model = timm.create_model("test_vit", pretrained=False, num_classes=7).eval().bfloat16()
    export(model, "timm", tmp_path / "out")
    again: Any = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert next(again.parameters()).dtype == torch.float32
    assert all(torch.equal(a, b.float()) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert next(model.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "build",
    [
        {"model_name": "test_vit4", "num_classes": 0, "img_size": 64, "dynamic_img_size": True},
        {"model_name": "vit_tiny_patch16_224", "embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": (64, 96),
         "reg_tokens": 3, "no_embed_class": True, "global_pool": "avg"},
        {"model_name": "vit_tiny_patch16_224", "depth": 2, "in_chans": 1, "img_size": 32, "qkv_bias": True},
        pytest.param({"model_name": "beit_base_patch16_224", "num_classes": 5, "img_size": 64}, marks=pytest.mark.slow),
        {"model_name": "deit_tiny_distilled_patch16_224", "num_classes": 3},
    ],
    ids=["own size", "registers", "one channel", "beit", "distilled"],
)  # fmt: skip
def test_timm_builds_its_models_again(build, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(pretrained=False, **build).eval()
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.02 * torch.randn(each.shape))
    export(model, "timm", tmp_path / "out")
    again: Any = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    pixels = torch.randn(2, build.get("in_chans", 3), *Backbone(model).anatomy.native_size)
    with torch.inference_mode():
        near(again(pixels), model(pixels))


def test_what_a_format_cannot_hold_is_refused_in_a_sentence(photographs, tmp_path):
    plain, repair = repaired("test-time", "timm", photographs)
    fixed = repair.apply(plain)
    for to in ("timm", "safetensors"):
        with pytest.raises(UserError, match=r"test-time changes .* while it runs, .*; export it to onnx"):
            export(fixed, to, tmp_path / f"out{'.safetensors' * (to != 'timm')}")
    with pytest.raises(UserError, match="is a model of timm, and transformers has none of this form"):
        export(plain, "hf", tmp_path / "out")
    with pytest.raises(UserError, match="is a model of transformers, and timm has none of this form"):
        export(shaped("test-time", "transformers vit"), "timm", tmp_path / "out")
    vit, distilled = repaired("distill", "transformers vit", photographs)
    with pytest.raises(UserError, match="transformers has none for a ViTModel; export it to onnx"):
        export(distilled.apply(vit), "hf", tmp_path / "out")
    small = timm.create_model("beit_base_patch16_224", pretrained=False, embed_dim=96, depth=1, num_heads=4).eval()
    with pytest.raises(UserError, match=r"timm does not build .* again from its entry beit_base_patch16_224"):
        export(small, "timm", tmp_path / "out")
    with pytest.raises(UserError, match="no parameter for the registers of its repair"):
        export(distilled.apply(vit), "safetensors", tmp_path / "out.safetensors")
    with pytest.raises(UserError, match=r"no format 'onxx'\. Did you mean 'onnx'"):
        export(plain, "onxx", tmp_path / "out.onnx")
    with pytest.raises(UserError, match=r"no keyword 'device' in vitreg\.export"):
        export("planted:clean", "timm", tmp_path / "out", device="cpu")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="move it away"):
        export(plain, "timm", tmp_path)
    assert CASES.keys() == set(METHODS)
