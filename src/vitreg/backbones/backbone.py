"""`Backbone`: any ViT behind one interface. Calling it gives final tokens; `trace` gives a look inside.

It wraps the foreign module and changes nothing in it: what is needed for one forward is put back before the call
returns. Attention is trusted only after it was checked on this very model (`attention_status`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones.anatomy import Anatomy, describe
from vitreg.backbones.trace import Capture, Edit, Trace
from vitreg.backbones.watch import Recorder, Source, undisturbed, watching
from vitreg.errors import UserError
from vitreg.tokens import TokenLayout, Tokens

if TYPE_CHECKING:
    from vitreg.data.transforms import Preprocess

# Relative error of the recomputed attention up to which a reading counts as exact, by the dtype the model runs in.
_TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 3e-2}
_REMEDY = {
    "timm": "build the model after timm.layers.set_fused_attn(True)",
    "transformers": "load the model with attn_implementation='sdpa'",
}


@dataclass(frozen=True, slots=True)
class AttentionStatus:
    """How attention of a model is read, and how well it was found to agree with what the model computes.

    Args:
        source: "sdpa" (seen as attention is computed), "projections" (recomputed from the q, k, v projections of a
            softmax written by hand) or "none".
        error: largest difference between attention · v recomputed and as the model had it, relative to the largest
            value; over all blocks of one small forward.
        reason: one sentence why it cannot be read, with the remedy; empty otherwise.
    """

    source: Literal["sdpa", "projections", "none"]
    error: float
    reason: str = ""

    @property
    def readable(self) -> bool:
        """Whether attention can be captured."""
        return self.source != "none"


@final
class Backbone:
    """A Vision Transformer of any library.

    Runs without gradients and in evaluation mode; training flags are as before afterwards. Images are moved to the
    device and dtype of the model.

    Args:
        module: the model; wrappers such as CLIP models are followed to their vision tower.
        anatomy: what must be known about it; found by `describe` where None.
        preprocess: photograph -> image tensor as this model wants it, None where unknown.
        spec, weights_source, weights_sha256, notes: where it came from, for the record; `load` fills them in.
        untrained: a sentence if features pass through weights that nobody trained: nothing said about the model is about
            a trained one. It is also the first of the notes.
    Raises:
        UserError: if the model is not known and no anatomy is given.
    """

    def __init__(
        self,
        module: nn.Module,
        anatomy: Anatomy | None = None,
        preprocess: Preprocess | None = None,
        *,
        spec: str = "",
        weights_source: str = "module",
        weights_sha256: str = "",
        notes: tuple[str, ...] = (),
        untrained: str = "",
    ) -> None:
        self.module = module
        self.spec, self.untrained = spec or f"module:{type(module).__name__}", untrained
        self.notes = (untrained, *notes) if untrained else notes
        self.weights_source, self.weights_sha256 = weights_source, weights_sha256
        self.anatomy = describe(module) if anatomy is None else anatomy
        self.preprocess = preprocess
        self._status: AttentionStatus | None = None

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.anatomy.blocks)

    @property
    def device(self) -> torch.device:
        """Where the patch projection is."""
        return self._first_parameter.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the patch projection, which images are cast to."""
        return self._first_parameter.dtype

    def layout(self, image_size: tuple[int, int]) -> TokenLayout:
        """Return the roles of the tokens of an image of (height, width) pixels.

        Raises:
            UserError: if the model cannot take this size, naming one it can.
        """
        height, width = image_size
        (rows, cols), native = self.anatomy.patch, self.anatomy.native_size
        if (height, width) != native:
            if not self.anatomy.resizable:
                raise UserError(
                    f"this {type(self.anatomy.tower).__name__} takes images of {native[0]}x{native[1]} pixels only, "
                    f"not {height}x{width}: its position bias is tied to that grid; resize the images, or build the "
                    "model for their size."
                )
            if height % rows or width % cols or not height or not width:
                close = tuple(max(1, round(side / step)) * step for side, step in ((height, rows), (width, cols)))
                raise UserError(
                    f"images of {height}x{width} pixels (height x width) do not divide into patches of {rows}x{cols}; "
                    f"pad, crop or resize them, for instance to {close[0]}x{close[1]}."
                )
        return self.anatomy.layout((height, width))

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> Tokens:
        """Return the final tokens, after the model's final norm where it has one."""
        images, layout = self._prepare(images)
        with undisturbed(self.module):
            return Tokens(self._encode(images, layout), layout)

    def trace(self, images: Float[Tensor, "B 3 H W"], capture: Capture, edits: Sequence[Edit] = ()) -> Trace:
        """Run the model and keep what `capture` asks for; without edits the final tokens are those of a plain call.

        Raises:
            UserError: if a block or token does not exist, the images do not fit, or attention is asked of a model whose
                attention cannot be read.
        """
        images, layout = self._prepare(images)
        plan = capture.resolve(self.depth, layout.length)
        source: Source = "sdpa"
        if plan.attention:
            status = self.attention_status()
            if status.source == "none":
                raise UserError(status.reason)
            source = status.source
        recorder = Recorder(self.anatomy, layout, plan, edits, source)
        with undisturbed(self.module), watching(recorder):
            final = self._encode(images, layout)
        return recorder.finish(final)

    def attention_status(self) -> AttentionStatus:
        """Check once, on one small forward of this model, how its attention is read and that the reading is right."""
        if self._status is None:
            self._status = self._probe()
        return self._status

    @property
    def _first_parameter(self) -> Tensor:
        return next(self.anatomy.patch_projection.parameters())

    def _prepare(self, images: Tensor) -> tuple[Tensor, TokenLayout]:
        if images.ndim != 4 or not images.is_floating_point():
            raise UserError(
                f"images must be a floating point tensor [B, 3, H, W], not {images.dtype} {list(images.shape)}."
            )
        layout = self.layout((images.shape[-2], images.shape[-1]))
        return images.to(self.device, self.dtype), layout

    def _encode(self, images: Tensor, layout: TokenLayout) -> Tensor:
        final = self.anatomy.encode(images)
        if final.ndim != 3 or final.shape[1] != layout.length:
            raise UserError(
                f"the model returned tokens of shape {list(final.shape)} where its anatomy says [B, {layout.length}, D]"
                "; describe its tokens in an Anatomy made by hand."
            )
        return final

    def _probe(self) -> AttentionStatus:
        patch = self.anatomy.patch
        # Rows and cols differ, and so do batch and length: a mix-up of axes must not go unseen.
        size = (2 * patch[0], 3 * patch[1]) if self.anatomy.resizable else self.anatomy.native_size
        images, layout = self._prepare(torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)))
        everything = Capture(qkv="all", projected="all" if self.anatomy.attention else ())
        recorder = Recorder(self.anatomy, layout, everything.resolve(self.depth, layout.length), probing=True)
        with undisturbed(self.module), watching(recorder):
            self._encode(images, layout)
        layers = range(self.depth)
        calls = [recorder.calls[layer] for layer in layers]
        source: Source = "sdpa" if any(calls) else "projections"
        readings = recorder.kept.qkv if source == "sdpa" else recorder.kept.projected
        if source == "sdpa" and any(count != 1 for count in calls):
            counts = " or ".join(str(count) for count in sorted(set(calls)))
            return self._unreadable(f"its blocks attend {counts} times over all tokens where once was expected")
        if any(layer not in readings or layer not in recorder.mixed for layer in layers):
            return self._unreadable(
                "no attention over all tokens was seen, nor q, k, v projections to compute it from",
                self._by_hand_remedy(),
            )
        errors = [_relative(readings[layer].mixed(), recorder.mixed[layer]) for layer in layers]
        if not all(math.isfinite(error) for error in errors):
            return self._unreadable("its values are not finite, or not one vector per head and token")
        error = max(errors)
        if error > _TOLERANCE.get(recorder.mixed[0].dtype, 1e-4):
            return self._unreadable(
                f"attention recomputed from its {'q, k, v' if source == 'sdpa' else 'q, k, v projections'} "
                f"differs from what it computes by {error:.1%}",
                self._by_hand_remedy() if source == "projections" else "",
                error,
            )
        return AttentionStatus(source, error)

    def _by_hand_remedy(self) -> str:
        return _REMEDY.get(self.anatomy.library, "give it a forward that uses scaled_dot_product_attention") + ", or "

    def _unreadable(self, why: str, remedy: str = "", error: float = float("nan")) -> AttentionStatus:
        name = type(self.anatomy.tower).__name__
        return AttentionStatus(
            "none",
            error,
            f"the attention of this {name} cannot be read: {why}; {remedy}ask for norms and hidden states.",
        )


def _relative(found: Tensor, truth: Tensor) -> float:
    if found.shape != truth.shape:
        return float("inf")
    truth = truth.float()
    return float((found - truth).abs().max() / truth.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
