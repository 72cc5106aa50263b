"""Pictures in memory, or from a dataset one by one, instead of image files."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image

from vitreg.data.sources.decode import Unreadable, upright
from vitreg.data.sources.parts import label

T = TypeVar("T")
CHANNELS = (1, 3, 4)


def first_of(item: Any) -> Any:
    """Return the image of an item of a dataset: (image, label, ...), {"image": ...}, {"pixel_values": ...} or itself."""
    if isinstance(item, tuple | list) and item:
        return item[0]
    if isinstance(item, Mapping):
        return next((item[key] for key in ("image", "images", "pixel_values") if key in item), item)
    return item


def picture_of(thing: Any) -> Image.Image | None:
    """Convert to a PIL picture: from PIL, an array uint8 [h, w], [h, w, 3] or [h, w, 4], or a tensor uint8 [3, h, w].

    None for anything else.
    """
    if isinstance(thing, Image.Image):
        return thing
    if (
        not isinstance(thing, np.ndarray)
        and hasattr(thing, "numpy")
        and str(getattr(thing, "dtype", "")) == "torch.uint8"
    ):
        thing = thing.cpu().numpy()
        thing = np.moveaxis(thing, 0, -1) if thing.ndim == 3 else thing
    if not isinstance(thing, np.ndarray) or thing.dtype != np.uint8:
        return None
    if thing.ndim == 3 and thing.shape[2] == 1:
        thing = thing[:, :, 0]
    return Image.fromarray(thing) if thing.ndim == 2 or (thing.ndim == 3 and thing.shape[2] in CHANNELS) else None


@dataclass(frozen=True, slots=True)
class InMemory:
    """One picture of a sequence or a dataset."""

    name: str
    items: Any
    index: int

    def file(self) -> BinaryIO:
        """Raise Unreadable: there are no bytes of a file."""
        raise Unreadable("no file")

    def reduce(self, function: Callable[[Image.Image], T], min_side: int = 1) -> T:
        """Return `function` of the picture as RGB, upright.

        Raises:
            Unreadable: for a value that is no picture, or a dataset that fails to return it.
        """
        try:
            found = picture_of(first_of(self.items[self.index]))
            image = None if found is None else upright(found)
        except Exception as error:
            raise Unreadable(f"{type(error).__name__}: {error}".rstrip(": .")) from error
        if image is None:
            raise Unreadable("not a picture")
        if max(image.size) < min_side:
            raise Unreadable(f"{image.width}x{image.height} px is smaller than one patch ({min_side} px)")
        return function(image)


class Pictures:
    """Pictures in the order of a sequence or a dataset."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    @property
    def length(self) -> int:
        """How many pictures."""
        return len(self.items)

    def locate(self, index: int) -> InMemory:
        """Return one picture."""
        held = self.items[index] if isinstance(self.items, list | tuple) else None
        return InMemory(label(str(getattr(held, "filename", "") or f"image {index}")), self.items, index)

    def walk(self, first: int, step: int) -> Generator[tuple[int, InMemory], None, None]:
        """Yield (index, picture) from `first` on in steps of `step`."""
        return ((i, self.locate(i)) for i in range(first, len(self.items), step))
