"""Images on their way into a model: found, decoded, transformed and put into batches. Imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitreg.data.decode import Unreadable
    from vitreg.data.images import ImageItem, ImageSource
    from vitreg.data.loader import Batch, Stream, stream
    from vitreg.data.transforms import CLIP, HALF, IMAGENET, Preprocess, fit

__all__ = [
    "CLIP",
    "HALF",
    "IMAGENET",
    "Batch",
    "ImageItem",
    "ImageSource",
    "Preprocess",
    "Stream",
    "Unreadable",
    "fit",
    "stream",
]

_HOMES = (
    {"Unreadable": "decode"}
    | dict.fromkeys(("ImageItem", "ImageSource"), "images")
    | dict.fromkeys(("Batch", "Stream", "stream"), "loader")
    | dict.fromkeys(("CLIP", "HALF", "IMAGENET", "Preprocess", "fit"), "transforms")
)


def __getattr__(name: str) -> Any:
    """Import a public name from its module: reading a listing of files must not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vitreg.data' has no attribute '{name}'")
    return getattr(importlib.import_module(f"vitreg.data.{_HOMES[name]}"), name)
