"""Pictures with one bright part, and boxes around it."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.unit.verbs.discover.by_hand import PREPROCESS, SIZES, vit

from vitreg.backbones.backbone import Backbone


@pytest.fixture(scope="session")
def backbone():
    return Backbone(vit(), preprocess=PREPROCESS)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        pixels[height // 4 : height // 2, width // 4 : width // 2] += 150
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def truth(tmp_path):
    """Boxes around the bright part of all images but the last."""
    images = [{"id": n, "file_name": f"{n}.png", "height": h, "width": w} for n, (h, w) in enumerate(SIZES[:-1])]
    boxes = [{"image_id": n, "bbox": [w // 4, h // 4, w // 4, h // 4]} for n, (h, w) in enumerate(SIZES[:-1])]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes}))
    return path
