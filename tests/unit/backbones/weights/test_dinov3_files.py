"""DINOv3's own checkpoints: storage tokens, masked biases of keys and gates kept apart reach timm and transformers."""

import pytest
import timm
import torch
from torch import nn

from vitreg.backbones.weights.into_module import load_weights, read_vit
from vitreg.errors import UserError

WIDTH, DEPTH, HEADS, HIDDEN = 48, 2, 3, 96
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def transformers_model(gated):
    transformers = pytest.importorskip("transformers")
    config = transformers.DINOv3ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=HIDDEN, image_size=64,
        patch_size=16, num_register_tokens=4, use_gated_mlp=gated, hidden_act="silu" if gated else "gelu", layer_norm_eps=1e-5,
    )  # fmt: skip
    model = transformers.DINOv3ViTModel(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * 0.2)
    return model.eval()


def timm_model(gated, biases):
    name = f"vit_small_{'plus_' if gated else ''}patch16_dinov3{'_qkvb' if biases else ''}"
    return timm.create_model(
        name,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=HIDDEN / WIDTH,
        img_size=64,
        norm_layer=nn.LayerNorm,
    ).eval()


def own_file(model, gated):
    """The names and tensors of facebookresearch/dinov3 for a model of transformers, written from their description."""
    theirs = model.state_dict()
    state = {
        "cls_token": theirs["embeddings.cls_token"],
        "storage_tokens": theirs["embeddings.register_tokens"],
        "mask_token": theirs["embeddings.mask_token"][0],
        "rope_embed.periods": 100 ** (torch.arange(WIDTH // HEADS // 4) / (WIDTH // HEADS / 4)),
        "local_cls_norm.weight": torch.ones(WIDTH),
    }
    for leaf in ("weight", "bias"):
        state[f"patch_embed.proj.{leaf}"] = theirs[f"embeddings.patch_embeddings.{leaf}"]
        state[f"norm.{leaf}"] = theirs[f"norm.{leaf}"]
    gates = {"w1": "gate_proj", "w2": "up_proj", "w3": "down_proj"}
    feedforward = gates if gated else {"fc1": "up_proj", "fc2": "down_proj"}
    for i in range(DEPTH):
        old, new = f"model.layer.{i}", f"blocks.{i}"
        for number in (1, 2):
            state[f"{new}.ls{number}.gamma"] = theirs[f"{old}.layer_scale{number}.lambda1"]
        for leaf in ("weight", "bias"):
            for norm in ("norm1", "norm2"):
                state[f"{new}.{norm}.{leaf}"] = theirs[f"{old}.{norm}.{leaf}"]
            state[f"{new}.attn.proj.{leaf}"] = theirs[f"{old}.attention.o_proj.{leaf}"]
            for mine, name in feedforward.items():
                state[f"{new}.mlp.{mine}.{leaf}"] = theirs[f"{old}.mlp.{name}.{leaf}"]
        q, k, v = (theirs[f"{old}.attention.{part}_proj.weight"] for part in "qkv")
        state[f"{new}.attn.qkv.weight"] = torch.cat([q, k, v])
        # The file has a bias for the keys as well, and a mask that takes it out of every forward.
        q, v = (theirs[f"{old}.attention.{part}_proj.bias"] for part in "qv")
        state[f"{new}.attn.qkv.bias"] = torch.cat([q, torch.full_like(q, 7.0), v])
        state[f"{new}.attn.qkv.bias_mask"] = torch.cat([torch.ones(WIDTH), torch.zeros(WIDTH), torch.ones(WIDTH)])
    return state


@pytest.mark.parametrize("gated", [False, True], ids=["mlp", "swiglu"])
def test_a_file_of_dinov3_gives_the_same_tokens_in_timm_and_in_transformers(gated, tmp_path):
    source = transformers_model(gated)
    torch.save(own_file(source, gated), tmp_path / "dinov3.pth")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = source(images).last_hidden_state

    target = timm_model(gated, biases=True)
    report = load_weights(target, tmp_path / "dinov3.pth", strict=False)
    assert report.layout == "dinov3"
    assert not report.missing
    torch.testing.assert_close(target.forward_features(images), expected, **CLOSE)

    again = transformers_model(gated)
    with torch.no_grad():
        for value in again.parameters():
            value.zero_()
    load_weights(again, tmp_path / "dinov3.pth")
    torch.testing.assert_close(again(images).last_hidden_state, expected, **CLOSE)
    # and from timm's names into transformers
    torch.save(target.state_dict(), tmp_path / "timm.pth")
    load_weights(again, tmp_path / "timm.pth")
    torch.testing.assert_close(again(images).last_hidden_state, expected, **CLOSE)


def test_biases_that_a_model_has_no_place_for_are_named_unless_they_are_zero(tmp_path):
    state = own_file(transformers_model(False), False)
    torch.save(state, tmp_path / "biased.pth")
    with pytest.raises(UserError, match=r"tensors that the model lacks \(blocks\.0\.attn\.qkv\.bias"):
        load_weights(timm_model(False, biases=False), tmp_path / "biased.pth")
    # a mask that keeps the bias of the keys: rotary positions turn it, so it counts
    for i in range(DEPTH):
        state[f"blocks.{i}.attn.qkv.bias_mask"] = torch.ones(3 * WIDTH)
    torch.save(state, tmp_path / "keys.pth")
    with pytest.raises(UserError, match=r"tensors that the model lacks \(blocks\.0\.attn\.qkv\.bias"):
        load_weights(timm_model(False, biases=True), tmp_path / "keys.pth")
    # the released distilled models have biases of zeros
    for i in range(DEPTH):
        state[f"blocks.{i}.attn.qkv.bias"] = torch.zeros(3 * WIDTH)
    torch.save(state, tmp_path / "zeros.pth")
    report = load_weights(timm_model(False, biases=False), tmp_path / "zeros.pth")
    assert not report.untrained


def test_storage_tokens_are_registers(tmp_path):
    torch.save(own_file(transformers_model(False), False), tmp_path / "dinov3.pth")
    tensors, _ = read_vit(tmp_path / "dinov3.pth")
    assert tensors["reg_token"].shape == (1, 4, WIDTH)
    plain = timm.create_model(
        "vit_tiny_patch16_224", embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, img_size=64, mlp_ratio=2, init_values=1
    )
    with pytest.raises(
        UserError, match=r"dinov3\.pth \(DINOv3 names\) is .* with 4 registers, the model .* without registers"
    ):
        load_weights(plain, tmp_path / "dinov3.pth")
