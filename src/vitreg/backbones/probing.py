"""Check that attention is read correctly: compare recomputed attention · v with the model's own output, block by block.

The check uses two inputs: noise on a grid of 2 x 3 patches, where all axes differ in length, and a smooth picture of
the native size, on which logits are as large as on photographs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitreg.backbones.anatomy.parts import Anatomy
from vitreg.backbones.recorder import Recorder, Source
from vitreg.quantities import percent

# Relative error of the recomputed attention up to which a reading counts as exact, by the dtype the model runs in.
_TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float32: 1e-4}
_REMEDY = {
    "timm": "build the model after timm.layers.set_fused_attn(True)",
    "transformers": "load the model with attn_implementation='sdpa'",
}


@dataclass(frozen=True, slots=True)
class AttentionStatus:
    """How attention of a model is read, and how well this agrees with what the model computes.

    Args:
        source: "sdpa" (seen as attention is computed), "projections" (recomputed from the q, k, v projections of a
            softmax written by hand) or "none".
        error: largest difference between the recomputed and the model's attention · v, relative to the largest value,
            over all blocks of two forwards.
        reason: one sentence why it cannot be read, with the remedy; empty otherwise.
        rounding: whether only the model's precision is the reason: in float32 attention can be read.
    """

    source: Literal["sdpa", "projections", "none"]
    error: float
    reason: str = ""
    rounding: bool = False

    @property
    def readable(self) -> bool:
        """Whether attention can be captured."""
        return self.source != "none"


def check_attention(anatomy: Anatomy, run: Callable[[Tensor], Recorder]) -> AttentionStatus:
    """Return how attention is read, or why it cannot be.

    Args:
        run: sends images through the model under a probing `Recorder`.
    """
    if anatomy.heads is None:
        name = type(anatomy.tower).__name__
        return AttentionStatus("none", float("nan"), f"this {name} has no attention; ask for norms and hidden states.")
    worst: AttentionStatus | None = None
    for images in _inputs(anatomy):
        status = _compared(anatomy, run(images))
        if not status.readable:
            return status
        if worst is None or status.error > worst.error:
            worst = status
    assert worst is not None
    return worst


def in_float32_it_can(anatomy: Anatomy, status: AttentionStatus, dtype: torch.dtype, error: float) -> AttentionStatus:
    """Return the status of a half-precision model whose attention can be read only in float32.

    Args:
        status: of the model as it is.
        error: of the same model in float32.
    """
    half = str(dtype).removeprefix("torch.")
    off = f"is off by {percent(status.error)}" if math.isfinite(status.error) else "is not finite"
    reason = (
        f"the attention of this {type(anatomy.tower).__name__} {off} in {half} and right to {max(error, 1e-7):.0e} in float32: the "
        "precision is the cause, not the model; run it with --precision fp32."
    )
    return AttentionStatus("none", status.error, reason, rounding=True)


def _inputs(anatomy: Anatomy) -> Iterator[Float[Tensor, "B C H W"]]:
    generator = torch.Generator().manual_seed(0)
    if anatomy.resizable:
        # Rows and cols differ, and so do batch and length, so that swapped axes are noticed.
        yield torch.randn(2, anatomy.channels, 2 * anatomy.patch[0], 3 * anatomy.patch[1], generator=generator)
    height, width = (side // step * step for side, step in zip(anatomy.native_size, anatomy.patch, strict=True))
    size = (height, width) if anatomy.resizable else anatomy.native_size
    yield F.interpolate(torch.randn(1, anatomy.channels, 8, 8, generator=generator), size, mode="bicubic")


def _compared(anatomy: Anatomy, recorder: Recorder) -> AttentionStatus:
    layers = range(len(anatomy.blocks))
    calls = [recorder.calls[layer] for layer in layers]
    source: Source = "sdpa" if any(calls) else "projections"
    if source == "sdpa" and any(count != 1 for count in calls):
        counts = " or ".join(str(count) for count in sorted(set(calls)))
        return _unreadable(anatomy, f"its blocks attend {counts} times over all tokens where once was expected")
    if any(layer not in recorder.errors for layer in layers):
        return _unreadable(
            anatomy,
            "no attention over all tokens was seen, nor q, k, v projections to compute it from",
            _by_hand_remedy(anatomy),
        )
    errors = [recorder.errors[layer] for layer in layers]
    if not all(math.isfinite(error) for error in errors):
        return _unreadable(anatomy, "its values are not finite, or not one vector per head and token")
    error = max(errors)
    # Sums of the same logits in a different order differ in their last bits, whatever their size.
    if error > max(_TOLERANCE.get(recorder.mixed_dtype, 1e-4), recorder.last_bits):
        return _unreadable(
            anatomy,
            f"attention recomputed from its {'q, k, v' if source == 'sdpa' else 'q, k, v projections'} "
            f"differs from what it computes by {percent(error)}",
            _by_hand_remedy(anatomy) if source == "projections" else "",
            error,
        )
    return AttentionStatus(source, error)


def _by_hand_remedy(anatomy: Anatomy) -> str:
    return _REMEDY.get(anatomy.library, "give it a forward that uses scaled_dot_product_attention") + ", or "


def _unreadable(anatomy: Anatomy, why: str, remedy: str = "", error: float = float("nan")) -> AttentionStatus:
    name = type(anatomy.tower).__name__
    return AttentionStatus(
        "none", error, f"the attention of this {name} cannot be read: {why}; {remedy}ask for norms and hidden states."
    )
