"""Attention inside true boxes: maps of photographs with objects, and the boxes as the model saw them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageDraw

from vitreg.report.npz import read_npz, write_npz

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

IMAGES = 48
KEPT = "objects.npz"


def on_objects(setting: Setting, model: str) -> tuple[Float64[np.ndarray, "n R"], Float64[np.ndarray, " n"], str]:
    """Return the share of each register's attention to patches that lies in true boxes, the share of the patches that do,
    and the key of the job.

    Raises:
        UserError: if it failed, or no image has boxes.
    """
    reading = {name: value for name, value in setting.reading.items() if name != "limit"}
    limit = min(IMAGES, setting.reading["limit"] or IMAGES)

    def work(folder: Path) -> dict[str, Any]:
        from vitreg.verbs.maps.verb import maps

        pictures, masks = pictures_with_boxes(setting.boxes, limit)
        made = maps(model, pictures, what=("registers",), **reading, **setting.loads(model)).maps[0]
        # The boxes as pictures, so that they are resized and cropped as the photographs are.
        seen = maps(model, masks, what=("norm",), **reading, **setting.loads(model)).maps[0].inputs
        registers = [each for name, each in made.attention.items() if name.startswith("register")]
        inside = np.stack([_inside(mask, made.grid) for mask in seen])
        write_npz(folder / KEPT, {"attention": np.stack(registers, axis=1), "inside": inside})
        return {}

    asked = {"verb": "maps in boxes", "images": setting.data(setting.boxes), "first": limit}
    folder, key = setting.done(f"maps of objects of {model}", asked, model, work)
    attention, inside = read_npz(
        folder / KEPT, lambda arrays: (arrays["attention"].astype(np.float64), arrays["inside"])
    )
    total = np.nansum(attention, axis=(2, 3))
    share = np.nansum(attention * inside[:, None], axis=(2, 3)) / total  # [n, R]
    return share, inside.mean(axis=(1, 2)), key


def pictures_with_boxes(name: str, limit: int) -> tuple[list[Image.Image], list[Image.Image]]:
    """Return the first images of a named set that have boxes, and of each a picture that is white in its boxes.

    Raises:
        UserError: for an unknown set, or one without boxes.
    """
    from vitreg.data import ImageSource
    from vitreg.data.boxes.named import named_set
    from vitreg.errors import UserError

    found = named_set(name)
    if found is None:
        raise UserError(f"'{name}' is no set with true boxes.")
    pictures, masks = [], []
    known = ((item, found.boxes.find(item.name)) for item in ImageSource(found.images).walk())
    for item, boxes in islice(
        ((item, boxes) for item, boxes in known if boxes is not None and len(boxes.boxes)), limit
    ):
        picture = item.open()
        mask = Image.new("RGB", picture.size)
        for box in boxes.boxes:
            ImageDraw.Draw(mask).rectangle(
                [round(float(side)) - (place > 1) for place, side in enumerate(box)], fill="white"
            )
        pictures.append(picture)
        masks.append(mask)
    if not pictures:
        raise UserError(f"no image of '{name}' has a true box.")
    return pictures, masks


def _inside(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return which share of each patch is white, of a picture [H, W, 3] of whole patches."""
    (rows, cols), (height, width) = grid, mask.shape[:2]
    grey = mask[: height - height % rows, : width - width % cols].mean(axis=2) / 255
    return grey.reshape(rows, height // rows, cols, width // cols).mean(axis=(1, 3))
