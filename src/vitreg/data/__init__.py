"""Images on their way into a model: found, decoded, transformed and put into batches."""

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
