"""Patches of photographs for `synthetic:retrieval`: crops of an album, their codes, their clusters and their segments.

A code is the first whitened principal components of a patch, computed once for an album from a sample of its patches. All
depends on the photographs alone; another build of the linear algebra may round a number to the next byte.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from PIL import Image

from vitreg.data.sets.example import picture
from vitreg.data.sets.synthetic.parameters import PATCH, SHIPPED, USUAL, RetrievalParameters
from vitreg.data.sets.synthetic.photographs import PHOTOGRAPHS, photograph
from vitreg.data.sets.synthetic.segments import images_in, paired, read_segments, segments_of
from vitreg.data.sources.decode import Unreadable
from vitreg.data.sources.parts import OnDisk
from vitreg.errors import UserError

SCALES = (1.25, 2.0)
"""Shorter side of a photograph over the side of a crop; it is not enlarged beyond the first."""
MOST, MOST_BYTES = 300, 200_000_000
"""Photographs of a folder that are kept, spread evenly, and bytes that they may take."""
SAMPLE = 16_384
"""Patches, about, of which components and clusters are made."""
ROUNDS = 15
"""Of k-means."""


@dataclass(frozen=True, slots=True)
class Crop:
    """The patches of one crop, row by row.

    Args:
        contrast: see `contrast_of`.
        segments: 0 for the largest of the crop; -1 for none; None without masks.
    """

    pixels: UInt8[np.ndarray, "N p p 3"]
    codes: Float32[np.ndarray, "N Z"]
    contrast: Float64[np.ndarray, " N"]
    segments: Int64[np.ndarray, " N"] | None


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph at one size, with the class of each pixel if there is a mask."""

    pixels: UInt8[np.ndarray, "H W 3"]
    classes: UInt8[np.ndarray, "H W"] | None = None


