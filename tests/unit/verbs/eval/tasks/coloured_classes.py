"""Pictures of three colours, a small untrained ViT that cannot but see them, and a bench for both."""

import numpy as np
import timm
import torch
from PIL import Image

from vitreg.backbones import Backbone
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.models.vit import VisionTransformer
from vitreg.passes.bench import Bench

COLOURS = {"blue": (60, 80, 190), "green": (60, 190, 80), "red": (190, 60, 80)}


def write_set(root, *, train=20, test=10, sides=("train", "val"), names=tuple(COLOURS)):
    rng = np.random.default_rng(0)
    for side, count in zip(sides, (train, test), strict=True):
        for name in names:
            folder = root / side / name
            folder.mkdir(parents=True)
            for i in range(count):
                tint = rng.normal(COLOURS[name], 50)  # so that classes overlap
                pixels = rng.normal(tint, 70, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return root


def network(depth=2, *, class_token=True):
    torch.manual_seed(0)
    if class_token:
        model = VisionTransformer(32, 8, 24, depth, 3, registers=1).eval()
    else:
        options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": depth, "num_heads": 3, "num_classes": 0}
        model = timm.models.VisionTransformer(**options, class_token=False, global_pool="avg", fc_norm=False).eval()
    with torch.no_grad():  # else a class token sees nothing of so small a model's patches
        for block in model.blocks:
            block.attn.proj.weight.normal_(std=0.2)
            block.attn.qkv.weight.normal_(std=0.2)
    return model


def bench(data, features, model=None, **options):
    preprocess = Preprocess((32, 32), 32, IMAGENET.mean, IMAGENET.std)
    backbone = Backbone(model or network(), preprocess=preprocess)
    return Bench(backbone=backbone, data=str(data), features=features, **({"workers": 0, "batch_size": 16} | options))
