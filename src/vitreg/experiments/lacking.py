"""Data that experiments need, and what one says where they are missing, with the option that names them."""

from __future__ import annotations

from typing import Literal

Need = Literal["images", "classes", "boxes", "masks", "depths", "train", "captions"]
LACKING: dict[Need, str] = {
    "images": "It needs images; name them with --images.",
    "classes": "It needs images with classes; name DATA with --classes.",
    "boxes": "It needs images with true boxes; name a set with --boxes.",
    "masks": "It needs images with a class for every pixel; name DATA with --masks.",
    "depths": "It needs images with a distance for every pixel; name DATA with --depths.",
    "train": "It needs images to train on; name DATA with --train.",
    "captions": "It needs images with captions to train on; name DATA with --captions.",
}
