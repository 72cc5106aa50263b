"""Exports answer as the run does, in their own library, and never take the place of anything else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitreg.backbones import load
from vitreg.cli import run as command
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.specs import EXPORTS
from vitreg.verbs.export import verb
from vitreg.verbs.export.timm import preprocessing
from vitreg.verbs.export.verb import export

SHAPE = {"image_size": 64, "patch": 16, "width": 48, "depth": 2, "heads": 3, "registers": 4, "layer_scale": 0.1}
IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def a_run(folder: Path, *, preprocess: Preprocess | None = None, **changes) -> VisionTransformer:
    """A folder as training leaves it, with noise in every parameter."""
    arguments = {**SHAPE, **changes}
    network = VisionTransformer(**arguments).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            matrix = parameter.ndim >= 2 and parameter.shape[0] != 1
            std = parameter[0].numel() ** -0.5 if matrix else 0.3
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    folder.mkdir()
    config = {"schema": "vitreg.run/1", "model": {**arguments, "register_positions": False, "mask_token": False}}
    if preprocess is not None:
        names = ("size", "resize", "mean", "std", "interpolation", "crop", "aspect")
        config["preprocess"] = {name: getattr(preprocess, name) for name in names}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(network.published_state(), folder / "model.safetensors")
    return network


@torch.inference_mode()
def truth(network: VisionTransformer) -> tuple[Tensor, Tensor]:
    return network.forward_features(IMAGES), network(IMAGES)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"registers": 0, "layer_scale": None},
        {"num_classes": 7},
        {"num_classes": 7, "pool": "mean"},
        {"mlp": "swiglu", "registers": 1},
        {"mlp": "swiglu", "layer_scale": None},
        {"pre_norm": True, "norm_eps": 1e-5},
        {"register_positions": True, "mask_token": True},
        {"mlp_ratio": 2.6},
        {"image_size": (64, 96)},
        {"cls_token": False},
    ],
    ids=str,
)
def test_timm_opens_the_folder_strictly_and_answers_the_same(tmp_path, changes):
    network = a_run(tmp_path / "run", **changes)
    result = export(tmp_path / "run", "timm", tmp_path / "out")
    assert result.difference is not None
    assert result.difference <= 1e-4
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.randn(2, 3, *network.image_size)
    with torch.inference_mode():
        close(model.forward_features(images), network.forward_features(images))
        close(model(images), network(images))
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert model.load_state_dict(state, strict=True)
    assert ("reg_token" in state) == bool(network.num_registers)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"registers": 0},
        {"registers": 0, "layer_scale": None, "num_classes": 7},
        {"layer_scale": None},
        {"mlp": "swiglu"},
        {"num_classes": 7},
        {"register_positions": True, "norm_eps": 1e-5},
    ],
    ids=str,
)
def test_transformers_opens_the_folder_and_answers_the_same(tmp_path, changes):
    import transformers

    network = a_run(tmp_path / "run", **changes)
    result = export(tmp_path / "run", "hf", tmp_path / "out")
    assert result.difference is not None
    assert result.difference <= 1e-4
    tokens, logits = truth(network)
    model = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    assert type(model).__name__ == ("Dinov2WithRegistersModel" if network.num_registers else "Dinov2Model")
    with torch.inference_mode():
        close(model(IMAGES).last_hidden_state, tokens)
        if isinstance(network.head, nn.Linear):
            model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
            close(model(IMAGES).logits, logits)
    close(load(f"hf:{tmp_path / 'out'}", device="cpu", precision="fp32")(IMAGES).values, tokens)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"num_classes": 7, "pool": "mean"}, {"register_depth": 1, "mlp": "swiglu"}])
def test_onnx_takes_any_number_of_images_of_one_size(tmp_path, changes):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = a_run(tmp_path / "run", **changes)
    result = export(tmp_path / "run", "onnx", tmp_path / "vit.onnx")
    assert result.difference is not None
    assert result.difference <= 1e-4
    assert [path.name for path in tmp_path.iterdir() if "onnx" in path.name] == ["vit.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "vit.onnx"))
    assert [output.name for output in session.get_outputs()][:2] == ["tokens", "pooled"]
    for images in (IMAGES, IMAGES[:1]):
        found = session.run(None, {"images": images.numpy()})
        with torch.inference_mode():
            tokens = network.forward_features(images)
        close(torch.from_numpy(found[0]), tokens)
        close(torch.from_numpy(found[1]), network.pooled(tokens))
        if "num_classes" in changes:
            close(torch.from_numpy(found[2]), network.classify(tokens))


@pytest.mark.slow
def test_onnx_of_another_size_has_the_positions_of_that_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = a_run(tmp_path / "run")
    export(tmp_path / "run", "onnx", tmp_path / "vit.onnx", size=(96, 32))
    images = torch.randn(2, 3, 96, 32)
    session = onnxruntime.InferenceSession(str(tmp_path / "vit.onnx"))
    with torch.inference_mode():
        close(torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), network.forward_features(images))
    about = json.loads(session.get_modelmeta().custom_metadata_map["vitreg"])
    assert (about["grid"], about["registers"], about["patches"]) == ([6, 2], [1, 2, 3, 4], [5, 17])
    assert about["preprocess"]["size"] == [96, 32]
    with pytest.raises(UserError, match="do not divide into patches of 16x16"):
        export(tmp_path / "run", "onnx", tmp_path / "vit.onnx", size=(90, 32))


@pytest.mark.slow
def test_large_onnx_weights_lie_beside_and_are_found_there(tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr("vitreg.verbs.export.onnx.LARGEST", 1000)
    network = a_run(tmp_path / "run", width=192)
    export(tmp_path / "run", "onnx", tmp_path / "vit.onnx")
    assert (tmp_path / "vit.onnx.data").stat().st_size > 1e6
    session = onnxruntime.InferenceSession(str(tmp_path / "vit.onnx"))
    close(torch.from_numpy(session.run(None, {"images": IMAGES.numpy()})[0]), truth(network)[0])


def test_onnx_without_its_packages(tmp_path, monkeypatch):
    a_run(tmp_path / "run")
    monkeypatch.setattr("vitreg.verbs.export.onnx.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(UserError, match=r"onnxscript; install 'vitreg\[export\]'"):
        export(tmp_path / "run", "onnx", tmp_path / "vit.onnx")
    assert not (tmp_path / "vit.onnx").exists()


@pytest.mark.slow
def test_onnx_is_checked_for_form_where_it_cannot_be_run(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    a_run(tmp_path / "run")
    monkeypatch.setattr("vitreg.verbs.export.onnx.find_spec", lambda name: None if name == "onnxruntime" else name)
    result = export(tmp_path / "run", "onnx", tmp_path / "vit.onnx")
    assert result.difference is None
    assert "onnxruntime is not installed" in result.notes[0]


def test_safetensors_have_the_names_of_timm(tmp_path):
    network = a_run(tmp_path / "run", register_positions=True)
    export(tmp_path / "run", "safetensors", tmp_path / "vit.safetensors")
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, embed_dim=48, depth=2, num_heads=3, reg_tokens=4, no_embed_class=True,
        init_values=1e-5, num_classes=0,
    ).eval()  # fmt: skip
    model.load_state_dict(load_file(tmp_path / "vit.safetensors"), strict=True)
    with torch.inference_mode():
        close(model.forward_features(IMAGES), truth(network)[0])


@pytest.mark.parametrize(
    ("to", "changes", "reason"),
    [
        ("hf", {"pre_norm": True}, "norm before the first block"),
        ("hf", {"pool": "mean"}, "mean patch"),
        ("hf", {"register_depth": 1}, "after the first block"),
        ("hf", {"register_attention": "slots"}, "compete for keys as slots"),
        ("hf", {"mlp_ratio": 2.5}, "MLP ratio of 2.5"),
        ("hf", {"image_size": (64, 96)}, "not square"),
        ("timm", {"register_depth": 1}, "after the first block"),
        ("timm", {"register_attention": "slots"}, "compete for keys as slots"),
        ("timm", {"norm_eps": 1e-4}, "eps 0.0001"),
        ("timm", {"norm_eps": 1e-5, "mlp": "swiglu"}, "swiglu"),
    ],
)
def test_what_a_format_cannot_express_is_said_and_nothing_is_written(tmp_path, to, changes, reason):
    a_run(tmp_path / "run", **changes)
    with pytest.raises(UserError, match=reason):
        export(tmp_path / "run", to, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(("to", "name"), [("timm", "out"), ("safetensors", "out.safetensors")])
def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path, to, name):
    a_run(tmp_path / "run")
    a_run(tmp_path / "other", registers=2)
    out = tmp_path / name
    weights = out / "model.safetensors" if to == "timm" else out
    export(tmp_path / "run", to, out)
    export(tmp_path / "other", to, out)
    assert load_file(weights)["reg_token"].shape[1] == 2
    if to == "timm":
        (out / "mine.txt").write_text("mine")
    else:
        save_file({"mine": torch.ones(1)}, out)
    before = weights.read_bytes()
    with pytest.raises(UserError, match="move it away"):
        export(tmp_path / "run", to, out)
    assert weights.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == sorted(["run", "other", name])


def test_a_run_is_never_overwritten(tmp_path):
    a_run(tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    for to, out in (("timm", "run"), ("safetensors", "run/model.safetensors")):
        with pytest.raises(UserError, match="move it away"):
            export(tmp_path / "run", to, tmp_path / out)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_an_export_that_answers_otherwise_is_not_kept(tmp_path, monkeypatch):
    a_run(tmp_path / "run")
    export(tmp_path / "run", "timm", tmp_path / "out")
    before = (tmp_path / "out" / "config.json").read_bytes()
    honest = verb.FORMATS["timm"]

    def skewed(model, folder):
        notes = honest.write(model, folder)
        state = load_file(folder / "model.safetensors")
        state["norm.bias"] = state["norm.bias"] + 1e-3
        save_file(state, folder / "model.safetensors")
        return notes

    monkeypatch.setitem(verb.FORMATS, "timm", replace(honest, write=skewed))
    with pytest.raises(UserError, match="it answers otherwise than the model"):
        export(tmp_path / "run", "timm", tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


@pytest.mark.parametrize(
    "preprocess",
    [
        IMAGENET,
        Preprocess((64, 64), 64, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear"),
        Preprocess((64, 64), 73, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        Preprocess((64, 64), (64, 64), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop=False),
    ],
)
def test_images_are_prepared_alike(tmp_path, preprocess):
    from PIL import Image
    from transformers import AutoImageProcessor

    a_run(tmp_path / "run", preprocess=preprocess)
    export(tmp_path / "run", "timm", tmp_path / "timm")
    export(tmp_path / "run", "hf", tmp_path / "hf")
    own = preprocess.with_size((64, 64))
    pixels = torch.randint(256, (90, 120, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    picture = Image.fromarray(pixels.numpy())
    config = json.loads((tmp_path / "timm" / "config.json").read_text())["pretrained_cfg"]
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
    theirs = AutoImageProcessor.from_pretrained(tmp_path / "hf")(picture, return_tensors="pt")["pixel_values"][0]
    wanted = own(picture)
    assert (transform(picture) - wanted).abs().mean() < 0.02
    assert (theirs - wanted).abs().mean() < 0.02
    read = Preprocess.from_timm(preprocessing(own))
    assert (read.size, read.mean, read.interpolation) == (own.size, own.mean, own.interpolation)
    assert read.resize == own.resize


def test_the_command_line(tmp_path, capsys):
    a_run(tmp_path / "run")
    assert (
        command(["export", str(tmp_path / "run"), "--to", "safetensors", "--out", str(tmp_path / "a.safetensors")]) == 0
    )
    found = re.search(r"differ from the model's by at most (\S+)\.\n", capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) < 1e-5  # not 0: the model's linear layers may be oneDNN's
    with pytest.raises(UserError, match=r"ends with \.safetensors"):
        command(["export", str(tmp_path / "run"), "--to", "safetensors", "--out", str(tmp_path / "a.pth")])
    with pytest.raises(UserError, match=r"^size is for onnx"):
        command(["export", str(tmp_path / "run"), "--to", "timm", "--out", str(tmp_path / "b"), "--size", "32"])
    with pytest.raises(UserError, match="no folder of a vitreg run"):
        command(["export", str(tmp_path / "none"), "--to", "timm", "--out", str(tmp_path / "b")])


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        pytest.param(kind, to, marks=pytest.mark.slow if to == "onnx" else ())
        for kind in ("clip", "mae")
        for to in verb.FORMATS
    ],
)
def test_of_a_clip_run_it_is_said_that_the_text_tower_stays_behind(tmp_path, capsys, to, kind):
    if to == "onnx":
        pytest.importorskip("onnxscript")
    a_run(tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"train": {"recipe": {"kind": kind}}}))
    suffix = EXPORTS[to]
    assert command(["export", str(tmp_path / "run"), "--to", to, "--out", str(tmp_path / f"out{suffix}")]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "text tower" in line]
    assert len(said) == (kind == "clip")
    assert all("only the image tower was written" in line for line in said)


def test_an_export_in_the_same_folder_is_neither_removed_nor_torn_apart(tmp_path):
    a_run(tmp_path / "run")
    alone, inside = tmp_path / "ex" / "a.safetensors", tmp_path / "timm" / "model.safetensors"
    export(tmp_path / "run", "safetensors", alone)
    with pytest.raises(UserError, match=r"a\.safetensors is another export; name another place"):
        export(tmp_path / "run", "timm", alone.parent)
    assert [path.name for path in alone.parent.iterdir() if path.name[0] != "."] == [alone.name]
    for _ in range(2):
        export(tmp_path / "run", "timm", inside.parent)
    before = inside.read_bytes()
    with pytest.raises(UserError, match="belongs to the export in"):
        export(tmp_path / "run", "safetensors", inside)
    assert inside.read_bytes() == before
