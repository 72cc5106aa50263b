"""Pictures with a class or a depth for every pixel, read one at a time: sets for dense probes, and for training.

All kinds are sets of pictures like any other (`TrainingSet`), with `map(i)` beside `read(i)`. A picture and its map
have the same size in pixels, or the set is refused; numbers on a grid cover their picture, whatever its size.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from vitreg.data.sets import pair_files
from vitreg.data.sets.example import Example, Pairs, Portion, Strings, TrainingSet, picture
from vitreg.data.sets.pair_files import DEPTH_FOLDERS, MASK_FOLDERS, NUMBER_FOLDERS, SIDES, VOC_CLASSES, PairFiles
from vitreg.data.sets.settings import IGNORE, DataConfig
from vitreg.data.sets.spelling import spelled
from vitreg.data.sets.synthetic.naming import named
from vitreg.data.sets.synthetic.opened import depth_sides, mask_sides, number_sides
from vitreg.data.sources.decode import Unreadable, header, numbers, unsure_which_way
from vitreg.data.sources.parts import OnDisk, label
from vitreg.errors import UserError

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_MOST_CLASSES = 255


class FilePairs(ABC):
    """Pictures with a map for each, in files; `MaskSet` and `DepthSet` say what the map means."""

    def __init__(self, files: PairFiles) -> None:
        self.title, self.notes = files.title, files.notes
        self.classes: tuple[str, ...] | None = None
        self.labels = None
        self._images, self._maps = Strings(files.images), Strings(files.maps)

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self._images)

    def read(self, index: int) -> Example:
        """Decode a picture. Raises Unreadable."""
        return Example(picture(OnDisk(self.name(index), self._images[index])))

    def name(self, index: int) -> str:
        """Return the path of a picture."""
        return label(self._images[index])

    def map_name(self, index: int) -> str:
        """Return the path of a map."""
        return label(self._maps[index])

    @abstractmethod
    def map(self, index: int) -> np.ndarray:
        """Read a map [H, W]. Raises Unreadable or UserError."""

    @abstractmethod
    def empty(self, values: np.ndarray) -> str:
        """Return why nothing can be learned from a map; "" if something can."""

    def _values(self, index: int) -> np.ndarray:
        """Read a map [H, W].

        Raises:
            Unreadable: for a damaged file, or a picture that was perhaps turned after its map was drawn.
            UserError: if the picture has another size.
        """
        values = read_map(self._maps[index])
        if values.ndim != 2:
            raise UserError(
                f"'{self.map_name(index)}' has {values.shape[-1] if values.ndim == 3 else values.ndim} channels; a map has "
                "one, with a class number or a distance at every pixel."
            )
        size, orientation = _picture_size(self._images[index])
        if values.shape != size:
            raise UserError(
                f"'{self.map_name(index)}' has {values.shape[0]}x{values.shape[1]} pixels (height x width) and its image "
                f"{size[0]}x{size[1]}; they must be the same."
            )
        if unsure := unsure_which_way(orientation, size, values.shape):
            raise Unreadable(unsure)
        return values


class MaskSet(FilePairs):
    """Pictures with a class for every pixel.

    Args:
        names: of the classes, in the order of their numbers.
        ignore: number in the files of pixels that have no class.
        reduce_zero: number 0 is no class either, and the others count from 1 (ADE20k).
    Raises:
        UserError: for more than 255 classes.
    """

    def __init__(
        self, files: PairFiles, names: tuple[str, ...], *, ignore: int = IGNORE, reduce_zero: bool = False
    ) -> None:
        super().__init__(files)
        if len(names) > _MOST_CLASSES:
            raise UserError(f"{len(names)} classes of pixels; up to {_MOST_CLASSES} work.")
        self.names = self.classes = names
        self._ignore, self._reduce_zero = ignore, reduce_zero

    def map(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Read the class of every pixel, 255 where there is none.

        Raises:
            Unreadable: for a damaged file.
            UserError: for a number that is no class, or a picture of another size.
        """
        values = self._values(index)
        if values.dtype.kind not in "iub":
            raise UserError(f"'{self.map_name(index)}' holds {values.dtype} values; classes are whole numbers.")
        numbers = values.astype(np.int64)
        none = numbers == self._ignore
        if self._reduce_zero:
            none |= numbers == 0
            numbers = numbers - 1
        wrong = np.unique(numbers[~none & ((numbers < 0) | (numbers >= len(self.names)))])
        if len(wrong):
            first = 1 if self._reduce_zero else 0
            raise UserError(
                f"'{self.map_name(index)}' has the label {wrong[0] + first} where classes are "
                f"{first}..{len(self.names) - 1 + first} and {self._ignore} marks no class; set --classes or --ignore."
            )
        return np.where(none, IGNORE, numbers).astype(np.uint8)

    def empty(self, values: np.ndarray) -> str:
        """Return the reason for a mask without a class."""
        return "" if (values != IGNORE).any() else "no pixel has a class"


