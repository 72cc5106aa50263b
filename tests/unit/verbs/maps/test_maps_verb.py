import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from vitreg.backbones.backbone import Backbone
from vitreg.backbones.trace import Capture
from vitreg.data import Preprocess
from vitreg.errors import UserError
from vitreg.passes import view
from vitreg.report.sheets import sheet as sheet_drawing
from vitreg.verbs.maps import model as map_model
from vitreg.verbs.maps import sheets as map_sheets
from vitreg.verbs.maps.verb import maps

PREPROCESS = Preprocess((32, 48), 48, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def model(registers=2, seed=0, **changes):
    torch.manual_seed(seed)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0}
    vit = VisionTransformer(**(settings | {"reg_tokens": registers, "dynamic_img_size": True} | changes)).eval()
    with torch.no_grad():
        for block in vit.blocks:
            block.attn.qkv.weight.mul_(20)  # else attention of random weights is uniform
    return vit


@pytest.fixture(scope="module")
def backbone():
    return Backbone(model(), preprocess=PREPROCESS)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 256, (60 + 10 * i, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def images(n=3, size=(32, 48), seed=1):
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(seed))


def test_arrays_are_those_of_a_trace(backbone):
    x = images()
    (found,) = maps(backbone, x, layer=1).maps
    trace = backbone.trace(x, Capture(hidden=[1], qkv=[1]))
    assert (found.layer, found.depth, found.grid, found.image_size, found.tokens) == (1, 3, (4, 6), (32, 48), 27)
    full = trace.qkv(1).rows()  # every query, [B, heads, N, N]
    for name, token in (("CLS", 0), ("register 1", 1), ("register 2", 2)):
        expected = full[:, :, token, 3:].unflatten(-1, (4, 6))
        np.testing.assert_allclose(found.heads[name], expected.numpy(), atol=1e-6)
        np.testing.assert_allclose(found.attention[name], expected.mean(1).numpy(), atol=1e-6)
    norms = trace.hidden(1)[:, 3:].norm(dim=-1).unflatten(1, (4, 6))
    np.testing.assert_allclose(found.norm, norms.numpy(), rtol=1e-5)
    assert found.pca.shape == (3, 4, 6)
    assert found.rgb.shape == (3, 4, 6, 3)
    assert 0.9 < found.pca.std() < 1.1


def test_layers_may_be_negative_several_or_all_and_the_last_is_minus_one(backbone):
    x = images(2)
    assert [m.layer for m in maps(backbone, x, layer="all", what="norm").maps] == [0, 1, 2]
    assert [m.layer for m in maps(backbone, x, layer=[-1, 0, 2], what="norm").maps] == [2, 0]
    last, third = (maps(backbone, x, layer=i, what="norm").maps[0].norm for i in (-1, 2))
    np.testing.assert_array_equal(last, third)


def test_running_layer_by_layer_gives_the_same_as_all_at_once(backbone, monkeypatch):
    x = images()
    at_once = maps(backbone, x, layer="all").maps
    passes = []
    add = map_model._Kept.add

    def counting(self, backbone, plan, layers, *rest):
        passes.append(len(layers))
        add(self, backbone, plan, layers, *rest)

    monkeypatch.setattr(map_model._Kept, "add", counting)
    monkeypatch.setattr(map_model, "KEPT_BYTES", 1)
    monkeypatch.setitem(view.TOKENS_AT_ONCE, "cpu", 24)  # one image a batch
    apart = maps(backbone, x, layer="all").maps
    assert passes == [1] * 9  # three layers x three images
    for one, other in zip(at_once, apart, strict=True):
        assert one.layer == other.layer
        np.testing.assert_allclose(one.rgb, other.rgb, atol=2e-3)
        np.testing.assert_allclose(one.attention["CLS"], other.attention["CLS"], atol=1e-6)


def test_files_become_images_at_any_resolution(backbone, photos, tmp_path):
    result = maps(backbone, photos, size=(48, 64), what=("norm", "attention"), out=tmp_path / "out")
    assert [Path(name).name for name in result.images] == ["0.png", "1.png", "2.png"]
    (found,) = result.maps
    assert (found.image_size, found.grid) == ((48, 64), (6, 8))
    assert found.inputs.shape == (3, 48, 64, 3)
    assert [p.name for p in result.paths] == ["norm.png", "attention.png"]
    assert sorted(p.name for p in (tmp_path / "out").glob("[!.]*")) == [
        "attention.npz", "attention.png", "norm.npz", "norm.png",
    ]  # fmt: skip
    for path in result.paths:
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 300
    (square,) = maps(backbone, photos, size=40, what="norm").maps
    assert square.grid == (5, 5)


