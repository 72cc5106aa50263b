"""Any image size: what enters the first block is compared with positions resampled in plain sight."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_models import build, from_timm, from_transformers, randomised

from vitreg.backbones.backbone import Backbone
from vitreg.errors import UserError

# family -> (path of the position table, rows of it before the patches, path of a norm before the first block)
TABLES = {
    "vitreg": ("pos_embed", 0, None),
    "vitreg oblong": ("pos_embed", 0, None),
    "timm vit": ("pos_embed", 1, None),
    "timm vit oblong": ("pos_embed", 1, None),
    "timm deit distilled": ("pos_embed", 2, None),
    "timm deit3": ("pos_embed", 0, None),
    "timm dinov2": ("pos_embed", 1, None),
    "timm dinov2 reg": ("pos_embed", 0, None),
    "timm dynamic": ("pos_embed", 0, None),
    "timm siglip": ("pos_embed", 0, None),
    "timm clip": ("pos_embed", 1, "norm_pre"),
    "timm eva02": ("pos_embed", 1, None),
    "hf vit": ("embeddings.position_embeddings", 1, None),
    "hf vit oblong": ("embeddings.position_embeddings", 1, None),
    "hf deit": ("embeddings.position_embeddings", 2, None),
    "hf dinov2": ("embeddings.position_embeddings", 1, None),
    "hf dinov2 oblong": ("embeddings.position_embeddings", 1, None),
    "hf dinov2 registers": ("embeddings.position_embeddings", 1, None),
    "hf clip vision": ("embeddings.position_embedding.weight", 1, "pre_layrnorm"),
    "hf siglip vision": ("embeddings.position_embedding.weight", 0, None),
    "hf mae": ("embeddings.position_embeddings", 1, None),
    "hf ijepa": ("embeddings.position_embeddings", 0, None),
    "open_clip": ("positional_embedding", 1, "ln_pre"),
    "torchvision": ("encoder.pos_embedding", 1, None),
    "hub dino": ("pos_embed", 1, None),
    "hub dinov2 reg": ("pos_embed", 1, None),
    "hub dinov2 chunked": ("pos_embed", 1, None),
    "hub deit": ("pos_embed", 1, None),
    "hub deit distilled": ("pos_embed", 2, None),
    "hub deit distilled of timm": ("pos_embed", 2, None),
    "hub deit3": ("pos_embed", 0, None),
}


def entering(backbone, images):
    """Run the model and return what its first block reads."""
    seen = []
    handle = backbone.anatomy.blocks[0].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    try:
        backbone(images)
    finally:
        handle.remove()
    return seen[0]


def at(module, path):
    for name in path.split("."):
        module = getattr(module, name)
    return module


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("grid", [(3, 7), (7, 3), (2, 2), "native"])
def test_positions_are_resampled_antialiased_by_size_rows_first(name, grid):
    path, prefix, norm = TABLES[name]
    backbone = Backbone(build(name))
    (height, width), (native_rows, native_cols) = backbone.anatomy.patch, backbone.anatomy.position_table()[1]
    rows, cols = (native_rows, native_cols) if grid == "native" else grid
    images = torch.randn(2, 3, rows * height, cols * width)
    with torch.no_grad():
        found = entering(backbone, images)
        layout = backbone.layout((rows * height, cols * width))
        table = at(backbone.anatomy.tower, path)
        table = table.reshape(-1, table.shape[-1])[prefix:].T.reshape(1, -1, native_rows, native_cols)
        positions = F.interpolate(table, size=(rows, cols), mode="bicubic", antialias=True, align_corners=False)
        conv = backbone.anatomy.patch_projection
        wanted = F.conv2d(images, conv.weight, conv.bias, stride=(height, width)) + positions
        wanted = wanted.flatten(2).transpose(1, 2)
        wanted = wanted if norm is None else at(backbone.anatomy.tower, norm)(wanted)
    torch.testing.assert_close(found[:, layout.patches], wanted, rtol=1e-5, atol=1e-5)
    native = entering(backbone, torch.randn(2, 3, *backbone.anatomy.native_size))
    others = [i for i in range(layout.length) if layout.role(i) != "patch"]
    torch.testing.assert_close(found[:, others], native[:, others])  # class tokens and registers keep their rows


@pytest.mark.parametrize(
    "name", ["eva02_tiny_patch14_224", "vit_small_patch16_dinov3", "vit_base_patch16_rope_mixed_224"]
)
def test_rotary_models_of_one_size_give_what_their_dynamic_twin_gives(name):
    fixed = randomised(from_timm(name, embed_dim=96, dynamic_img_size=False))
    dynamic = from_timm(name, embed_dim=96, dynamic_img_size=True)
    dynamic.load_state_dict(fixed.state_dict())
    height, width = Backbone(fixed).anatomy.patch
    images = torch.randn(2, 3, 3 * height, 6 * width)
    with torch.no_grad():
        wanted = dynamic.eval().forward_features(images)
    torch.testing.assert_close(Backbone(fixed)(images).values, wanted, rtol=1e-5, atol=1e-5)


def test_transformers_with_an_antialiased_path_of_its_own_agrees():
    model = randomised(
        from_transformers("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", num_register_tokens=3)
    )
    images = torch.randn(2, 3, 48, 112)
    with torch.no_grad():
        wanted = model(images).last_hidden_state
    torch.testing.assert_close(Backbone(model)(images).values, wanted, rtol=1e-5, atol=1e-5)


def test_the_native_size_is_the_librarys_own_forward_bit_for_bit():
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        hf, timm_vit, tv = build("hf vit"), build("timm vit"), build("torchvision")
        assert torch.equal(Backbone(hf)(images).values, hf(images).last_hidden_state)
        assert torch.equal(Backbone(timm_vit)(images).values, timm_vit.forward_features(images))
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            assert torch.equal(tv.heads(Backbone(tv)(images).cls), tv(images))
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


def test_a_native_size_that_the_patch_does_not_divide_is_taken_as_it_is():
    model = randomised(from_transformers("SiglipVisionModel", "SiglipVisionConfig", image_size=60, patch_size=14))
    backbone = Backbone(model)
    images = torch.randn(1, 3, 60, 60)
    assert backbone(images).layout.grid == (4, 4)
    with torch.no_grad():
        assert torch.equal(backbone(images).values, model(images).last_hidden_state)
    assert torch.isfinite(backbone(images[..., :56, :56]).values).all()


@pytest.mark.parametrize(("size", "near"), [((65, 64), "64x64"), ((64, 90), "64x96"), ((7, 64), "16x64")])
def test_sizes_between_patches_are_refused_with_the_nearest_size(size, near):
    with pytest.raises(UserError, match=near):
        Backbone(build("timm vit"))(torch.randn(1, 3, *size))


def test_a_relative_position_bias_is_refused_at_other_sizes_naming_the_native_one():
    with pytest.raises(UserError, match=r"64x64 pixels only, not 64x96"):
        Backbone(build("timm beit"))(torch.randn(1, 3, 64, 96))


def test_mae_encodes_every_patch_in_order():
    model = build("hf mae")
    backbone = Backbone(model)
    images = torch.randn(1, 3, 64, 64)
    tokens = backbone(images)
    assert tokens.values.shape[1] == 17
    # A change in one patch must show at that patch's place before attention mixes anything.
    entering_first = entering(backbone, images)
    images[..., 16:32, 32:48] += 1  # row 1, col 2
    changed = (entering(backbone, images) - entering_first).norm(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == [1 + 1 * 4 + 2]
