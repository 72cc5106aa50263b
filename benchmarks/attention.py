"""Attention in bfloat16 on this CPU, as ratios measured in one run: every variant that is right against PyTorch's kernel.

    python benchmarks/attention.py [--rounds 9] [--write benchmarks/results]

Forward: the variants of `backbones/explicit.py`, and with its bias inside oneDNN's product a linear layer. Forward and
backward: `models/attend.py`. Times are the best of interleaved rounds, in processor time of one thread, which a busy
machine hardly changes; errors are those of attention times v against float64, where all logits of a row lie near 200.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vitreg.backbones.explicit import VARIANTS, _linear_pointwise, fastest
from vitreg.models.attend import attend_plainly
from vitreg.precision import choose_precision
from vitreg.runtime import choose_device, provenance

SHAPES = ((2, 6, 261), (8, 6, 261), (8, 12, 197), (2, 12, 577), (1, 6, 1374))  # images, heads, tokens
TRAINED = ((32, 3, 69), (16, 3, 201))
bf16 = torch.bfloat16


def best(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, the best of interleaved rounds."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, each in work.items():
            start = time.thread_time()
            each()
            taken[name].append(1e3 * (time.thread_time() - start))
    return {name: min(values[1:]) for name, values in taken.items()}


def ratios(times: Mapping[str, float], to: str) -> dict[str, float]:
    """Each over one of them."""
    return {name: round(value / times[to], 3) for name, value in times.items()} | {f"{to}, ms": round(times[to], 3)}


def projected(images: int, heads: int, tokens: int) -> Tensor:
    """q, k, v as they lie in a fused projection."""
    return torch.randn(images, tokens, 3, heads, 64).to(bf16).permute(2, 0, 3, 1, 4)


def errors() -> dict[str, float]:
    """Relative error of each variant in percent, logits near 200."""
    q, k, v = torch.randn(3, 2, 6, 261, 64)
    direction = F.normalize(torch.randn(64), dim=0)
    q, k, v = (q + 8 * direction).to(bf16), (0.5 * k + 200 * direction).to(bf16), v.to(bf16)
    truth = (q.double() @ k.double().mT / 8).softmax(-1) @ v.double()
    found = {name: attend(q, k, v, None).double() for name, attend in VARIANTS.items()}
    found["logits in bfloat16"] = ((q / 8) @ k.mT).softmax(-1).to(bf16).matmul(v).double()
    return {name: round(100 * float((x - truth).norm() / truth.norm()), 3) for name, x in found.items()}


def step(attend: Callable[..., Tensor], qkv: Tensor) -> None:
    leaf = qkv.clone().requires_grad_()
    attend(*leaf.unbind(0)).sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    started, cpu = datetime.now(UTC), choose_device("cpu")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result: dict[str, object] = {"error_percent_at_logits_of_200": errors()}
    with torch.inference_mode():
        for shape in SHAPES:
            q, k, v = projected(*shape)
            work = {name: lambda a=attend, q=q, k=k, v=v: a(q, k, v, None) for name, attend in VARIANTS.items()}
            result[f"forward {shape}, over fused"] = ratios(best(work, options.rounds), "fused")
        for rows, width, out in ((4176, 384, 1536), (4176, 1536, 384), (261, 384, 1152)):
            x, w, b = torch.randn(rows, width).to(bf16), torch.randn(out, width).to(bf16), torch.randn(out).to(bf16)
            work = {"F.linear": lambda x=x, w=w, b=b: F.linear(x, w, b)}
            if _linear_pointwise is not None:
                work["bias inside"] = lambda x=x, w=w, b=b: _linear_pointwise(x, w, b, "none", [], "")
            result[f"linear {rows}x{width}x{out}, over F.linear"] = ratios(best(work, options.rounds), "F.linear")
    for shape in TRAINED:
        qkv = projected(*shape)
        kernels = {"fused": F.scaled_dot_product_attention, "ours": attend_plainly}
        work = {name: lambda a=attend, qkv=qkv: step(a, qkv) for name, attend in kernels.items()}
        result[f"forward and backward {shape}, over fused"] = ratios(best(work, options.rounds), "fused")
    choice = choose_precision("auto", cpu)[1]
    result["chosen"] = {"attention": fastest().__name__, "precision": choice.sentence if choice else ""}
    print(json.dumps(result, indent=1))
    result["provenance"] = provenance(started=started, device=cpu, precision="bfloat16", processes=1).model_dump()
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / "attention-cpu.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
