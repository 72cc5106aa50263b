"""`Wanted`: which features to store of each image. `FieldReader` reads them all in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.backbones import Backbone, Capture
from vitreg.backbones.sites import resolve_layer
from vitreg.backbones.trace import Trace
from vitreg.errors import UserError, unknown
from vitreg.features.shards import FieldRecord, StoredType
from vitreg.tokens import TokenLayout, Tokens

_TOKENS = ("cls", "mean", "registers", "patches")
KINDS = (*_TOKENS, "norms")
MIRRORED = "mirrored/"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which features to store of each image. Blocks are indices, -1 is the last.

    Args:
        cls: blocks whose class token [D] is stored; likewise the next four.
        mean: mean of the patch tokens [D], taken in float32.
        registers: register tokens [R, D].
        patches: patch tokens [P, D].
        norms: L2 norms of the patch tokens before the final norm [P], always kept as float32.
        final_norm: apply the model's final norm to the tokens of every block, in the dtype the model runs in. For the
            last block this is exactly the model's output.
        dtype: type of the stored values, independent of the model's: float32, or float16 for half the space.
        mirrored: also store every feature of the horizontally mirrored picture, under "mirrored/...".
    """

    cls: tuple[int, ...] = (-1,)
    mean: tuple[int, ...] = ()
    registers: tuple[int, ...] = ()
    patches: tuple[int, ...] = ()
    norms: tuple[int, ...] = ()
    final_norm: bool = True
    dtype: StoredType = "float32"
    mirrored: bool = False

    def blocks(self, kind: str, depth: int) -> list[int]:
        """Return the blocks of a kind as indices from 0, ascending. Raises UserError for a block that does not exist."""
        return sorted({resolve_layer(layer, depth) for layer in getattr(self, kind)})


class FieldReader:
    """Runs a model on images that fit it, and returns the wanted fields by name.

    Attributes:
        fields: shape and type of every field, by name.
        blocks: of every kind, from 0, ascending.
        grid: (rows, cols) of the patches.
    Raises:
        UserError: for a block, or a kind of token, that the model does not have.
    """

    def __init__(self, backbone: Backbone, wanted: Wanted, size: tuple[int, int]) -> None:
        if wanted.dtype not in ("float32", "float16"):
            raise unknown("type of stored features", str(wanted.dtype), ("float32", "float16"))
        self._backbone, self.final_norm, self.mirrored = backbone, wanted.final_norm, wanted.mirrored
        self._layouts = backbone.layouts(size)[1:]  # after each block
        self.grid = self._layouts[-1].grid
        self.blocks = {kind: wanted.blocks(kind, backbone.depth) for kind in KINDS}
        if not any(self.blocks.values()):
            raise UserError("no features asked for; name blocks of cls, mean, registers, patches or norms.")
        if not all(self._layouts[block].cls for block in self.blocks["cls"]):
            raise UserError(f"{backbone.spec} has no class token; ask for the mean of the patch tokens instead.")
        if not all(self._layouts[block].registers for block in self.blocks["registers"]):
            raise UserError(f"{backbone.spec} has no registers whose features could be kept.")
        for kind in ("patches", "norms"):
            for block in self.blocks[kind]:
                _refuse_gone(backbone, self._layouts[block], kind, block)
        self._token_blocks = sorted({block for kind in _TOKENS for block in self.blocks[kind]})
        # The last block after the final norm is the model's output, so it needs no capture.
        self._returned = backbone.depth - 1 if wanted.final_norm else None
        hidden = [block for block in self._token_blocks if block != self._returned]
        self._capture = Capture(hidden=hidden, norms=self.blocks["norms"])
        self.fields = dict(self._described(wanted.dtype, backbone.anatomy.width))

    def __call__(self, images: Float[Tensor, "B 3 H W"], mirror: Float[Tensor, "B 3 H W"] | None) -> dict[str, Tensor]:
        """Return every field [B, ...], on the model's device, in its stored type.

        Args:
            mirror: the mirrored images; None if they are not wanted.
        """
        result = dict(self._of(images, ""))
        if mirror is not None:
            result |= self._of(mirror, MIRRORED)
        return result

    def _of(self, images: Tensor, prefix: str) -> Iterator[tuple[str, Tensor]]:
        trace = None
        if self._capture.hidden or self._capture.norms:
            trace = self._backbone.trace(images, self._capture)
        final = self._backbone(images) if trace is None else trace.final
        with torch.no_grad():
            for block in self._token_blocks:
                tokens = final if trace is None or block == self._returned else self._inner(trace, block)
                for kind in _TOKENS:
                    if block in self.blocks[kind]:
                        name = f"{prefix}{kind}/{block}"
                        yield name, _take(tokens, kind).to(self.fields[name].torch_dtype)
            if trace is not None:
                for block in self.blocks["norms"]:
                    yield f"{prefix}norms/{block}", self._layouts[block].take(trace.norms(block), -1)

    def _inner(self, trace: Trace, block: int) -> Tokens:
        return Tokens(self._backbone.normed(trace.hidden(block), final_norm=self.final_norm), self._layouts[block])

    def _described(self, dtype: StoredType, width: int) -> Iterator[tuple[str, FieldRecord]]:
        for prefix in ("", MIRRORED) if self.mirrored else ("",):
            for kind, blocks in self.blocks.items():
                for block in blocks:
                    layout, stored = self._layouts[block], "float32" if kind == "norms" else dtype
                    shapes = {
                        "registers": [len(layout.registers), width],
                        "patches": [layout.num_patches, width],
                        "norms": [layout.num_patches],
                    }
                    yield f"{prefix}{kind}/{block}", FieldRecord(shape=shapes.get(kind, [width]), dtype=stored)


def _refuse_gone(backbone: Backbone, layout: TokenLayout, kind: str, block: int) -> None:
    """Refuse to store patches without a token, because heads and probes read a number for every patch."""
    if not layout.whole:
        gone = int((~layout.present).sum())
        raise UserError(
            f"{gone} of the {layout.num_patches} patches of {backbone.spec} have no token after block {block}, so their {kind} "
            "cannot be kept; name an earlier block, or the mean."
        )


def _take(tokens: Tokens, kind: str) -> Float[Tensor, "B ..."]:
    if kind == "cls":
        return tokens.cls
    if kind == "mean":
        return tokens.mean_patch
    return tokens.registers if kind == "registers" else tokens.patches
