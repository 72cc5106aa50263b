"""Choose the precision of a model: the named one, or with "auto" the fastest accurate one on this machine.

On a CPU, bfloat16 instructions do not imply speed: on a Xeon that has them without AMX, bf16 is 1.3 to 1.8 times slower
than fp32. So "auto" times one product in both, once per machine (`vitreg.machine.measured`). fp32 has two kernels,
PyTorch's and oneDNN's (`vitreg.machine.onednn`), and the faster one counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F

from vitreg.machine import onednn
from vitreg.machine.measured import times
from vitreg.records import PrecisionChoice

Precision = Literal["auto", "fp32", "bf16", "fp16"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EARNED = 1.2  # bf16 must be this many times as fast as fp32 to be worth its rounding; oneDNN, as PyTorch's own kernel


def choose_precision(precision: Precision, device: torch.device) -> tuple[torch.dtype, PrecisionChoice | None]:
    """Return the dtype of a precision, and the reason for "auto" (None for a named precision).

    "auto" is bf16 on a CPU that multiplies it at least `EARNED` times as fast as fp32, bf16 on a GPU of Nvidia or AMD
    that has instructions for it, else fp32.
    """
    if precision != "auto":
        return DTYPES[precision], None
    if device.type == "cpu":
        choice = _on_cpu()
    elif device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        choice = PrecisionChoice(chosen="bf16", why="this GPU has instructions for bf16; not timed.")
    else:
        choice = PrecisionChoice(chosen="fp32", why=f"no instructions for bf16 are known of this {device.type} device.")
    return DTYPES[choice.chosen], choice


def measured_products() -> Mapping[str, float]:
    """Return the milliseconds of a linear layer of a ViT-S on this CPU in fp32, in fp32 by oneDNN if PyTorch lets it be
    called, and in bf16; empty without bf16 instructions."""
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return {}  # bf16 is emulated then, and may take a hundred times as long
    return times("linear layer", _products)


def fp32_by_onednn() -> bool:
    """Whether oneDNN's kernel for fp32 linear layers was measured to be worth it on this CPU."""
    found = measured_products()
    return 0 < found.get("fp32 by oneDNN", math.inf) * EARNED <= found.get("fp32", 0)


def _products() -> Mapping[str, Callable[[], object]]:
    tokens, weight = torch.ones(512, 384), torch.ones(768, 384)
    half, half_weight = tokens.bfloat16(), weight.bfloat16()
    found = {"fp32": lambda: F.linear(tokens, weight), "bf16": lambda: F.linear(half, half_weight)}
    product = onednn.linear
    return found if product is None else found | {"fp32 by oneDNN": lambda: product(tokens, weight)}


def _on_cpu() -> PrecisionChoice:
    found = measured_products()
    if not found:
        return PrecisionChoice(chosen="fp32", why="this CPU has no instructions for bf16.")
    fp32, bf16 = found["fp32 by oneDNN" if fp32_by_onednn() else "fp32"], found["bf16"]
    faster = 0 < bf16 * EARNED <= fp32
    ratio = f"{fp32 / bf16:.1f} times as fast as" if bf16 > 0 else "not measurably faster than"
    why = (
        f"this CPU multiplies bf16 {ratio} fp32 (a linear layer of a ViT-S: {bf16:.2f} ms in bf16, {fp32:.2f} in fp32)."
    )
    return PrecisionChoice(chosen="bf16" if faster else "fp32", why=why, fp32_ms=fp32, bf16_ms=bf16)
