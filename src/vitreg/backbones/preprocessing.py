"""What a photograph must become for a foreign model: what its library or its files say, else its family's habit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from vitreg.backbones.anatomy import describe
from vitreg.backbones.fetch import calm
from vitreg.data.transforms import CLIP, HALF, IMAGENET, Preprocess


def preprocess_of(module: nn.Module) -> Preprocess:
    """Say what a photograph must become for a module that is already there, by what its library says or is used to."""
    anatomy = describe(module)
    tower: Any = anatomy.tower
    # open_clip writes it on the image tower it built, which may be one of timm's inside.
    config = getattr(getattr(module, "visual", module), "preprocess_cfg", None)
    if anatomy.library == "open_clip" or isinstance(config, Mapping):
        return read_open_clip_config(config or {}).with_size(anatomy.native_size)
    if anatomy.library == "timm" and getattr(tower, "pretrained_cfg", None):
        own = Preprocess.from_timm(tower.pretrained_cfg)
        return own.with_size(anatomy.native_size)
    if anatomy.library == "transformers":
        return usual(type(tower).__name__, tower.config)
    if anatomy.library == "torchvision":
        return Preprocess(IMAGENET.size, IMAGENET.resize, IMAGENET.mean, IMAGENET.std, "bilinear").with_size(
            anatomy.native_size
        )
    return _imagenet(anatomy.native_size)


def read_open_clip_config(config: Mapping[str, Any]) -> Preprocess:
    """Read open_clip's preprocessing settings, at 224 x 224 pixels; what is missing has CLIP's value."""
    mean, std = three(config.get("mean", CLIP.mean)), three(config.get("std", CLIP.std))
    squashed = config.get("resize_mode") == "squash"
    resize = CLIP.size if squashed else CLIP.resize
    return Preprocess(CLIP.size, resize, mean, std, config.get("interpolation", "bicubic"), crop=not squashed)


def usual(kind: str, config: Any) -> Preprocess:
    """Return what is usual for a class of transformers, where no file says otherwise."""
    size = config.image_size
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if kind.startswith("CLIP"):
        return CLIP.with_size((height, width))
    if kind.startswith(("Siglip", "ViTModel", "ViTFor")):
        return HALF.with_size((height, width))
    return _imagenet((height, width))


def _imagenet(native: tuple[int, int]) -> Preprocess:
    # DINOv2's released tables are made for 518 px, its evaluations and transformers' files prepare images of 224.
    return IMAGENET if native == (518, 518) else IMAGENET.with_size(native)


def beside(name: str) -> Preprocess | None:
    """Read the image processor's file that lies next to a transformers model; None where there is none."""
    from transformers.utils.hub import cached_file

    with calm():
        try:
            file = cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
        except OSError:
            file = None
    if file is None:
        return None
    config = json.loads(Path(file).read_text())
    size, crop = config.get("size") or {}, config.get("crop_size") or {}
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else None
    names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
    mean, std = three(config.get("image_mean") or HALF.mean), three(config.get("image_std") or HALF.std)
    interpolation = names.get(config.get("resample", 3), "bicubic")
    cropped = bool(config.get("do_center_crop", bool(crop))) and bool(crop)
    if shortest is None and isinstance(size, int) and cropped:
        shortest = size
    if cropped:
        target = _sides(crop)
        return Preprocess(target, shortest or _sides(size), mean, std, interpolation)
    target = (shortest, shortest) if shortest else _sides(size)
    return Preprocess(target, target, mean, std, interpolation, crop=False)


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    return int(size), int(size)


def three(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the values of three channels."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue
