"""Whether a linear layer still tells the class of every pixel: mIoU, where masks are given.

The head is least squares from a final patch to the share of each class in it (`vitreg.probes.ridge`), its values
interpolated between patches as those of DINOv2's heads are. It is fitted anew to every repaired model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from vitreg.data.sets.pair_files import MAPS
from vitreg.data.sets.pairs import read_map
from vitreg.data.sets.settings import IGNORE
from vitreg.data.sources.decode import Unreadable, header
from vitreg.errors import UserError
from vitreg.passes.view import View
from vitreg.probes.dense.heads import classified
from vitreg.probes.ridge import Ridge, SplitMoments
from vitreg.repair.columns.boxes import INSIDE, as_seen
from vitreg.repair.columns.column import Column, PerImage
from vitreg.repair.columns.data import Masks
from vitreg.repair.columns.probes import choosing, covered
from vitreg.repair.columns.reading import Reader


def masks_on(view: View, fit: Sequence[str], held_out: Sequence[str], folder: Path, ignore: int = IGNORE) -> Masks:
    """Return the class of every pixel that a model sees, after resizing and cropping; images without a mask have none.

    Args:
        fit, held_out: names of the images; a mask has the stem of its image.
        ignore: label of pixels without a class.
    Raises:
        UserError: if no image of either part has a mask, for a mask of another size than its image, or one that is no
            map of classes.
    """
    files = _files(folder)
    parts = [
        torch.from_numpy(np.stack([_of_image(view, name, files, ignore) for name in names]))
        for names in (fit, held_out)
    ]
    if not all(bool((part != IGNORE).any()) for part in parts):
        have = f"it has some for {next(iter(files))}, for instance" if files else f"it holds no {', '.join(MAPS)}"
        raise UserError(f"'{folder}' has no masks for these images; {have}.")
    classes = 1 + max(int(part[part != IGNORE].max()) for part in parts)
    return Masks(parts[0], parts[1], classes)


def _files(folder: Path) -> dict[str, Path]:
    """Return the masks of a folder and those below it, by stem."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MAPS:
            other = found.setdefault(path.stem, path)
            if other is not path:
                raise UserError(f"'{other}' and '{path}' are both masks of {path.stem}; keep one.")
    return found


def _of_image(view: View, name: str, files: dict[str, Path], ignore: int) -> UInt8[np.ndarray, "H W"]:
    path = files.get(PurePosixPath(name.replace("\\", "/")).stem)
    if path is None:
        return np.full(view.size, IGNORE, np.uint8)
    try:
        labels = read_map(str(path))
    except Unreadable as error:
        raise UserError(f"'{path}' cannot be read: {error}.") from None
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise UserError(f"'{path}' is no mask: a mask has one whole number, its class, at every pixel.")
    _refuse_another_size(name, path, labels.shape)
    labels = np.where(labels == ignore, IGNORE, labels.astype(np.int64))
    if labels.min() < 0 or labels.max() > IGNORE:
        raise UserError(
            f"'{path}' has the label {labels.min() if labels.min() < 0 else labels.max()}; classes are 0 to 254."
        )
    return seen_classes(view, labels.astype(np.uint8))


def _refuse_another_size(name: str, path: Path, shape: tuple[int, ...]) -> None:
    """Compare a mask with its image, where that is a file of its own."""
    try:
        with Path(name).open("rb") as file:
            size = header(file).size
    except (OSError, Unreadable):
        return
    if sorted(size) != sorted(shape):  # a picture on its side has its mask upright
        raise UserError(
            f"'{path}' has {shape[0]}x{shape[1]} pixels (height x width) and its image {size[1]}x{size[0]}; they must be the same."
        )


def seen_classes(view: View, labels: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "H W"]:
    """Return the class of every pixel of a model's input, given that of every pixel of a picture.

    Each class is painted in white and prepared like a picture, so a mask goes wherever its picture goes. A pixel has the
    class that fills most of it, none if that is less than `INSIDE` of it.
    """
    best = torch.full(view.size, INSIDE)
    found = torch.full(view.size, IGNORE, dtype=torch.uint8)
    for label in np.unique(labels):
        white = as_seen(view, Image.fromarray((labels == label).astype(np.uint8) * 255).convert("RGB"))
        more = white > best
        best, found = torch.where(more, white, best), torch.where(more, torch.tensor(label), found)
    return found.numpy()


