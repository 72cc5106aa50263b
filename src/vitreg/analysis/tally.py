"""Statistics of a scan over any number of images, in one pass and constant memory.

Sums are kept per layer and norm bin, so any threshold chosen after the pass gives exact answers. Questions about single
tokens (positions of outliers, outliers per image) read the norms back from a spill file: two bytes per token and layer,
6 KB per image for a 12-layer ViT with 261 tokens.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

from vitreg.analysis.norms import BINS, STEPS_PER_OCTAVE, NormHistogram, encode, pack, to_bin, unpack
from vitreg.analysis.outliers import ratio_of
from vitreg.analysis.sinks import COUNTS, PLACES, SinkCounts
from vitreg.data.sources.content import LIMBS
from vitreg.machine.runtime import Processes
from vitreg.tokens import TokenLayout

GROUPS = 64  # images are resampled in at most this many groups, so the bootstrap needs no memory per image
COSINE_BINS = 250  # of 0.008; codes are one byte
OWN_FACTOR = 2.0  # an octave of norms
SINK = 8.0  # a patch is an attention sink if it receives over 8 times the mean attention


@dataclass(frozen=True)
class BatchStatistics:
    """Statistics of one batch; all arrays fp32 on the CPU. Attention is in multiples of uniform."""

    indices: np.ndarray  # int64 [B], global image numbers
    names: tuple[str, ...]
    norms: np.ndarray  # [L, B, N]; 0 for tokens that a block dropped
    entering: np.ndarray | None  # [B, N], norms of the tokens that enter block 0
    cosine: np.ndarray | None  # [B, P], to the 4 neighbours after patch embedding
    cls_attention: np.ndarray | None  # [L, B, P], share of the CLS-to-patch attention; sums to 1 over P
    received: np.ndarray | None  # [L, B, P], times the mean over patches; 0, as above, for patches that are gone
    sinks: SinkCounts | None = None
    content: np.ndarray | None = None  # hashes of the images' bytes, summed (`data.sources.content`)


@dataclass
class Sums:
    """Additive statistics; every array sums over processes."""

    counts: np.ndarray  # [L, BINS] patch tokens
    cls_norm: np.ndarray  # [L]
    register_norms: np.ndarray  # [L, R]
    cls_attention: np.ndarray  # [L, BINS] of block l + 1, by the norm after block l
    received: np.ndarray  # [L, BINS] likewise
    sinks: np.ndarray  # [L]
    head_sinks: np.ndarray  # [L, heads, COUNTS], in the same block
    sink_places: np.ndarray  # [L, PLACES], likewise
    sink_patches: np.ndarray  # [L, BINS] sinks of heads of block l + 1 on patches, by their norm after block l
    images: np.ndarray = field(default_factory=lambda: np.zeros(1))
    with_attention: np.ndarray = field(default_factory=lambda: np.zeros(2))  # images with CLS attention, with received
    content: np.ndarray = field(default_factory=lambda: np.zeros(LIMBS + 1))  # hash of the images' bytes

    @classmethod
    def zero(cls, layers: int, registers: int, heads: int = 0) -> Sums:
        """Nothing seen yet."""
        bins = (layers, BINS)
        return cls(
            np.zeros(bins),
            np.zeros(layers),
            np.zeros((layers, registers)),
            np.zeros(bins),
            np.zeros(bins),
            np.zeros(layers),
            np.zeros((layers, heads, len(COUNTS))),
            np.zeros((layers, len(PLACES))),
            np.zeros(bins),
        )

    def over(self, group: Processes) -> Sums:
        """The sums over all processes."""
        return Sums(**{name: group.sum(value) for name, value in vars(self).items()})


class Tally:
    """Collects batches; gives sums and a second look at every token. A context manager that removes the spill file.

    Args:
        layout: of the tokens of all blocks; no patch is gone.
        present: bool [L + 1, N], which tokens enter block 0 and which exist after each block; None for all. Absent
            tokens are never counted.
        heads: most attention heads of a block; 0 if attention is not read.
    """

    def __init__(
        self,
        layers: int,
        layout: TokenLayout,
        folder: Path | None = None,
        spill: IO[bytes] | None = None,
        present: np.ndarray | None = None,
        heads: int = 0,
    ) -> None:
        self.layers, self.layout = layers, layout
        self.present = np.ones((layers + 1, layout.length), bool) if present is None else present
        patches = layout.take(self.present, -1)  # [L + 1, P]
        self._there = [slice(None) if row.all() else row for row in patches]
        self._counts = patches.sum(1)
        self.sums = Sums.zero(layers, len(layout.registers), heads)
        self.extremes = np.stack([np.full(layers, -np.inf), np.full(layers, -np.inf)])  # -minimum, maximum
        self.indices: list[np.ndarray] = []
        self.names: list[str] = []
        self._spill: IO[bytes] = spill or tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed in __exit__
        self._has_cosine = self.knows_entering = False

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, *_: object) -> None:
        self._spill.close()

    def there(self, layer: int) -> slice | np.ndarray:
        """Which patches, of all P, are there after a block; -1 for those that enter block 0."""
        return self._there[layer + 1]

    def patches_after(self, layer: int) -> int:
        """How many patches of an image are there after a block; -1 for before block 0."""
        return int(self._counts[layer + 1])

    def add(self, batch: BatchStatistics) -> None:
        """Count one batch."""
        base, offsets = pack(encode(batch.norms))  # [L, B], [L, B, N]
        codes = unpack(base, offsets)  # the same rounding as when they are read back
        patches = to_bin(self.layout.take(codes, -1)).astype(np.int64)  # [L, B, P]
        size, sums = len(batch.indices), self.sums
        sums.images += size
        sums.content += 0 if batch.content is None else batch.content
        patch_norms = self.layout.take(batch.norms, -1)
        for layer in range(self.layers):
            there = self.there(layer)
            norms, bins = patch_norms[layer][:, there], patches[layer][:, there].ravel()
            self.extremes[:, layer] = np.maximum(self.extremes[:, layer], (-norms.min(), norms.max()))
            sums.counts[layer] += np.bincount(bins, minlength=BINS)
            # A token's effect on attention shows in the next block, which reads it.
            if batch.cls_attention is not None and layer + 1 < self.layers:
                sums.cls_attention[layer] += np.bincount(bins, batch.cls_attention[layer + 1][:, there].ravel(), BINS)
            if batch.received is not None and layer + 1 < self.layers:
                sums.received[layer] += np.bincount(bins, batch.received[layer + 1][:, there].ravel(), BINS)
            if batch.sinks is not None and layer + 1 < self.layers:
                heads = batch.sinks.patches[layer + 1][:, there].ravel()
                np.add.at(sums.sink_patches[layer], bins[heads > 0], heads[heads > 0])  # few, so without all bins
            if batch.received is not None:
                sums.sinks[layer] += (batch.received[layer] > SINK).sum()
        if batch.sinks is not None:
            sums.head_sinks += batch.sinks.heads
            sums.sink_places += batch.sinks.places
        sums.with_attention += (size * (batch.cls_attention is not None), size * (batch.received is not None))
        if self.layout.cls:
            sums.cls_norm += batch.norms[:, :, self.layout.cls[0]].sum(1, dtype=np.float64)
        if self.layout.registers:
            sums.register_norms += batch.norms[:, :, list(self.layout.registers)].sum(1, dtype=np.float64)
        self._has_cosine = batch.cosine is not None
        cosine = (
            _cosine_code(batch.cosine)
            if batch.cosine is not None
            else np.zeros((size, self.layout.num_patches), np.uint8)
        )
        self.knows_entering = batch.entering is not None
        before = pack(encode(batch.norms[0] if batch.entering is None else batch.entering))
        rows = np.empty(size, self._record)
        rows["base"], rows["offsets"] = base.T, offsets.transpose(1, 0, 2)
        rows["entering_base"], rows["entering"], rows["cosine"] = *before, cosine
        self._spill.write(rows.tobytes())
        self._spill.flush()  # a full disk must fail here, not when the file is read
        self.indices.append(batch.indices)
        self.names.extend(batch.names)

    @property
    def whole(self) -> bool:
        """Whether images were counted, each completely: an interrupt may come inside `add`."""
        return bool(self.names) and self.sums.images[0] == len(self.names)

    def state(self) -> dict[str, np.ndarray]:
        """Return everything but the spill, as arrays. `restore` gives another tally on the same spill this state."""
        sums = {f"sums_{name}": value for name, value in vars(self.sums).items()}
        names = np.frombuffer(json.dumps(self.names).encode(), np.uint8)
        known = np.array([self._has_cosine, self.knows_entering])
        return {**sums, "extremes": self.extremes, "order": self.order, "names": names, "known": known}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from the state of another tally."""
        self.sums = Sums(**{name: state[f"sums_{name}"] for name in vars(self.sums)})
        self.extremes, self.indices = state["extremes"], [state["order"]]
        self.names = json.loads(state["names"].tobytes())
        self._has_cosine, self.knows_entering = map(bool, state["known"])

    def tokens(self, images: int = 256) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Read back (codes int32 [n, L, N], cosine bin uint8 [n, P] or None) in the order of `names`, n at a time."""
        for rows in self._records(images):
            yield unpack(rows["base"], rows["offsets"]), rows["cosine"] if self._has_cosine else None

    def entering(self, images: int = 256) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read back (codes int32 [n, L, N], codes of the norms entering block 0 [n, N])."""
        for rows in self._records(images):
            yield unpack(rows["base"], rows["offsets"]), unpack(rows["entering_base"], rows["entering"])

    def _records(self, images: int) -> Iterator[np.ndarray]:
        self._spill.seek(0)
        while chunk := self._spill.read(self._record.itemsize * images):
            yield np.frombuffer(chunk, self._record)
        self._spill.seek(0, 2)

    @cached_property
    def _record(self) -> np.dtype:
        """The spill file's record of one image."""
        length, patches = self.layout.length, self.layout.num_patches
        return np.dtype(
            [
                ("base", np.int32, (self.layers,)),
                ("offsets", np.uint16, (self.layers, length)),
                ("entering_base", np.int32),
                ("entering", np.uint16, (length,)),
                ("cosine", np.uint8, (patches,)),
            ]
        )

    @property
    def order(self) -> np.ndarray:
        """Global image numbers in the order they were added, int64 [n]."""
        return np.concatenate(self.indices) if self.indices else np.zeros(0, np.int64)


def _cosine_code(cosine: np.ndarray) -> np.ndarray:
    return np.clip((cosine + 1) / 2 * COSINE_BINS, 0, COSINE_BINS - 1).astype(np.uint8)


@dataclass
class SecondLook:
    """Statistics of single tokens for a known threshold of one layer; summed over processes except `per_image`."""

    layer: int
    side: str
    positions: np.ndarray  # [P] images with an outlier here
    cosine: np.ndarray  # [2, COSINE_BINS] of other patches, of outliers
    isolated: np.ndarray  # [1] outliers without another among their 8 neighbours
    followed: np.ndarray  # [L, BINS] norms of the same tokens after every block
    images_with: np.ndarray  # [1]
    own: np.ndarray  # [P + 1] images with this many patches beyond `OWN_FACTOR` times the median of their own image
    per_image: np.ndarray  # int64 [n], in the order of Tally.names


def look_again(tally: Tally, layer: int, first_bin: int, side: str, group: Processes) -> SecondLook:
    """Read every token's norm at one layer again and locate the outliers.

    Args:
        layer: whose norms to judge.
        first_bin: the threshold as index of a bin edge; outliers have bin >= first_bin (high) or < first_bin (low).
    """
    (rows, cols), there = tally.layout.grid, tally.there(layer)
    look = SecondLook(
        layer=layer,
        side=side,
        positions=np.zeros(rows * cols),
        cosine=np.zeros((2, COSINE_BINS)),
        isolated=np.zeros(1),
        followed=np.zeros((tally.layers, BINS)),
        images_with=np.zeros(1),
        own=np.zeros(rows * cols + 1),
        per_image=np.zeros(0, np.int64),
    )
    per_image = []
    for codes, cosine in tally.tokens():
        patches = tally.layout.take(codes, -1)  # [n, L, P]
        norms = patches[:, layer, there]
        outlier = np.zeros((len(codes), rows * cols), bool)
        outlier[:, there] = is_outlier(norms, first_bin, side)
        own = np.median(norms, axis=1, keepdims=True)
        far = norms >= own + STEPS_PER_OCTAVE if side == "high" else norms <= own - STEPS_PER_OCTAVE
        look.own += np.bincount(far.sum(1), minlength=len(look.own))
        look.positions += outlier.sum(0)
        per_image.append(outlier.sum(1))
        look.images_with += (per_image[-1] > 0).sum()
        look.isolated += _isolated(outlier.reshape(-1, rows, cols)).sum()
        image, patch = outlier.nonzero()
        bins = to_bin(patches[image, :, patch]).astype(np.int64)  # [outliers, L]
        kept = tally.layout.take(tally.present, -1)[1:, patch]  # [L, outliers], those that are there
        for each in range(tally.layers):
            look.followed[each] += np.bincount(bins[kept[each], each], minlength=BINS)
        if cosine is not None:
            for flag in (0, 1):
                same = outlier[:, there] == bool(flag)
                look.cosine[flag] += np.bincount(cosine[:, there][same], minlength=COSINE_BINS)
    for name in ("positions", "cosine", "isolated", "followed", "images_with", "own"):
        setattr(look, name, group.sum(getattr(look, name)))
    look.per_image = np.concatenate(per_image) if per_image else look.per_image
    return look


