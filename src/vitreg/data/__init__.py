"""Images on their way into a model: found, decoded, transformed and put into batches. Imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitreg.data.batches.loader import Batch, Stream, stream
    from vitreg.data.sources.decode import Unreadable
    from vitreg.data.sources.images import ImageItem, ImageSource
    from vitreg.data.views.transforms import CLIP, HALF, IMAGENET, Preprocess, fit

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
    {"Unreadable": "sources.decode"}
    | dict.fromkeys(("ImageItem", "ImageSource"), "sources.images")
    | dict.fromkeys(("Batch", "Stream", "stream"), "batches.loader")
    | dict.fromkeys(("CLIP", "HALF", "IMAGENET", "Preprocess", "fit"), "views.transforms")
)


def __getattr__(name: str) -> Any:
    """Import a public name from its module: reading a listing of files must not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vitreg.data' has no attribute '{name}'")
    return getattr(importlib.import_module(f"vitreg.data.{_HOMES[name]}"), name)
