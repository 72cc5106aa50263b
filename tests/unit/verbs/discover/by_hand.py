"""A small ViT, the steps of LOST by hand, and images judged by hand."""

import math

import numpy as np
import scipy.ndimage
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from vitreg.data import Preprocess
from vitreg.verbs.discover.judge import Judge
from vitreg.verbs.discover.model import Photograph
from vitreg.verbs.discover.search import Found
from vitreg.verbs.discover.verb import DiscoverOptions

PREPROCESS = Preprocess((32, 32), 32, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
QUICK = DiscoverOptions(pictures=0, steps=0)
SIZES = [(40, 61), (33, 48), (64, 50), (40, 56), (17, 90)]  # height, width; only some are multiples of the patch


def vit(**changes):
    torch.manual_seed(0)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0}
    model = VisionTransformer(**(settings | {"reg_tokens": 3, "dynamic_img_size": True} | changes)).eval()
    with torch.no_grad():
        model.reg_token.normal_() if changes.get("reg_tokens", 3) else None
    return model


def keys_by_hand(model, path):
    """Original size, normalised, zeros below and to the right, k of the last projection, 1 + 3 tokens dropped."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (PREPROCESS.mean, PREPROCESS.std))
    height, width = pixels.shape[1:]
    padded = torch.zeros(3, math.ceil(height / 8) * 8, math.ceil(width / 8) * 8, dtype=torch.float64)
    padded[:, :height, :width] = (pixels - mean) / std
    kept = []
    handle = model.blocks[-1].attn.qkv.register_forward_hook(lambda module, given, output: kept.append(output))
    with torch.no_grad():
        model(padded[None].float())
    handle.remove()
    return kept[0][0, 4:, 32:64].double(), (padded.shape[1] // 8, padded.shape[2] // 8)


def lost_by_hand(features, grid, size, bias=0.0):
    """The official code of LOST, as a loop."""
    gram = (features @ features.T + bias).numpy()
    count = len(gram)
    degree = np.array([sum(gram[p, q] > 0 for q in range(count) if q != p) for p in range(count)])
    order = sorted(range(count), key=lambda p: degree[p])
    similars = [p for p in order[:100] if gram[order[0], p] > 0]
    mask = sum(gram[p] for p in similars).reshape(grid) > 0
    labels, _ = scipy.ndimage.label(mask)
    rows, cols = np.nonzero(labels == labels.flat[order[0]])
    return [
        cols.min() * 8, rows.min() * 8, min((cols.max() + 1) * 8, size[1]), min((rows.max() + 1) * 8, size[0])
    ]  # fmt: skip


def corner(box):
    x, y, width, height = box
    return [x, y, x + width, y + height]


def found(*boxes):
    return [Found(boxes=(box,), scores=(0.5,), patches=4) for box in boxes]


def judged_by_hand(width, height, boxes, true):
    photograph = Photograph(np.zeros((height, width, 3), np.uint8), (height, width), np.zeros((2, 2, 3), np.uint8))
    return Judge(None)(0, "a", photograph, found(*boxes), np.array(true, dtype=float))