@dataclass(frozen=True)
class Origin:
    """Where the outliers of one layer come from.

    Args:
        entering_ratio: their median norm over that of other patches (low side: inverse) before block 0; None if unknown.
        positions: [P] images with an outlier here.
    """

    entering_ratio: float | None
    positions: np.ndarray


def origins(tally: Tally, found: list[tuple[int, str, int]], group: Processes) -> list[Origin]:
    """Read the norms before block 0 of the tokens of several detections (layer, side, first_bin), in one pass."""
    layout, present = tally.layout, tally.layout.take(tally.present, -1)
    positions = np.zeros((len(found), layout.num_patches))
    entering = np.zeros((len(found), 2, BINS))
    for codes, before in tally.entering() if found else ():
        bins, patches = to_bin(layout.take(before, -1)).astype(np.int64), layout.take(codes, -1)
        for row, (layer, side, first_bin) in enumerate(found):
            outlier = is_outlier(patches[:, layer], first_bin, side) & present[layer + 1]
            positions[row] += outlier.sum(0)
            for flag in (0, 1):
                same = (outlier == bool(flag)) & present[layer + 1] & present[0]
                entering[row, flag] += np.bincount(bins[same], minlength=BINS)
    positions, entering = group.sum(positions), group.sum(entering)
    result = []
    for row, (_, side, _) in enumerate(found):
        others, outliers = (NormHistogram(counts.astype(np.int64)).median for counts in entering[row])
        ratio = ratio_of(outliers, others, side)
        result.append(Origin(float(ratio) if tally.knows_entering and np.isfinite(ratio) else None, positions[row]))
    return result