def test_a_size_that_is_no_multiple_follows_the_policy(backbone, photos):
    grids = {p: maps(backbone, photos, size=(44, 44), what="norm", fit=p).maps[0].grid for p in ("pad", "crop")}
    assert grids == {"pad": (6, 6), "crop": (5, 5)}


def test_unreadable_images_are_skipped_and_said(backbone, photos):
    (photos / "broken.png").write_bytes(b"\x89PNG no")
    result = maps(backbone, photos, what="norm")
    assert len(result.images) == 3
    assert [Path(s.name).name for s in result.skipped] == ["broken.png"]
    for good in photos.glob("?.png"):
        good.unlink()
    with pytest.raises(UserError, match="none of the 1 images could be read"):
        maps(backbone, photos, what="norm")


def test_several_models_share_a_sheet_and_a_scale(photos, tmp_path, monkeypatch):
    one, two = (Backbone(model(r, seed=r), preprocess=PREPROCESS) for r in (0, 2))
    sheets = []
    monkeypatch.setattr("vitreg.report.sheets.sheet.save", lambda sheet, path: sheets.append(sheet) or path)
    result = maps([one, two], photos, what=("attention", "registers", "norm"), out=tmp_path)
    attention, registers, norm = sheets
    assert [c.title for c in attention.columns] == ["input", "CLS", "CLS"]
    headings = [c.group for c in attention.columns]
    assert headings[1] != headings[2]  # the same class twice: numbered
    assert all("block 2 (last)" in g for g in headings[1:])
    # One scale in multiples of uniform: the models have 24 and 27 tokens.
    peak = max(m.attention["CLS"].max() * m.tokens for m in result.maps)
    assert 0 < attention.scale.high <= peak
    np.testing.assert_allclose(
        attention.columns[1].cells[0], result.maps[0].attention["CLS"][0] * 25, rtol=2**-11
    )  # half floats
    assert "One colour scale for all models, blocks and images" in attention.caption
    assert norm.scale.low == min(m.norm.min() for m in result.maps)
    assert norm.scale.high == max(m.norm.max() for m in result.maps)
    # Only the second has registers, and this is said.
    assert [c.title for c in registers.columns] == ["input", "CLS", "register 1", "register 2"]
    assert any("no attention maps of registers" in note for note in result.notes)


