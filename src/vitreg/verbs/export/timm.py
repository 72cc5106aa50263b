"""Models as a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` opens: one of timm's entries, its
arguments in config.json, and the weights. The names of those of vitreg's own ViT are already timm's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError
from vitreg.models.block import Block
from vitreg.models.shape import in_words, shape_of
from vitreg.models.vit import VisionTransformer
from vitreg.verbs.export.model import UNPREPARED, Answers, Model
from vitreg.verbs.export.timm_module import of_timm, preprocessing

# JSON cannot hold the LayerNorm and MLP classes, so the entry chooses them; all else is an argument.
ENTRIES = {
    ("mlp", 1e-6): "vit_tiny_patch16_224",
    ("mlp", 1e-5): "vit_base_patch16_clip_224",
    ("swiglu", 1e-6): "vit_giant_patch14_reg4_dinov2",
}


def write_timm(model: Model, folder: Path) -> list[str]:
    """Write config.json and model.safetensors.

    Raises:
        UserError: if timm cannot express the model.
    """
    if model.network is not None:
        config, state = _of_ours(model.network, model.preprocess), model.network.published_state()
    else:
        config, state = of_timm(model)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    kept = {name: value.detach().clone().contiguous() for name, value in state.items()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return [] if model.preprocess is not None else [UNPREPARED]


def _of_ours(network: VisionTransformer, preprocess: Preprocess | None) -> dict[str, Any]:
    shape = shape_of(network)
    if in_words(shape.switches):
        raise UserError(f"timm has no ViT with {in_words(shape.switches)}; export to safetensors or onnx.")
    entry = next((name for (mlp, eps), name in ENTRIES.items() if (mlp, eps) == (shape.mlp, shape.eps)), None)
    if entry is None:
        raise UserError(
            f"timm has no ViT with a {shape.mlp} and LayerNorms of eps {shape.eps:g}; export to safetensors."
        )
    first = network.blocks[0]
    if isinstance(first, Block) and first.bypass is not None:
        raise UserError("timm has no registers that enter after the first block; export to safetensors or onnx.")
    if isinstance(first, Block) and first.attn.slots is not None:
        raise UserError("timm has no registers that compete for keys as slots; export to safetensors or onnx.")
    inner = 2 * shape.hidden if shape.mlp == "swiglu" else shape.hidden  # timm counts both halves of a gated MLP
    classes = network.head.out_features if isinstance(network.head, nn.Linear) else 0
    pool = "token" if network.pool == "cls" else "avg"
    arguments = {
        "img_size": list(network.image_size),
        "patch_size": list(shape.patch),
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": (inner + 0.5) / shape.width,  # timm rounds the product down
        "init_values": 1e-5 if shape.layer_scale else 0.0,
        "class_token": network.cls_token is not None,
        "reg_tokens": network.num_registers,
        "no_embed_class": True,
        "pre_norm": shape.pre_norm,
        "global_pool": pool,
        "fc_norm": False,
        "num_classes": classes,
    }
    prepared = {} if preprocess is None else preprocessing(preprocess.with_size(network.image_size))
    return {
        "architecture": entry,
        "num_classes": classes,
        "num_features": shape.width,
        "global_pool": pool,
        "model_args": arguments,
        "pretrained_cfg": {
            **prepared,
            "tag": "vitreg",
            "num_classes": classes,
            "fixed_input_size": True,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


@torch.inference_mode()
def answers_of_timm(_model: Model, folder: Path, images: Tensor) -> Answers:
    """Open the folder with timm, which refuses weights that do not fit, and run it."""
    import timm

    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    tokens = model.forward_features(images)
    found = {"tokens": tokens, "pooled": model.forward_head(tokens, pre_logits=True)}
    return found | {"logits": model(images)} if model.num_classes else found
