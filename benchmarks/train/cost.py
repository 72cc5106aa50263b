"""What registers cost, in time and by count, and how much of the machine's rate of matrix products a step reaches."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import ours
import torch
import torch.nn.functional as F
from ours import Case
from rounds import Times, in_turns, milliseconds, seconds
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitreg.models.settings import ModelConfig
from vitreg.models.vit import VisionTransformer

PUBLISHED = {  # percent more multiply-adds in a forward pass at 224 px: the paper says 2 % for 4 and 6 % for 16 (L/14)
    ("L", 14): {1: 0.40, 2: 0.81, 4: 1.62, 8: 3.24, 16: 6.48},
    ("B", 14): {1: 0.41, 2: 0.82, 4: 1.63, 8: 3.27, 16: 6.54},
    ("B", 16): {1: 0.53, 2: 1.05, 4: 2.10, 8: 4.21, 16: 8.43},
}


def flops(size: str, patch: int, pixels: int, registers: int, *, training: bool = False) -> int:
    """Count what PyTorch does for one image, forward or forward and backward, on tensors without memory."""
    with torch.device("meta"):
        config = ModelConfig(size=size, patch=patch, image_size=pixels, registers=registers)
        model, image = VisionTransformer(**config.arguments()), torch.empty(1, 3, pixels, pixels)
    # Plain products: the counter does not know every fused kernel of attention.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.set_grad_enabled(training):
        tokens = model.forward_features(image)
        if training:
            tokens.sum().backward()
    return counter.get_total_flops()


def counted() -> dict[str, dict[str, float]]:
    """Percent more that registers cost by count, beside the numbers worked out by hand."""
    table = {}
    for (size, patch), published in PUBLISHED.items():
        base = flops(size, patch, 224, 0)
        more = {n: round(100 * (flops(size, patch, 224, n) / base - 1), 2) for n in published}
        table[f"{size}/{patch}"] = {f"+{n}": more[n] for n in published} | {
            f"+{n} by hand": published[n] for n in published
        }
    return table


def registers(case: Case, rounds: int) -> dict[str, Any]:
    """Time steps with and without registers, and count both."""
    result: dict[str, Any] = {"counted_percent_forward": counted()}
    without = replace(case, registers=0)
    recipes = {"deit3": (lambda c: ours.deit3(c, "adamw"), _one_image), "dinov2": (ours.dinov2, _crops)}
    for recipe, (build, count) in recipes.items():
        times = in_turns({"with": build(case), "without": build(without)}, case.device, rounds)
        result[recipe] = {
            "percent": _percent(times["with"].wall, times["without"].wall),
            "percent_of_processor_time": _percent(times["with"].cpu, times["without"].cpu),
            "counted_percent": round(100 * (count(case) / count(without) - 1), 2),
            "median_ms": {name: milliseconds(statistics.median(t.wall)) for name, t in times.items()},
        }
    return result


def _one_image(case: Case) -> int:
    """Operations of a supervised step for each image."""
    return flops(case.size, 16, case.pixels, case.registers, training=True)


def _crops(case: Case) -> int:
    """Operations of a self-distilling step for each image, in backbones only: the student's crops, then the teacher's."""
    large, small = (
        flops(case.size, 16, side, case.registers, training=True) for side in (case.pixels, case.local_pixels)
    )
    return 2 * large + case.local_crops * small + 2 * flops(case.size, 16, case.pixels, case.registers)


def share_of_rate(case: Case, sizes: str, rounds: int) -> dict[str, Any]:
    """Images/s of a DeiT-III step and the share of the rate that one large product reaches, per size of model."""
    result = {}
    peak = product_rate(case.device, case.precision)
    for size in sizes:
        for compiled in (False, True):
            step = ours.deit3(replace(case, size=size, compile=compiled), "adamw")
            times: Times = in_turns({"step": step}, case.device, rounds, warm=5)["step"]
            rate = case.batch / statistics.median(times.wall)
            need = flops(size, 16, case.pixels, case.registers, training=True)
            result[f"{size}{' compiled' if compiled else ''}"] = {
                "images_per_second": round(rate, 1),
                "tflops": round(rate * need / 1e12, 2),
                "share_of_product_rate": round(rate * need / peak, 3),
                "peak_gib": round(torch.cuda.max_memory_allocated(case.device) / 2**30, 2),
            }
            del step
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(case.device)
    return {"product_tflops": round(peak / 1e12, 1), **result}


def product_rate(device: torch.device, precision: torch.dtype, side: int = 8192) -> float:
    """FLOP/s of one large matrix product, the best of 20."""
    a, b = (torch.randn(side, side, dtype=precision, device=device) for _ in range(2))
    return 2 * side**3 / min(seconds(lambda: F.linear(a, b), device)[0] for _ in range(20))


def _percent(numbers: list[float], others: list[float]) -> float:
    return round(100 * (statistics.median(a / b for a, b in zip(numbers, others, strict=True)) - 1), 2)
