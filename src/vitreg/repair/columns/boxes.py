"""Whether a model still finds objects: LOST's box (CorLoc), and the patch most like the class token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from torch import Tensor

from vitreg.data.boxes.truth import BoxSet, ImageBoxes
from vitreg.discovery.boxes import hits, to_pixels
from vitreg.discovery.features import automatic_bias, prepare
from vitreg.discovery.lost import lost_batch
from vitreg.errors import UserError
from vitreg.passes.view import View
from vitreg.repair.columns.column import Column, PerImage
from vitreg.repair.columns.data import Truth
from vitreg.repair.columns.reading import Reader, Reading

INSIDE = 0.6  # of white; a border is grey at most


def truth_on(view: View, names: Sequence[str], boxes: BoxSet) -> Truth:
    """Return true boxes where the model sees them, after resizing and cropping.

    Raises:
        UserError: if no image has boxes.
    """
    found = [_of_image(view, boxes.find(name)) for name in names]
    if not any(len(each) for _, each in found):
        raise UserError(
            f"'{boxes.source}' has no boxes for these images; it has some for {boxes.example()}, for instance."
        )
    return Truth(torch.stack([inside for inside, _ in found]), [each for _, each in found])


def _of_image(view: View, boxes: ImageBoxes | None) -> tuple[Bool[Tensor, "P"], Float[Tensor, "objects 4"]]:
    rows, cols = view.layout.grid
    inside, kept = torch.zeros(rows, cols, dtype=torch.bool), []
    for box in () if boxes is None or boxes.size is None else boxes.boxes:
        seen = painted(view, boxes.size, box)  # type: ignore[union-attr]
        if not bool(seen.any()):
            continue  # cropped away
        down, across = seen.any(1).nonzero(), seen.any(0).nonzero()
        kept.append([float(across[0]), float(down[0]), float(across[-1]) + 1, float(down[-1]) + 1])
        inside |= _centres(seen, view.backbone.anatomy.patch, (rows, cols))
    return inside.flatten(), torch.tensor(kept, dtype=torch.float64).reshape(-1, 4)


def painted(view: View, size: tuple[int, int], box: np.ndarray) -> Bool[Tensor, "H W"]:
    """Return which pixels of the model's input lie in a box of the picture."""
    picture = Image.new("RGB", (size[1], size[0]))
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    ImageDraw.Draw(picture).rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), fill=(255, 255, 255))
    return as_seen(view, picture) > INSIDE


def as_seen(view: View, picture: Image.Image) -> Float[Tensor, "H W"]:
    """Return how white each pixel of the model's input is, of a picture painted in white: it is prepared like any other."""
    pixels = torch.from_numpy(view.pictures.pixels(picture)).permute(2, 0, 1)[None].float() / 255
    return view.fit(pixels)[0, 0]


def _centres(seen: Bool[Tensor, "H W"], patch: tuple[int, int], grid: tuple[int, int]) -> Bool[Tensor, "rows cols"]:
    rows, cols = (
        (torch.arange(n) * step + step // 2).clamp_max(side - 1)
        for n, step, side in zip(grid, patch, seen.shape, strict=True)
    )
    return seen[rows][:, cols]


def point_in_box(reading: Reading) -> PerImage:
    """Return of each image with boxes whether the patch most like CLS (the mean patch without one) lies in a box."""
    truth = reading.reader.held_out.truth
    assert truth is not None
    alike = F.cosine_similarity(reading.patches, reading.summary[:, None], dim=-1).nan_to_num(-2.0)
    best = alike.argmax(1).cpu()
    inside = truth.inside[reading.place]
    known = torch.tensor([bool(len(each)) for each in truth.boxes[reading.place]], dtype=torch.float64)
    return inside[torch.arange(len(best)), best].double() * known, known


def corloc(reading: Reading) -> PerImage:
    """Return of each image with boxes whether LOST's box, of the keys of the last block, overlaps one by half."""
    reader = reading.reader
    truth, layout = reader.held_out.truth, reading.trace.layout_before(-1)
    assert truth is not None
    keys = layout.take(reading.trace.projected_qkv(-1).k.transpose(1, 2).flatten(2).float(), fill=0.0)
    features = prepare(keys, "center+l2")
    found = lost_batch(features, layout.grid, bias=automatic_bias(features))
    patch, size = reader.backbone.anatomy.patch, (reading.images.shape[-2], reading.images.shape[-1])
    boxes = [(0.0, 0.0, 0.0, 0.0) if each.box is None else to_pixels(each.box, patch, size) for each in found]
    true = truth.boxes[reading.place]
    known = torch.tensor([bool(len(each)) for each in true], dtype=torch.float64)
    return hits(boxes, list(true)).double() * known, known


def _moved(reader: Reader) -> str:
    return "the images are changed before the model sees them" if reader.backbone.edits_images else ""


def _keyless(reader: Reader) -> str:
    unknown = "" if reader.backbone.anatomy.attention else "the keys of its attention are not recognised"
    return _moved(reader) or unknown


COLUMNS = (
    Column(
        name="point_in_box", title="point in box", side="gain", better="larger", unit="%",
        meaning="Share of the images with boxes in which the final patch most like CLS (the mean patch without one) lies in one.",
        measure=point_in_box, counts="images", least=1.0, needs="boxes", lacks=_moved,
    ),
    Column(
        name="corloc", title="CorLoc", side="gain", better="larger", unit="%",
        meaning="Share of the images with boxes in which LOST's box (keys of the last block, centred, unit length, automatic "
        "bias) overlaps one with an IoU of at least 0.5, at the size the model sees.",
        measure=corloc, counts="images", least=1.0, needs="boxes", lacks=_keyless,
    ),
)  # fmt: skip