def miou(reader: Reader) -> PerImage:
    """Return intersections and unions of every held-out image and class, of the head that is fitted to this model."""
    masks, backbone, subject = reader.held_out.masks, reader.backbone, reader.subject
    assert masks is not None
    moments, start = SplitMoments(), 0
    for images in subject.batches("fit"):
        tokens = backbone(images)
        labels = covered(backbone, masks.fit[start : start + len(images), None])[:, 0]
        wanted = shares(labels, tokens.layout.grid, masks.classes)  # [B, P, C]
        chooses = choosing(start, len(images))
        for each, target, own in zip(tokens.patches.float(), wanted, chooses, strict=True):
            known = (target.sum(1) > 0) & tokens.layout.present
            moments.add(each[None, known.to(each.device)], target[None, known].to(each.device), own[None])
        start += len(images)
    fit, choose = moments.both()
    head = Ridge().fit(fit, choose).map_
    parts, start = list[PerImage](), 0
    for images in subject.batches("held_out"):
        tokens = backbone(images)
        labels = covered(backbone, masks.held_out[start : start + len(images), None])[:, 0].long()
        logits = head(tokens.patches.float()).nan_to_num(0.0).transpose(1, 2).unflatten(2, tokens.layout.grid)
        parts.append(overlaps(classified(logits, labels.shape[1:]).cpu(), labels, masks.classes))
        start += len(images)
    return torch.cat([both for both, _ in parts]), torch.cat([either for _, either in parts])


def shares(labels: UInt8[Tensor, "B H W"], grid: tuple[int, int], classes: int) -> Float[Tensor, "B P C"]:
    """Return the share of each class among the pixels of every patch that have a class; zeros where none has."""
    rows, cols = grid
    cut = labels.unflatten(2, (cols, -1)).unflatten(1, (rows, -1)).permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)
    patches, bins = cut.shape[0] * cut.shape[1], classes + 1  # the last: no class
    index = torch.arange(patches)[:, None] * bins + cut.flatten(0, 1).long().clamp_max(classes)
    counts = torch.bincount(index.flatten(), minlength=patches * bins).view(*cut.shape[:2], bins)[..., :classes].float()
    return counts / counts.sum(2, keepdim=True).clamp_min(1.0)


def overlaps(found: Int64[Tensor, "B H W"], true: Int64[Tensor, "B H W"], classes: int) -> PerImage:
    """Return the pixels of each class that are found rightly, and those found or true, of every image."""
    counted = true != IGNORE
    rows = []
    for one, other, which in zip(found, true, counted, strict=True):
        both = torch.bincount(other[which][one[which] == other[which]], minlength=classes)
        either = torch.bincount(one[which], minlength=classes) + torch.bincount(other[which], minlength=classes) - both
        rows.append(torch.stack([both, either]).double())
    stacked = torch.stack(rows)
    return stacked[:, 0], stacked[:, 1]


def _lacks(reader: Reader) -> str:
    if reader.backbone.edits_images:
        return "the images are changed before the model sees them"
    masks = reader.held_out.masks
    fitted = None if masks is None else (masks.fit != IGNORE).flatten(1).any(1)
    if fitted is None or (
        bool((fitted & choosing(0, len(fitted))).any()) and bool((fitted & ~choosing(0, len(fitted))).any())
    ):
        return ""
    return "too few of the images to fit on have a mask"


COLUMNS = (
    Column(
        name="miou", title="mIoU", side="gain", better="larger", unit="%", least=0.5, needs="masks", lacks=_lacks,
        meaning="Mean over classes of the intersection over union with the masks, of a linear layer on the final patches fitted by "
        "least squares on the images to fit on; a class that is found but never true counts as 0.",
        run=miou,
    ),
)  # fmt: skip
