"""The attention of a forward, block by block: what its tokens receive, and the queries and keys that a page draws it from."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.backbones import QKV, Trace
from vitreg.report.explore.document import BlockAttention, Compared, Part, Read, block_parts, read_part
from vitreg.tokens import TokenLayout

ALIGNED = 64  # bytes
MOST_ROWS = 32 * 2**20  # bytes of the attention of a block, where its queries and keys do not tell it
SAME = 1e-3  # of the largest entry: queries that differ by less are those that the projection wrote


class Attended:
    """The attention of one photo by one model. It is read when it is asked for, as reading takes as long as a forward.

    Args:
        trace: of a forward that kept queries, keys and values.
        common: the tokens in the order of a document.
        blocks: those that the page can draw.

    Attributes:
        size: bytes of what is kept.
    """

    def __init__(self, trace: Trace, common: TokenLayout, blocks: list[int]) -> None:
        self._trace, self._common, self._blocks = trace, common, blocks
        self.size = _size(trace)

    @torch.inference_mode()
    def parts(self, name: str) -> Iterator[tuple[str, Part]]:
        """Yield the parts of a document called `name`: each block that the page can draw, and what is read of all."""
        read = self._nothing_read()
        for layer in range(self._trace.depth):
            rows = self._rows(layer)
            self._add(read, layer, rows)
            if layer in read.blocks:
                yield from block_parts(name, layer, self._block(layer, rows))
        yield read_part(name, read)

    @torch.inference_mode()
    def read(self, name: str) -> tuple[str, Part]:
        """Return the part that says what is read of all blocks."""
        read = self._nothing_read()
        for layer in range(self._trace.depth):
            self._add(read, layer, self._rows(layer))
        return read_part(name, read)

    @torch.inference_mode()
    def block(self, name: str, layer: int) -> dict[str, Part]:
        """Return the parts of one block; none for a block that the page cannot draw."""
        if layer not in self._blocks or self._too_large(layer, rows := self._rows(layer)):
            return {}
        return dict(block_parts(name, layer, self._block(layer, rows)))

    @torch.inference_mode()
    def settle(self) -> None:
        """Move what is kept into memory of its own.

        What stays of a forward in the memory that forwards share is missing in the next one, which then asks the system for
        pages: a fifth of its time on a virtual machine. Of a GPU's memory nothing is kept.
        """
        places: dict[object, Tensor] = {}
        room, start = mmap.mmap(-1, self.size), 0

        def moved(tensor: Tensor) -> Tensor:
            nonlocal start
            if (key := _view(tensor)) not in places:
                place = torch.frombuffer(room, dtype=tensor.dtype, count=tensor.numel(), offset=start)
                places[key] = place.view(tensor.shape).copy_(tensor)
                start += -(-tensor.nbytes // ALIGNED) * ALIGNED
            return places[key]

        self._trace = self._trace.only_attention(moved)

    def _nothing_read(self) -> Read:
        received, values = (np.full((self._trace.depth, self._common.length), np.nan, np.float32) for _ in range(2))
        return Read(received=received, values=values, blocks=[], before=[], missing=[])

    def _add(self, read: Read, layer: int, rows: Float[Tensor, "heads N N"]) -> None:
        """Read one block."""
        layout = self._layout(layer)
        read.received[layer] = placed(rows.mean(1), layout, self._common).mean(0)
        read.values[layer] = _over_median(self._values(layer, len(rows)), self._common).mean(0)
        if layer not in self._blocks:
            return
        if why := self._too_large(layer, rows):
            read.missing.append(why)
            return
        read.blocks.append(layer)
        if self._written(layer) is not None:
            read.before.append(layer)

    def _rows(self, layer: int) -> Float[Tensor, "heads N N"]:
        return self._trace.attention(layer, range(self._layout(layer).length))[0].float().cpu()

    def _layout(self, layer: int) -> TokenLayout:
        return self._trace.layout_before(layer)

    def _values(self, layer: int, heads: int) -> Float[np.ndarray, "heads N"]:
        layout = self._layout(layer)
        norms = torch.linalg.vector_norm(self._trace.qkv(layer).v[0, :, : layout.length].float(), dim=-1).cpu()
        return placed(norms.repeat_interleave(heads // len(norms), 0), layout, self._common)

    def _block(self, layer: int, rows: Float[Tensor, "heads N N"]) -> BlockAttention:
        layout, common, written = self._layout(layer), self._common, self._written(layer)
        told: Compared | np.ndarray
        if self._tells(layer, rows):
            told = _compared(self._trace.qkv(layer), layout, common)
        else:
            told = np.nan_to_num(placed(placed(rows, layout, common), layout, common, axis=1))
        return BlockAttention(
            there=(layout.places(common) >= 0).numpy(), told=told,
            before=None if written is None else _compared(written, layout, common),
            received=placed(rows.mean(1), layout, common), values=self._values(layer, len(rows)),
        )  # fmt: skip

    def _too_large(self, layer: int, rows: Float[Tensor, "heads N N"]) -> str:
        """Return why a block cannot be drawn; empty if it can."""
        if 2 * len(rows) * self._common.length**2 <= MOST_ROWS or self._tells(layer, rows):
            return ""
        return (
            f"attention of block {layer} has more parts than queries and keys, and at {self._layout(layer).length} tokens is "
            "too much for a page"
        )

    def _tells(self, layer: int, rows: Float[Tensor, "heads N N"]) -> bool:
        """Whether a block's attention is the softmax of its queries and keys, and nothing else."""
        qkv = self._trace.qkv(layer)
        if qkv.mask is not None or qkv.causal:
            return False
        some = range(0, len(rows[0]), max(1, len(rows[0]) // 16))
        own = qkv.rows(some)[0, ..., : rows.shape[-1]].cpu()
        return bool((own - rows[:, list(some)]).abs().max() < SAME)

    def _written(self, layer: int) -> QKV | None:
        """Return queries and keys as the projection wrote them, if something changed them before they were compared."""
        used = self._trace.qkv(layer)
        try:
            written = self._trace.projected_qkv(layer)
        except ValueError:  # the projections of this library are not known
            return None
        one, other = written.q, used.q
        if one.shape != other.shape or _view(one) == _view(other):
            return None
        tolerance = SAME * float(other.abs().max())
        return None if torch.allclose(one.float(), other.float(), rtol=0, atol=tolerance) else written


def _view(tensor: Tensor) -> tuple[object, ...]:
    """What tensors have in common that are the same numbers in the same memory."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _size(trace: Trace) -> int:
    """Bytes of the queries, keys, values and weights of a trace, each in memory of its own."""
    sizes: dict[object, int] = {}

    def counted(tensor: Tensor) -> Tensor:
        sizes[_view(tensor)] = -(-tensor.nbytes // ALIGNED) * ALIGNED
        return tensor

    trace.only_attention(counted)
    return sum(sizes.values())


def placed(values: Tensor | np.ndarray, layout: TokenLayout, common: TokenLayout, axis: int = -1) -> np.ndarray:
    """Bring an axis over the tokens of a block into the order of the document; NaN where a token is not there."""
    array = values.cpu().numpy() if isinstance(values, Tensor) else values
    places = layout.places(common).numpy()
    found = np.take(array, places.clip(min=0), axis=axis).astype(np.float32)
    np.moveaxis(found, axis, 0)[places < 0] = np.nan
    return found


def _compared(qkv: QKV, layout: TokenLayout, common: TokenLayout) -> Compared:
    own, extra = qkv.k[0, :, : layout.length], qkv.k[0, :, layout.length :]
    k = np.nan_to_num(placed(own.float(), layout, common, axis=1))
    return Compared(
        q=np.nan_to_num(placed(qkv.q[0].float() * qkv.scale, layout, common, axis=1)),
        k=np.concatenate([k, extra.float().cpu().numpy()], 1),
    )


def _over_median(norms: Float[np.ndarray, "heads N"], common: TokenLayout) -> Float[np.ndarray, "heads N"]:
    """Norms of values over the median of the patches, head by head."""
    medians = np.nanmedian(common.take(norms, -1), axis=-1, keepdims=True)
    return norms / np.maximum(medians, np.finfo(np.float32).tiny)
