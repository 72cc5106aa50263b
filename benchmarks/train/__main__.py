"""What a training step costs, as ratios measured in one run against the same step of timm, open_clip and lightly.

    python benchmarks/train [--only deit3 clip dinov2 loading registers rate] [--write benchmarks/results]

Both sides have the same network, batch and precision and run in turns in one process; a ratio above 1 says that ours is
faster. Goals: DeiT-III and CLIP 1.0, DINOv2 1.5, waiting for data below 5 %. lightly is no dependency of this project:
`pip install lightly`, or --only the others.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cost
import loading
import ours
import peers
import torch
from ours import Case
from rounds import compared, in_turns

from vitreg.machine.precision import choose_precision
from vitreg.machine.runtime import choose_device, keep_freed_memory, provenance

GOALS = {"deit3": 1.0, "deit3-adamw": 1.0, "clip": 1.0, "dinov2": 1.5}
SUBSET = 0.3  # stochastic depth of DINOv2's official short recipe; it computes nothing for samples that skip a branch


def steps(only: list[str], case: Case, rounds: int) -> dict[str, Any]:
    """Compare steps of recipes with those of peers."""
    bare, deep, whole = replace(case, registers=0), replace(case, drop_path=SUBSET), replace(case, drop_path=0.0)
    sides: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
        "deit3": (lambda: ours.deit3(case, "lamb"), lambda: peers.timm_step(case, "lamb"), "timm"),
        "deit3-adamw": (lambda: ours.deit3(case, "adamw"), lambda: peers.timm_step(case, "adamw"), "timm"),
        "clip": (lambda: ours.clip(bare), lambda: peers.open_clip_step(bare), "open_clip"),
        "dinov2": (lambda: ours.dinov2(deep), lambda: peers.lightly_step(deep), "lightly"),
        "dinov2-no-drop-path": (lambda: ours.dinov2(whole), lambda: peers.lightly_step(whole), "lightly"),
    }
    result = {}
    for name, (build, build_peer, peer) in sides.items():
        if name not in only:
            continue
        if importlib.util.find_spec(peer) is None:
            print(f"{name}: skipped, {peer} is not installed")
            continue
        torch.manual_seed(0)
        times = in_turns({"vitreg": build(), peer: build_peer()}, case.device, rounds)
        result[name] = compared(times, "vitreg", peer, case.batch) | {"goal": GOALS.get(name)}
        print(
            f"{name}: {result[name]['ratio']} times {peer} (processor time {result[name]['ratio_of_processor_time']})"
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--batch", type=int, help="images of a step; 16 on a CPU, 128 on a GPU")
    parser.add_argument("--model", choices=("T", "S", "B", "L"), help="T on a CPU, S on a GPU")
    parser.add_argument("--size", type=int, help="pixels; 96 on a CPU, 224 on a GPU")
    parser.add_argument("--local-size", type=int, help="pixels of a small crop; 48 or 96")
    parser.add_argument("--local-crops", type=int, help="4 or 8")
    parser.add_argument("--prototypes", type=int, help="4096 or 65536")
    parser.add_argument("--registers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the blocks of ours and of lightly, the models of timm and open_clip",
    )
    parser.add_argument("--only", nargs="+", default=[*GOALS, "dinov2-no-drop-path", "loading", "registers", "rate"])
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("VITREG_TEST_DATA"), help="of the tests, for loading"
    )
    parser.add_argument("--workers", type=int, help="of the run whose waiting is measured")
    parser.add_argument("--note", help="written beside the numbers, such as: measured on a loaded machine")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    started, device = datetime.now(UTC), choose_device(options.device)
    small = device.type == "cpu"
    case = Case(
        device=device,
        precision=choose_precision(options.precision, device)[0],
        size=options.model or ("T" if small else "S"),
        pixels=options.size or (96 if small else 224),
        local_pixels=options.local_size or (48 if small else 96),
        local_crops=options.local_crops or (4 if small else 8),
        batch=options.batch or (16 if small else 128),
        prototypes=options.prototypes or (4096 if small else 65536),
        registers=options.registers,
        text=32 if small else 77,
        compile=options.compile,
    )
    described = {name: str(getattr(case, name)) for name in Case.__slots__}
    print(", ".join(f"{name} {value}" for name, value in described.items()))
    keep_freed_memory()  # as our loop does; both sides gain, for they share the process
    result: dict[str, Any] = {"case": described, "note": options.note, "load": os.getloadavg()}
    result["steps"] = steps(options.only, case, options.rounds)
    if "registers" in options.only:
        result["registers"] = cost.registers(case, options.rounds)
        print("registers:", json.dumps(result["registers"]))
    if "loading" in options.only:
        if options.data is None or not options.data.exists():
            print("loading: skipped, --data (or VITREG_TEST_DATA) names no folder")
        else:
            result["loading"] = loading.views(options.data, case, 64, options.rounds)
            print("loading:", json.dumps(result["loading"]))
            result["waiting"] = loading.wait_share(options.data, case, options.workers, 30)
            print("waiting:", json.dumps(result["waiting"]))
    if "rate" in options.only:
        if device.type != "cuda":
            print("rate: skipped, the share of the rate of matrix products is measured on CUDA")
        else:
            result["rate"] = cost.share_of_rate(case, "SBL", options.rounds)
            print("rate:", json.dumps(result["rate"]))
    result["provenance"] = provenance(
        started=started, device=device, precision=str(case.precision), processes=1
    ).model_dump()
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        path = options.write / f"train-{device.type}-{case.size}-{case.pixels}-{str(case.precision)[6:]}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
