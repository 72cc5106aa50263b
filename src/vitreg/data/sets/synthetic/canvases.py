"""Scenes on a canvas: regions that hold nothing, as letterboxed or padded photographs have them.

What is true of a scene moves with it: the canvas is background, at the distance of the farthest wall.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from vitreg.data.sets.synthetic.scene import Scene

FARTHEST = 9.0
"""Metres; the top of the background of a scene."""
BAR, MARGIN = 0.3, 0.25
"""Of the height of a scene: each bar of a letterbox; of both its sides: each margin of the others."""


def on_canvas(scene: Scene, canvas: str) -> Scene:
    """Return a scene between black bars (letterbox), or before one colour (flat) or itself, enlarged and blurred (blurred)."""
    height, width = scene.instances.shape
    top = round((BAR if canvas == "letterbox" else MARGIN) * height)
    left = 0 if canvas == "letterbox" else round(MARGIN * width)
    size = (width + 2 * left, height + 2 * top)
    if canvas == "blurred":
        picture = scene.image.resize(size, Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(max(size) / 16))
    else:
        mean = np.asarray(scene.image).reshape(-1, 3).mean(0).round().astype(int)
        picture = Image.new("RGB", size, tuple(mean.tolist()) if canvas == "flat" else (0, 0, 0))
    picture.paste(scene.image, (left, top))
    margins = ((top, top), (left, left))
    return replace(
        scene,
        image=picture,
        instances=np.pad(scene.instances, margins),
        depth=np.pad(scene.depth, margins, constant_values=FARTHEST),
        boxes=tuple((x0 + left, y0 + top, x1 + left, y1 + top) for x0, y0, x1, y1 in scene.boxes),
    )
