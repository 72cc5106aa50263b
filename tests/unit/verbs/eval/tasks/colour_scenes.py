"""Scenes whose colours tell class and depth, and a small model with random weights to look at them."""

from __future__ import annotations

import numpy as np
import timm
import torch
from PIL import Image

from vitreg.backbones import Backbone
from vitreg.data.views.transforms import IMAGENET
from vitreg.passes.bench import Bench

COLOURS = np.array([[30, 30, 30], [220, 40, 40], [40, 200, 60], [60, 60, 230]], np.uint8)


def bench(data, features, **options):
    torch.manual_seed(0)
    model = timm.create_model(
        options.pop("model", "vit_tiny_patch16_224"), img_size=options.pop("native", 64), embed_dim=48, depth=4, num_heads=3,
        dynamic_img_size=True, **options.pop("kwargs", {}),
    )  # fmt: skip
    backbone = Backbone(model.eval(), preprocess=IMAGENET.with_size((64, 64)))
    return Bench(backbone=backbone, data=str(data), features=features, workers=0, **options)


def classes_of(seed, height=60, width=84):
    """Rectangles of classes 1 to 3 on a ground of class 0."""
    draw = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.uint8)
    for number in range(1, 4):
        top, left = draw.integers(0, height - 25), draw.integers(0, width - 30)
        labels[top : top + 25, left : left + 30] = number
    return labels


def put(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_masks(root, train=10, test=4):
    for side, numbers in (("train", range(train)), ("val", range(100, 100 + test))):
        for number in numbers:
            labels = classes_of(number)
            put(root / side / "images" / f"{number}.png", COLOURS[labels])
            labels[:3] = 255
            put(root / side / "masks" / f"{number}.png", labels)
    return root


def write_depths(root, train=10, test=4, size=(60, 84)):
    """The brighter, the farther: 1 to 4 m, in millimetres."""
    for side, numbers in (("train", range(train)), ("test", range(100, 100 + test))):
        for number in numbers:
            metres = 1 + classes_of(number, *size).astype(np.float32)
            put(root / side / "image" / f"{number}.png", (metres * 55).astype(np.uint8)[..., None].repeat(3, 2))
            metres[:3] = 0
            put(root / side / "depth" / f"{number}.png", (metres * 1000).astype(np.uint16))
    return root