def test_models_that_see_other_crops_show_their_own_input(photos, tmp_path, monkeypatch):
    other = Preprocess((32, 32), 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    models = [Backbone(model(), preprocess=p) for p in (PREPROCESS, other)]
    sheets = []
    monkeypatch.setattr("vitreg.report.sheets.sheet.save", lambda sheet, path: sheets.append(sheet) or path)
    maps(models, photos, what="norm", layer=[0, 1], out=tmp_path)
    assert [c.title for c in sheets[0].columns] == ["input", "norm", "norm", "input", "norm", "norm"]


def test_single_heads_have_a_sheet_for_every_query(backbone, tmp_path):
    result = maps(backbone, images(), what="heads", out=tmp_path)
    assert [p.name for p in result.paths] == ["heads-cls.png", "heads-register-1.png", "heads-register-2.png"]
    assert result.maps[0].heads["register 2"].shape == (3, 4, 4, 6)


def test_many_images_go_on_several_sheets_with_one_scale(backbone, tmp_path, monkeypatch):
    sheets = {}
    monkeypatch.setattr(
        "vitreg.report.sheets.sheet.save", lambda sheet, path: sheets.setdefault(path.name, sheet) and path
    )
    monkeypatch.setattr(map_sheets, "COLUMNS", 2)
    maps(backbone, images(10), what="norm", layer="all", out=tmp_path)
    assert list(sheets) == [f"norm-{i}.png" for i in (1, 2, 3, 4)]  # 2 blocks + 1 block, 8 images + 2 images
    assert [len(s.rows) for s in sheets.values()] == [8, 2, 8, 2]
    assert [len(s.columns) for s in sheets.values()] == [3, 3, 2, 2]
    assert len({s.scale for s in sheets.values()}) == 1


def test_own_scales_and_the_mass_threshold_are_said(backbone, tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr("vitreg.report.sheets.sheet.save", lambda sheet, path: sheets.append(sheet) or path)
    maps(backbone, images(), what=("attention", "pca"), scale="map", mass=0.6, upsample="bilinear", out=tmp_path)
    attention, pca = sheets
    assert attention.scale is None
    assert "its own colour scale" in attention.caption
    assert "60 %" in attention.caption
    shown = attention.columns[1].cells[0]
    assert 0.4 < (shown == 0).mean() < 1
    assert attention.upsample == "bilinear"
    assert (pca.scale.low, pca.scale.high) == (-3, 3)  # the paper's range, always


def test_what_cannot_be_drawn_is_said_and_the_rest_is_drawn(tmp_path):
    bare = Backbone(model(0, class_token=False, global_pool="avg", no_embed_class=True))
    result = maps(bare, images(), out=tmp_path)
    assert [p.name for p in result.paths] == ["pca.png", "rgb.png", "norm.png"]
    assert len(result.notes) == 3
    assert result.maps[0].attention == {}
    with pytest.raises(UserError, match=r"none of the maps asked for can be had.*no class token"):
        maps(bare, images(), what="attention")


def test_a_model_whose_attention_cannot_be_read_still_gives_norms():
    class Strange(torch.nn.Module):
        """Mixes tokens in a way nobody can attribute to queries and keys."""

        def __init__(self):
            super().__init__()
            self.num_heads, self.mix = 4, torch.nn.Linear(32, 32)

        def forward(self, x, *_, **__):
            return self.mix(x.mean(1, keepdim=True)).expand_as(x)

    vit = model()
    for block in vit.blocks:
        block.attn = Strange()
    result = maps(Backbone(vit), images(), what=("attention", "norm"))
    assert result.maps[0].norm is not None
    assert result.maps[0].attention == {}
    assert "cannot be read" in result.notes[0]


def test_components_may_be_fitted_to_every_image(backbone):
    (found,) = maps(backbone, images(), what="pca", pca_per_image=True).maps
    np.testing.assert_allclose(found.pca.reshape(3, -1).std(1, ddof=1), 1, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"what": "atention"}, "Did you mean 'attention'"),
        ({"what": ()}, "no kind of map"),
        ({"layer": 3}, "no block 3 in a model of 3 blocks"),
        ({"limit": 0}, "at least 1"),
        ({"mass": 1.5}, "a share of the attention"),
        ({"weights": ["a.pth", "b.pth"]}, "2 weights for 1 model;"),
        ({"size": 64}, "resize a tensor"),
        ({"weights": "a.pth"}, "a loaded backbone keeps its weights"),
        ({"device": "cpu"}, "a loaded backbone keeps its weights"),
    ],
)
def test_mistakes_are_one_sentence(backbone, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        maps(backbone, images(), **changes)


def test_files_need_a_preprocessing(photos):
    with pytest.raises(UserError, match="how this model wants its images is unknown"):
        maps(Backbone(model()), photos)


def test_an_unwritable_folder_is_found_before_any_work(backbone, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        maps(backbone, images(), out=tmp_path / "file")


def test_on_photographs_limit_and_names(backbone, photographs, tmp_path):
    result = maps(backbone, photographs[:3], limit=2, out=tmp_path)
    assert [Path(n).name for n in result.images] == [p.name for p in photographs[:2]]
    assert len(result.paths) == 8


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_vit_large_at_518_px_with_24_layers_fits_in_4_gib(precision):
    program = f"""
import resource, torch
from vitreg.backbones.loading.load import load
from vitreg.verbs.maps.verb import maps
backbone = load("timm:vit_large_patch14_reg4_dinov2", random=True, precision="{precision}", device="cpu")
found = maps(backbone, torch.randn(2, 3, 518, 518), layer="all").maps
assert len(found) == 24 and len(found[0].heads) == 5 and found[0].grid == (37, 37)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert int(ran.stdout.split()[-1]) < 4 * 2**30


def test_specs_are_loaded_one_after_the_other_and_say_what_they_are(photos, tmp_path):
    specs = ["timm:vit_tiny_patch16_224", "timm:vit_tiny_patch16_224"]
    result = maps(specs, photos, size=32, what="norm", random=True, precision="fp32", device="cpu", out=tmp_path)
    assert [m.model for m in result.maps] == [f"{specs[0]} (random weights)", f"{specs[0]} (random weights) #2"]
    assert any("random" in note for note in result.notes)
    np.testing.assert_array_equal(result.maps[0].norm, result.maps[1].norm)


def test_a_sheet_that_fails_is_named_and_the_others_are_there(backbone, tmp_path, monkeypatch):
    usual = sheet_drawing.draw
    monkeypatch.setattr(sheet_drawing, "draw", lambda sheet: 1 / 0 if "Norm" in sheet.title else usual(sheet))
    result = maps(backbone, images(), what=("norm", "rgb"), out=tmp_path)
    assert [path.name for path in result.paths] == ["rgb.png"]
    assert any(note.startswith("norm.png could not be drawn (ZeroDivisionError") for note in result.notes)
    assert (tmp_path / "rgb.png").is_file()
