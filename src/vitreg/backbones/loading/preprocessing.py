"""The preprocessing of a foreign model: as its library says, else as usual for its family.

Image processors of transformers are read in `processors.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from vitreg.backbones.anatomy.find import Anatomy, find_anatomy
from vitreg.data.views.transforms import CLIP, HALF, IMAGENET, Preprocess


@dataclass(frozen=True, slots=True)
class Unprepared:
    """The reason why photographs cannot be prepared for a model.

    Args:
        reason: a sentence that names what helps.
        at_size: preprocessing for a size that the user names; None if a size does not help.
    """

    reason: str
    at_size: Preprocess | None = None

    def with_size(self, size: tuple[int, int]) -> Preprocess | Unprepared:
        """Return the preprocessing for (height, width) named by the user."""
        return self if self.at_size is None else self.at_size.with_size(size)


UNKNOWN = Unprepared("how this model wants its images is unknown; give tensors, or load it by its spec.")


def preprocess_of(module: nn.Module) -> Preprocess | Unprepared:
    """Return the preprocessing for an existing module, from its library's settings or habits."""
    anatomy = find_anatomy(module)
    if (refusal := not_rgb(anatomy)) is not None:
        return refusal
    tower: Any = anatomy.tower
    # open_clip stores it on the image tower, which may contain a timm model.
    config = getattr(getattr(module, "visual", module), "preprocess_cfg", None)
    if anatomy.library == "open_clip" or isinstance(config, Mapping):
        return read_open_clip_config(config or {}, anatomy.native_size)
    if anatomy.library == "timm" and getattr(tower, "pretrained_cfg", None):
        return read_timm_config(tower.pretrained_cfg).with_size(anatomy.native_size)
    if anatomy.library == "transformers":
        return usual(type(tower).__name__, anatomy.native_size)
    if anatomy.library == "torchvision":
        return replace(IMAGENET, interpolation="bilinear").with_size(anatomy.native_size)
    return _imagenet(anatomy.native_size)


def not_rgb(anatomy: Anatomy) -> Unprepared | None:
    """Explain that photographs do not fit a model whose number of channels is not three."""
    if anatomy.channels == 3:
        return None
    return Unprepared(
        f"this {type(anatomy.tower).__name__} takes {anatomy.channels}-channel images and photographs have 3; pass your "
        f"own tensor [n, {anatomy.channels}, H, W] to vitreg in Python."
    )


def read_timm_config(config: Mapping[str, Any]) -> Preprocess:
    """Read a `pretrained_cfg` of timm. Its number of channels may belong to other weights and is ignored."""
    own = dict(config)
    own["input_size"] = (3, *(config.get("input_size") or (3, *IMAGENET.size))[1:])
    for name in ("mean", "std"):
        own[name] = three(config[name]) if config.get(name) else None
    return Preprocess.from_timm(own)


def read_open_clip_config(config: Mapping[str, Any], size: tuple[int, int]) -> Preprocess:
    """Read open_clip's preprocessing settings for a tower of (height, width); what is missing has CLIP's value."""
    mode, interpolation = config.get("resize_mode") or "shortest", config.get("interpolation") or "bicubic"
    square = size[0] == size[1]
    if mode == "shortest" and not square:
        interpolation = "bicubic"  # open_clip does not pass its setting on
    return Preprocess(
        size,
        size[0] if mode == "shortest" and square else size,
        three(config.get("mean") or CLIP.mean),
        three(config.get("std") or CLIP.std),
        "bilinear" if interpolation == "bilinear" else "bicubic",
        crop=mode != "squash",
        aspect="border" if mode == "longest" else "squash" if square or mode == "squash" else "cover",
        fill=int(config.get("fill_color") or 0) if mode == "longest" else None,
    )


def usual(kind: str, size: tuple[int, int]) -> Preprocess:
    """Return the usual preprocessing of a transformers class built for (height, width), for models without a file."""
    if kind.startswith("CLIP"):
        return CLIP.with_size(size)
    if kind.startswith("Siglip"):
        return HALF.with_size(size)
    if kind.startswith(("ViTModel", "ViTFor")):
        return replace(HALF, interpolation="bilinear").with_size(size)
    if kind.startswith("DINOv3"):
        return replace(IMAGENET, resize=IMAGENET.size, interpolation="bilinear", crop=False).with_size(size)
    return _imagenet(size)


def _imagenet(native: tuple[int, int]) -> Preprocess:
    # DINOv2's released tables are made for 518 px, its evaluations and transformers' files prepare images of 224.
    return IMAGENET if native == (518, 518) else IMAGENET.with_size(native)


def three(values: float | Sequence[float]) -> tuple[float, float, float]:
    """Return the values of three channels, of which all have the same where only one is given."""
    several = list(values) if isinstance(values, Sequence) else [values]
    red, green, blue = (float(value) for value in (several * 3 if len(several) == 1 else several))
    return red, green, blue
