"""Features as rows, one per image, in memory or on disk: whole, subsets, or joined.

Probes read bounded numbers of rows at a time, always through `read`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vitreg.errors import UserError

Index = slice | Int64[Tensor, " b"]


class Rows(Protocol):
    """Features [n, D] of n images: a tensor, a numpy array or memmap, a block of a feature store."""

    @property
    def shape(self) -> Sequence[int]:
        """(n, D)."""
        ...

    def __len__(self) -> int:
        """Count the images."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """Return the rows of a slice or of an index tensor."""
        ...


def read(rows: Rows, index: Index) -> Float[Tensor, "b D"]:
    """Return some rows as float32; a view where they are float32 in memory already.

    Raises:
        UserError: if a value is NaN or infinite.
    """
    if isinstance(rows, np.ndarray):
        part = rows[index if isinstance(index, slice) else index.cpu().numpy()]
        part = torch.from_numpy(np.array(part))  # a copy: torch must not write into a file opened for reading
    else:
        part = torch.as_tensor(rows[index])
    part = part.float()
    if not bool(torch.isfinite(part.sum())):  # one number for all: infinity and NaN survive a sum
        whole = torch.isfinite(part).all(-1)
        if not bool(whole.all()):
            place = int((~whole).nonzero()[0])
            row = range(len(rows))[index][place] if isinstance(index, slice) else int(index[place])
            raise UserError(
                f"the features of image {row} are not finite: the model overflowed in its precision or the image is "
                "broken; try --precision fp32."
            )
    return part


def chunks(rows: Rows, size: int) -> Iterator[tuple[slice, Float[Tensor, "b D"]]]:
    """Read all rows, `size` at a time, in order."""
    for start in range(0, len(rows), size):
        place = slice(start, min(start + size, len(rows)))
        yield place, read(rows, place)


class Subset:
    """The rows of an index, in its order."""

    def __init__(self, rows: Rows, index: Int64[Tensor, " m"]) -> None:
        self._rows, self._index = rows, index
        self.shape = (len(index), rows.shape[1])

    def __len__(self) -> int:
        """Count the images."""
        return len(self._index)

    def __getitem__(self, index: Index) -> Float[Tensor, "b D"]:
        """Return some of them."""
        return read(self._rows, self._index[index])


class Joined:
    """The rows of one followed by those of the other, to train on both."""

    def __init__(self, first: Rows, second: Rows) -> None:
        if first.shape[1] != second.shape[1]:
            raise ValueError(f"rows of {first.shape[1]} and of {second.shape[1]} numbers cannot be joined")
        self._first, self._second = first, second
        self.shape = (len(first) + len(second), first.shape[1])

    def __len__(self) -> int:
        """Count the images."""
        return self.shape[0]

    def __getitem__(self, index: Index) -> Float[Tensor, "b D"]:
        """Return some of them."""
        border = len(self._first)
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        early = index < border
        part = torch.empty(len(index), self.shape[1])
        part[early] = read(self._first, index[early])
        part[~early] = read(self._second, index[~early] - border)
        return part


class Beside:
    """Several features of the same images, concatenated: such as the class token and the mean of the patches."""

    def __init__(self, blocks: Sequence[Rows]) -> None:
        lengths = {len(block) for block in blocks}
        if len(lengths) != 1:
            raise ValueError(f"features of {sorted(lengths)} images cannot stand side by side")
        self._blocks = blocks
        self.shape = (lengths.pop(), sum(block.shape[1] for block in blocks))

    def __len__(self) -> int:
        """Count the images."""
        return self.shape[0]

    def __getitem__(self, index: Index) -> Float[Tensor, "b D"]:
        """Return some of them."""
        return torch.cat([read(block, index) for block in self._blocks], dim=-1)


def check_labels(rows: Rows, labels: Int64[Tensor, " n"], classes: int) -> None:
    """Refuse labels from which nothing can be learned.

    Raises:
        UserError: for fewer than two images, labels outside 0 ... classes - 1, or images of one class only.
        ValueError: for another number of labels than images.
    """
    if len(rows) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(rows)} images")
    if len(rows) < 2:
        raise UserError(f"{len(rows)} training image{'s' * (len(rows) != 1)} cannot tell classes apart; give more.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(
            f"label {low if low < 0 else high} lies outside 0 to {classes - 1}, the numbers of the {classes} classes."
        )
    if low == high:
        raise UserError(
            f"all {len(rows)} training images are of one class (number {low}); a probe needs two to tell apart."
        )
