"""Linear layers in float32 on this CPU: oneDNN's kernel, `vitreg.machine.onednn`, over the one that PyTorch takes (MKL).

    python benchmarks/linear.py [--rounds 9] [--write benchmarks/results]

Single layers forward, and forward and backward; then a forward of timm's ViT-S/16 and a training step of the lab's ViT.
A ratio of 0.5 says that it takes half the time. Times are the best of interleaved rounds, in processor time of one
thread, which a busy machine hardly changes; errors are largest differences from float64, over the largest value.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitreg.backbones.fast_linear import _ByOneDNN
from vitreg.machine.precision import fp32_by_onednn, measured_products
from vitreg.machine.runtime import choose_device, keep_freed_memory, provenance
from vitreg.models.vit import VisionTransformer
from vitreg.presets import preset

LAYERS = ((3152, 384, 1152), (3152, 1536, 384), (1024, 64, 192), (197, 768, 3072))  # rows, in, out
SIDES: Mapping[str, Callable[[], AbstractContextManager[object]]] = {
    "PyTorch": nullcontext,
    "oneDNN": lambda: _ByOneDNN(torch.float32),
}


def ratio(work: Callable[[], object], rounds: int) -> float:
    """Return the time by oneDNN over that by PyTorch."""
    taken: dict[str, list[float]] = {name: [] for name in SIDES}
    for each in range(rounds + 1):  # the first does not count
        for name, mode in SIDES.items():
            with mode():
                start = time.thread_time()
                work()
            if each:
                taken[name].append(time.thread_time() - start)
    return round(min(taken["oneDNN"]) / min(taken["PyTorch"]), 3)


def error(x: Tensor, w: Tensor, b: Tensor) -> dict[str, float]:
    """Return the largest error of each side."""
    truth = F.linear(x.double(), w.double(), b.double())
    found = {}
    for name, mode in SIDES.items():
        with mode():
            found[name] = float((F.linear(x, w, b).double() - truth).abs().max() / truth.abs().max())
    return found


def step(*leaves: Tensor) -> None:
    F.linear(*leaves).sum().backward()


def training_step(model: nn.Module, images: Tensor) -> None:
    model(images).square().mean().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    started = datetime.now(UTC)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    result: dict[str, object] = {"chosen": fp32_by_onednn(), "milliseconds": dict(measured_products())}
    for rows, width, out in LAYERS:
        leaves = [torch.randn(shape, requires_grad=True) for shape in ((rows, width), (out, width), (out,))]
        with torch.inference_mode():
            forward = ratio(lambda leaves=leaves: F.linear(*leaves), options.rounds)
            largest = error(*leaves)
        both = ratio(lambda leaves=leaves: step(*leaves), options.rounds)
        result[f"{rows}x{width}x{out}"] = {"forward": forward, "forward and backward": both, "error": largest}
    small = timm.create_model("vit_small_patch16_224").eval()
    images = torch.randn(8, 3, 224, 224)
    with torch.inference_mode():
        result["forward of timm's ViT-S/16, 8 images"] = ratio(lambda: small(images), options.rounds)
    lab = VisionTransformer(**preset("lab-retrieval").model.arguments())
    tiny = timm.create_model("vit_tiny_patch16_224")
    result["forward and backward of timm's ViT-Ti/16, 8 images"] = ratio(
        lambda: training_step(tiny, images), options.rounds
    )
    tiles = torch.randn(16, 3, 32, 32)
    result["forward and backward of the lab's ViT, 16 images"] = ratio(
        lambda: training_step(lab, tiles), options.rounds
    )
    print(json.dumps(result, indent=1))
    result["provenance"] = provenance(
        started=started, device=choose_device("cpu"), precision="float32", processes=1
    ).model_dump()
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / "linear-cpu.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