class DepthSet(FilePairs):
    """Pictures with a distance for every pixel.

    Args:
        scale: metres that a value of 1 in the files stands for; if None, 0.001 for 16-bit integers and 1 for floats.
    """

    def __init__(self, files: PairFiles, *, scale: float | None = None) -> None:
        super().__init__(files)
        self._scale = scale

    def map(self, index: int) -> Float32[np.ndarray, "H W"]:
        """Read the distance of every pixel in metres, 0 where it is not known: zero, negative, NaN or infinite.

        Raises:
            Unreadable: for a damaged file.
            UserError: for 8-bit values without a scale, or a picture of another size.
        """
        values = self._values(index)
        scale = self._scale
        if scale is None and values.dtype.kind in "iub":
            if values.dtype.itemsize == 1:
                raise UserError(
                    f"'{self.map_name(index)}' has 8-bit depths of unknown unit; pass --depth-scale, "
                    "the metres of one step, such as 0.0392157 where 255 is 10 m."
                )
            scale = 0.001
        metres = values.astype(np.float32) * np.float32(1.0 if scale is None else scale)
        return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))

    def empty(self, values: np.ndarray) -> str:
        """Return the reason for a map without a distance."""
        return "" if (values > 0).any() else "no pixel has a known depth"


class NumberSet(FilePairs):
    """Pictures with numbers on a grid, such as features of another model for every patch: an .npy [rows, cols, C] each."""

    def map(self, index: int) -> Float32[np.ndarray, "rows cols C"]:
        """Read the numbers. Raises Unreadable, or UserError for what is no grid of numbers."""
        values = read_map(self._maps[index])
        values = values[..., None] if values.ndim == 2 else values
        if values.ndim != 3 or values.dtype.kind not in "fiub":
            raise UserError(
                f"'{self.map_name(index)}' holds {values.dtype} values of shape {list(values.shape)}; numbers on a grid are "
                "[rows, cols, C]."
            )
        return values.astype(np.float32)

    def empty(self, values: np.ndarray) -> str:
        """Return the reason for a grid without a number."""
        return "" if np.isfinite(values).any() else "no number is finite"