def is_outlier(codes: np.ndarray, first_bin: int, side: str) -> np.ndarray:
    """Compare norm codes of any shape with a threshold given as a bin edge."""
    bins = to_bin(codes)
    return bins >= first_bin if side == "high" else bins < first_bin


def _isolated(mask: np.ndarray) -> np.ndarray:
    """Outliers [n, rows, cols] that have no other outlier among their 8 neighbours."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    rows, cols = mask.shape[1:]
    around = np.zeros(mask.shape, dtype=np.int64)
    for dy in range(3):
        for dx in range(3):
            around += padded[:, dy : dy + rows, dx : dx + cols]
    return mask & (around == 1)


def group_histograms(tally: Tally, layers: list[int], group: Processes) -> np.ndarray:
    """Norm counts [G, len(layers), BINS] of the images in GROUPS groups (image number modulo GROUPS), for resampling."""
    histograms = np.zeros((GROUPS, len(layers), BINS), np.int32)
    order, start = tally.order, 0
    for codes, _ in tally.tokens():
        groups = order[start : start + len(codes)] % GROUPS
        start += len(codes)
        for position, layer in enumerate(layers):
            bins = to_bin(tally.layout.take(codes[:, layer], -1)[:, tally.there(layer)]).astype(np.int64)
            flat = np.bincount((groups[:, None] * BINS + bins).ravel(), minlength=GROUPS * BINS)
            histograms[:, position] += flat.reshape(GROUPS, BINS).astype(np.int32)
    return group.sum(histograms)
