"""What a scan costs, as ratios measured in one run: images/s of the full 12-layer scan against loops a user would write.

    python benchmarks/scan.py [--model vit_small_patch14_reg4_dinov2] [--batch 16] [--rounds 7] [--write benchmarks/results]

Rounds are interleaved, so that a machine whose speed drifts slows all of them; medians are compared. All of them run on
the same images in memory: decoding is measured by itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F

from vitreg.analysis.tally import Tally
from vitreg.backbones import load
from vitreg.machine.runtime import choose_device, provenance
from vitreg.verbs.scan.measure import Measure

MODEL = "vit_small_patch14_reg4_dinov2"


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def hook_script(model: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """The script people write: hooks that store every block's output, norms afterwards."""
    stored = []
    hooks = [
        block.register_forward_hook(lambda _m, _i, output: stored.append(output.detach().cpu()))
        for block in model.blocks
    ]
    model.forward_features(images)
    for hook in hooks:
        hook.remove()
    return [torch.linalg.norm(hidden, dim=-1) for hidden in stored]


def product(tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], object], int]:
    """A plain matrix product of the size of the MLP's ten times over, and its FLOPs."""
    a = torch.randn(tokens, width, dtype=dtype, device=device)
    b = torch.randn(4 * width, width, dtype=dtype, device=device)
    return lambda: [F.linear(a, b) for _ in range(10)], 10 * 2 * tokens * width * 4 * width


def flops_per_image(depth: int, width: int, tokens: int, patches: int, patch: int) -> float:
    """Twice the multiply-adds of blocks (4D^2 + 2 D 4D per token, 2 N^2 D for attention) and patch projection."""
    block = tokens * (4 * width**2 + 8 * width**2) + 2 * tokens**2 * width
    return 2.0 * (depth * block + patches * 3 * patch**2 * width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    device = choose_device(options.device)
    torch.manual_seed(0)
    plain = timm.create_model(options.model, img_size=options.size).eval().to(device)
    backbone = load(f"timm:{options.model}", random=True, device=str(device), image_size=options.size)
    images = torch.randn(options.batch, 3, options.size, options.size, device=device)
    same, bare = (
        images.to(backbone.dtype),
        timm.create_model(options.model, img_size=options.size).eval().to(device, backbone.dtype),
    )
    measure = Measure(backbone, (options.size, options.size))
    layout = measure.layout
    multiply, flops = product(options.batch * layout.length, backbone.anatomy.width, backbone.dtype, device)
    names, indices = tuple(str(i) for i in range(options.batch)), torch.arange(options.batch)

    with Tally(backbone.depth, layout) as tally, torch.inference_mode():
        work: dict[str, Callable[[], object]] = {
            "timm fp32 forward_features": lambda: plain.forward_features(images),
            "hook script, fp32, all hidden states": lambda: hook_script(plain, images),
            f"bare forward, {backbone.dtype}": lambda: bare.forward_features(same),
            f"vitreg forward, {backbone.dtype}": lambda: backbone(images),
            "vitreg scan": lambda: tally.add(measure(indices, names, images)),
            "product": multiply,  # among the others: a rate of another moment can be lower than what they reach
        }
        for each in work.values():
            each()
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(options.rounds):
            for name, each in work.items():
                times[name].append(seconds(each, device))
    multiplied = times.pop("product")
    rate = {name: options.batch / statistics.median(t) for name, t in times.items()}
    scan = rate["vitreg scan"]
    peak = flops / min(multiplied)
    need = flops_per_image(
        backbone.depth, backbone.anatomy.width, layout.length, layout.num_patches, backbone.anatomy.patch[0]
    )
    if scan * need > peak:
        raise SystemExit(
            f"the scan would run at {scan * need / peak:.2f} of the product rate measured in the same rounds; "
            "no share above 1 is believed: measure again on a quieter machine."
        )
    result = {
        "model": options.model,
        "batch": options.batch,
        "size": options.size,
        "tokens": layout.length,
        "images_per_second": {name: round(value, 2) for name, value in rate.items()},
        "scan_over_timm_fp32": round(scan / rate["timm fp32 forward_features"], 3),
        "scan_over_hook_script": round(scan / rate["hook script, fp32, all hidden states"], 3),
        "cost_of_statistics": round(rate[f"bare forward, {backbone.dtype}"] / scan - 1, 4),
        "cost_over_own_forward": round(rate[f"vitreg forward, {backbone.dtype}"] / scan - 1, 4),
        "matmul_tflops": round(peak / 1e12, 3),
        "share_of_matmul_rate": round(scan * need / peak, 4),
        "bound_over_timm_fp32": round(peak / need / rate["timm fp32 forward_features"], 3),  # at 100 % of that rate
        "rounds": {name: [round(v, 4) for v in t] for name, t in times.items()},
        "numpy": np.__version__,
    }
    from datetime import UTC, datetime

    result["provenance"] = provenance(
        started=datetime.now(UTC), device=device, precision=str(backbone.dtype), processes=1
    ).model_dump()
    print(json.dumps({k: v for k, v in result.items() if k not in {"rounds", "provenance"}}, indent=1))
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        path = options.write / f"scan-{device.type}-{options.model}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