class MappedSet:
    """Pairs as a training set: the target of a picture is its map."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs, self.classes, self.labels, self.notes = pairs, pairs.classes, None, pairs.notes

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.pairs)

    def read(self, index: int) -> Example:
        """Decode a picture and its map. Raises Unreadable or UserError."""
        return Example(self.pairs.read(index).image, self.pairs.map(index))

    def name(self, index: int) -> str:
        """Return the path of a picture."""
        return self.pairs.name(index)


def open_mapped(config: DataConfig, kind: Literal["mask", "numbers"]) -> tuple[TrainingSet, TrainingSet]:
    """Open both sides of pictures with masks (see `open_masks`), or of synthetic:retrieval or ROOT/{train,val or
    test}/{images,numbers}.

    Raises:
        UserError: if something is missing.
    """
    if config.val is not None:
        raise UserError("--data.val is for whole images; pictures with maps have both sides in --data.root.")
    if kind == "mask":
        masks = open_masks(config.root)
        sides: tuple[Pairs, Pairs] = (masks.train, masks.test)
    else:
        drawn = named(config.root)
        if drawn is not None:
            train, val = number_sides(drawn)
            return _some(train, config.limit), _some(val, config.limit_val)
        _, root = _kind_and_root(config.root, ())
        found = [pair_files.folder(root, side, NUMBER_FOLDERS) for side in SIDES]
        sides = (NumberSet(found[0]), NumberSet(found[1]))
    train, val = map(MappedSet, sides)
    return _some(train, config.limit), _some(val, config.limit_val)


def _some(data: TrainingSet, limit: int | None) -> TrainingSet:
    return data if limit is None or limit >= len(data) else Portion(data, limit)


@dataclass(frozen=True, slots=True)
class MaskSides:
    """Training and test side for a segmentation head, and the names of the classes."""

    train: Pairs
    test: Pairs
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DepthSides:
    """Training and test side for a depth head."""

    train: Pairs
    test: Pairs


def open_masks(
    data: str, *, limit: int | None = None, masks: str | None = None, classes: int | None = None, ignore: int = IGNORE
) -> MaskSides:
    """Open both sides of voc2012:ROOT, ade20k:ROOT, synthetic:scenes, or a folder ROOT/{train,val or test}/{images,masks}.

    Args:
        limit: use at most this many pairs of each side, spread evenly.
        masks: name of the folder of masks in a plain folder; usual names are found by themselves.
        classes: how many there are in a plain folder; one more than the largest label of the training side if None.
        ignore: label of pixels without a class, in a plain folder.
    Raises:
        UserError: if something is missing, or there are fewer than two pairs to learn from.
    """
    drawn = named(data)
    if drawn is not None:
        train, test, names = mask_sides(drawn, limit)
        _enough(data, len(train))
        return MaskSides(train, test, names)
    kind, root = _kind_and_root(data, ("voc2012", "ade20k"))
    if kind:
        ignore = IGNORE
    finders = {"voc2012": pair_files.voc, "ade20k": pair_files.ade20k}
    found = {}
    for side in SIDES:
        files = (
            finders[kind](root, side) if kind else pair_files.folder(root, side, (masks,) if masks else MASK_FOLDERS)
        )
        found[side] = pair_files.thinned(files, limit)
    _enough(data, len(found["train"].images))
    if classes is not None and classes < 1:
        raise UserError(f"--classes must be at least 1, not {classes}.")
    if kind:
        names = VOC_CLASSES if kind == "voc2012" else pair_files.ade20k_names(root)
    else:
        names = tuple(map(str, range(_count_classes(found["train"], ignore) if classes is None else classes)))
    train, test = (MaskSet(found[side], names, ignore=ignore, reduce_zero=kind == "ade20k") for side in SIDES)
    return MaskSides(train, test, names)


def open_depths(data: str, *, limit: int | None = None, scale: float | None = None) -> DepthSides:
    """Open both sides of nyud:ROOT, synthetic:scenes, or of a folder ROOT/{train,val or test}/{image,depth}.

    Args:
        limit: use at most this many pairs of each side, spread evenly.
        scale: metres of one step in the depth files, see `DepthSet`.
    Raises:
        UserError: if something is missing, or there are fewer than two pairs to learn from.
    """
    if scale is not None and not scale > 0:
        raise UserError(f"--depth-scale {scale:g} is no length; 0.001 is a millimetre.")
    drawn = named(data)
    if drawn is not None:
        train, test = depth_sides(drawn, limit)
        _enough(data, len(train))
        return DepthSides(train, test)
    kind, root = _kind_and_root(data, ("nyud",))
    found = {}
    for side in SIDES:
        files = pair_files.nyud(root, side) if kind else pair_files.folder(root, side, DEPTH_FOLDERS)
        found[side] = pair_files.thinned(files, limit)
    _enough(data, len(found["train"].images))
    return DepthSides(*(DepthSet(found[side], scale=scale) for side in SIDES))


def _kind_and_root(data: str, kinds: tuple[str, ...]) -> tuple[str, str]:
    kind, colon, root = spelled(data, voc="voc2012").partition(":")
    if not data or (colon and not root):
        known = ", ".join(f"{kind}:ROOT" for kind in kinds)
        raise UserError(f"no data: name {known} or a folder.")
    if colon and kind in ("voc2012", "ade20k", "nyud"):
        if kind not in kinds:
            raise UserError(f"'{data}' is no data for this task; it takes {' or '.join(kinds)}:ROOT, or a folder.")
    else:
        kind, root = "", data
    root = os.path.expanduser(root)
    if not os.path.isdir(root):
        raise UserError(f"no folder '{root}'.")
    return kind, root


def _enough(data: str, images: int) -> None:
    if images < 2:
        raise UserError(
            f"only one image to learn from in '{data}'; a head needs two at least, and many more to be good."
        )


def _count_classes(files: PairFiles, ignore: int) -> int:
    """Look through all masks of a plain folder; return one more than the largest label."""
    masks = MaskSet(files, tuple(map(str, range(_MOST_CLASSES))), ignore=ignore)
    largest = -1
    for index in range(len(masks)):
        try:
            mask = masks.map(index)
        except Unreadable:
            continue  # reported when it is used
        largest = max(largest, int(mask[mask != IGNORE].max(initial=0)) if (mask != IGNORE).any() else -1)
    if largest < 0:
        raise UserError(f"no pixel of the {len(masks)} training masks of {masks.title} has a class.")
    return largest + 1


def _picture_size(path: str) -> tuple[tuple[int, int], int]:
    """Return (height, width) of a picture as it is decoded, upright, and its EXIF orientation. Raises Unreadable."""
    with OnDisk(path, path).file() as file:
        image = header(file)
        try:
            orientation = int(image.getexif().get(0x0112, 1))
        except Exception:  # damaged metadata does not spoil the pixels
            orientation = 1
        return ((image.width, image.height) if orientation in _SIDEWAYS else (image.height, image.width)), orientation


def read_map(path: str) -> np.ndarray:
    """Read the numbers of a map as they are, palette indices for a palette. Raises Unreadable."""
    with OnDisk(path, path).file() as file:
        if path.lower().endswith(".npy"):
            try:
                return np.load(file, allow_pickle=False)
            except (OSError, ValueError, EOFError, MemoryError, SyntaxError) as error:  # of headers too
                raise Unreadable("damaged .npy file") from error
        return numbers(file)
