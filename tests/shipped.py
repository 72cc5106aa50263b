"""What the tests look at without any external data: scikit-image's photographs, and a small VOC made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vitreg.verbs.demo.verb import PHOTOGRAPHS

SIDE = 320  # pixels of the longer side
OBJECTS, GROUNDS = ("astronaut", "cat", "coffee", "rocket"), ("grass", "gravel", "brick", "moon")


def write_photographs(folder: Path) -> list[Path]:
    """Write scikit-image's 11 photographs and two crops of each as JPEG; the whole ones come first by name."""
    whole = [(name, shipped(name)) for name in PHOTOGRAPHS]
    corners = [(f"{name}-{part}", crop(picture, part)) for name, picture in whole for part in ("top", "bottom")]
    paths = []
    for number, (name, picture) in enumerate([*whole, *corners]):
        paths.append(folder / f"{number:02d}-{name}.jpg")
        picture.save(paths[-1], quality=95)
    return paths


def shipped(name: str) -> Image.Image:
    from skimage import data

    picture = Image.fromarray(np.asarray(getattr(data, name)())).convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    return picture


def crop(picture: Image.Image, part: str) -> Image.Image:
    width, height = picture.size
    w, h = int(0.6 * width), int(0.6 * height)
    return picture.crop((0, 0, w, h) if part == "top" else (width - w, height - h, width, height))


def write_voc(folder: Path, *, train: int = 8, val: int = 8) -> Path:
    """Write a VOC 2012: a photograph pasted on the texture of another is the object, and where it lies is its box."""
    for part in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    draw = np.random.default_rng(0)
    names = [f"2007_{number:06d}" for number in range(train + val)]
    for number, name in enumerate(names):
        height, width = (150, 200) if number % 3 else (200, 150)
        scene = shipped(GROUNDS[number // 4 % 4]).resize((width, height))
        kind = number % 4
        h, w = (int(side) for side in draw.integers(50, 90, 2))
        top, left = int(draw.integers(0, height - h)), int(draw.integers(0, width - w))
        scene.paste(shipped(OBJECTS[kind]).resize((w, h)), (left, top))
        scene.save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
        mask = np.zeros((height, width), np.uint8)
        mask[top : top + h, left : left + w] = kind + 1
        mask_picture = Image.fromarray(mask, mode="P")
        mask_picture.putpalette([value for value in range(256) for _ in range(3)])
        mask_picture.save(folder / "SegmentationClass" / f"{name}.png")
        (folder / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename><size><width>{width}</width><height>{height}</height>"
            f"<depth>3</depth></size><object><name>{OBJECTS[kind]}</name><difficult>0</difficult><bndbox>"
            f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{left + w}</xmax><ymax>{top + h}</ymax>"
            "</bndbox></object></annotation>"
        )
    for side, listed in (("train", names[:train]), ("val", names[train:]), ("trainval", names)):
        for task in ("Main", "Segmentation"):
            (folder / "ImageSets" / task / f"{side}.txt").write_text("\n".join(listed) + "\n")
    return folder