class Album:
    """Photographs, and what turns crops of them into codes and tags."""

    def __init__(self, photographs: list[list[Photograph]], given: RetrievalParameters) -> None:
        self._photographs, self._given = photographs, given
        draw = np.random.Generator(np.random.PCG64([0, 3]))
        crops = [self._cut(draw)[0] for _ in range(max(16, SAMPLE // given.grid**2))]
        self._mean, self._projection = components(_flat(np.concatenate(crops)), given.code)
        self._sample = np.concatenate([self._codes(each) for each in crops])
        self._centres: list[Float32[np.ndarray, "T z"]] = []
        if given.tagged == "content":
            self._centres = [centres_of(part, given.kinds, draw) for part in self._parts(self._sample)]

    def crop(self, draw: np.random.Generator) -> Crop:
        """Cut a crop, mirrored half of the time."""
        pixels, classes = self._cut(draw)
        segments = None if classes is None else segments_of(classes, self._given.kinds)
        return Crop(pixels, self._codes(pixels), contrast_of(pixels), segments)

    def clusters_of(self, codes: Float32[np.ndarray, "N Z"]) -> Int64[np.ndarray, "N J"]:
        """Return the tags of codes: for each part of a code the nearest centre."""
        pairs = zip(self._parts(codes), self._centres, strict=True)
        return np.stack([_nearest(part, centres) for part, centres in pairs], 1)

    def bound(self, share: float) -> float:
        """Return the bound above which the last number of a code is in a share of the patches."""
        return float(np.quantile(self._sample[:, -1], 1 - share)) if share < 1 else -np.inf

    def _parts(self, codes: np.ndarray) -> list[np.ndarray]:
        return np.array_split(codes, self._given.tags, axis=1)

    def _codes(self, pixels: np.ndarray) -> Float32[np.ndarray, "N Z"]:
        return (_flat(pixels) - self._mean) @ self._projection

    def _cut(self, draw: np.random.Generator) -> tuple[UInt8[np.ndarray, "N p p 3"], np.ndarray | None]:
        """Return the patches of a random crop, and the classes of their pixels [N, p, p]."""
        sizes = self._photographs[draw.integers(len(self._photographs))]
        found = sizes[draw.integers(len(sizes))]
        side = self._given.grid * PATCH
        top, left = (draw.integers(length - side + 1) for length in found.pixels.shape[:2])
        step = draw.choice((1, -1))

        def patches(whole: np.ndarray) -> np.ndarray:
            cut = whole[top : top + side, left : left + side][:, ::step]
            rows = cut.reshape(self._given.grid, PATCH, self._given.grid, PATCH, -1).transpose(0, 2, 1, 3, 4)
            return rows.reshape(self._given.grid**2, PATCH, PATCH, -1)

        return patches(found.pixels), None if found.classes is None else patches(found.classes)[..., 0]


def album_of(given: RetrievalParameters) -> Album:
    """Return the album of some parameters, made once for all that share what it depends on.

    Raises:
        UserError: for a folder without photographs, or without masks if tags are segments, or without scikit-image.
    """
    of_tags = ("tags", "kinds", "tagged") if given.tagged != "drawn" else ()
    kept = {name: getattr(given, name) for name in ("grid", "code", "photos", *of_tags)}
    return _album(replace(USUAL, **kept))


def check_photographs(given: RetrievalParameters) -> None:
    """Make sure that the photographs of some parameters are there, without reading them.

    Raises:
        UserError: as `album_of` does.
    """
    if given.photos:
        listed(given.photos, masks=given.tagged == "segments")


@functools.lru_cache(maxsize=2)
def _album(given: RetrievalParameters) -> Album:
    masks = given.tagged == "segments"
    files = listed(given.photos, masks=masks)
    side = given.grid * PATCH
    if files is None:
        return Album([_sizes(photograph(name), None, side) for name in PHOTOGRAPHS], given)
    most = min(MOST, max(1, MOST_BYTES // round(sum(3 * (scale * side) ** 2 for scale in SCALES))))
    kept = [files[number * len(files) // most] for number in range(most)] if len(files) > most else files
    found = [sizes for image, mask in kept if (sizes := _read(image, mask, side))]
    if not found:
        raise UserError(f"none of {len(kept)} photographs in '{given.photos}' can be read.")
    return Album(found, given)


def listed(photos: str, *, masks: bool = False) -> list[tuple[str, str]] | None:
    """Return the files of photographs, each with its mask, "" without; None for those of scikit-image.

    Raises:
        UserError: if there are none, or scikit-image is missing.
    """
    if photos == SHIPPED:
        try:
            photograph(PHOTOGRAPHS[0])
        except (ImportError, OSError):
            raise UserError(
                f"photos={SHIPPED} of synthetic:retrieval needs scikit-image, which is not installed; name a folder of "
                "photographs, photos=FOLDER."
            ) from None
        return None
    if not os.path.isdir(photos):
        raise UserError(
            f"photos of synthetic:retrieval is {SHIPPED} or a folder of photographs; there is no folder '{photos}'."
        )
    if masks:
        return paired(photos)
    if not (files := images_in(photos)):
        raise UserError(f"the folder '{photos}' holds no photographs.")
    return [(path, "") for path in files]


def _read(image: str, mask: str, side: int) -> list[Photograph]:
    try:
        opened = picture(OnDisk(image, image))
        return _sizes(opened, read_segments(mask, opened.size) if mask else None, side)
    except Unreadable:
        return []


def _sizes(image: Image.Image, mask: Image.Image | None, side: int) -> list[Photograph]:
    """Return a photograph at each of `SCALES` that does not enlarge it; at the first in any case."""
    found = []
    for scale in SCALES:
        factor = round(scale * side) / min(image.size)
        if scale != SCALES[0] and factor > 1:
            continue
        size = (max(side, round(image.width * factor)), max(side, round(image.height * factor)))
        pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
        classes = None if mask is None else np.asarray(mask.resize(size, Image.Resampling.NEAREST))
        found.append(Photograph(pixels, classes))
    return found


def contrast_of(pixels: UInt8[np.ndarray, "N p p 3"]) -> Float64[np.ndarray, " N"]:
    """Return the standard deviation of the pixels of a channel, in bytes, mean of the channels. Sums are exact."""
    values = pixels.reshape(len(pixels), -1, 3).astype(np.float32)
    sums = np.einsum("npc->nc", values).astype(np.float64)
    squares = np.einsum("npc,npc->nc", values, values).astype(np.float64)
    count = values.shape[1]
    return np.sqrt(np.maximum(0, count * squares - sums**2)).mean(-1) / count


def components(
    patches: Float32[np.ndarray, "n F"], count: int
) -> tuple[Float32[np.ndarray, " F"], Float32[np.ndarray, "F count"]]:
    """Return the mean of patches, and what projects the rest onto the first components, each of variance 1.

    The sign of a component is such that its largest weight is positive.
    """
    mean = patches.mean(0, dtype=np.float64)
    centred = patches - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(patches))
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(count)])
    return mean.astype(np.float32), (vectors / np.sqrt(np.maximum(values, 1e-12))).astype(np.float32)


def centres_of(
    points: Float32[np.ndarray, "n z"], count: int, draw: np.random.Generator
) -> Float32[np.ndarray, "count z"]:
    """Return the centres of k-means, from points that are drawn; a centre that loses its points stays."""
    centres: Float64[np.ndarray, "count z"] = points[draw.permutation(len(points))[:count]].astype(np.float64)
    for _ in range(ROUNDS):
        owner = _nearest(points, centres)
        for number in np.unique(owner):
            centres[number] = points[owner == number].mean(0)
    return centres.astype(np.float32)


def _nearest(points: np.ndarray, centres: np.ndarray) -> Int64[np.ndarray, " n"]:
    return ((points[:, None] - centres) ** 2).sum(-1).argmin(1)


def _flat(pixels: UInt8[np.ndarray, "N p p 3"]) -> Float32[np.ndarray, "N F"]:
    return pixels.reshape(len(pixels), -1).astype(np.float32) / 255
