"""Attention in bfloat16 on this CPU, as ratios measured in one run: every variant that is right against PyTorch's kernel.

    python benchmarks/attention.py [--rounds 9] [--write benchmarks/results]

Forward: PyTorch's kernel, which vitreg uses, and two others that it could; and a linear layer with its bias inside
oneDNN's product, `backbones/fast_linear.py`. Forward and backward: `models/attend.py`. Times are the best of
interleaved rounds, in processor time of one thread, which a busy machine hardly changes; errors are those of attention
times v against float64.
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

from vitreg.machine import onednn
from vitreg.machine.precision import choose_precision
from vitreg.machine.runtime import choose_device, provenance
from vitreg.models.attend import attend_plainly

SHAPES = ((2, 6, 261), (8, 6, 261), (8, 12, 197), (2, 12, 577), (1, 6, 1374))  # images, heads, tokens
TRAINED = ((32, 3, 69), (16, 3, 201))
bf16 = torch.bfloat16
AT_ONCE = 2**20  # logits held at once, 4 MiB: they stay in the cache between product, softmax and product


def in_pieces(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Logits and softmax in float32, a few heads at a time, and one product with weights in bfloat16."""
    queries, keys, values = (x.contiguous().flatten(0, -3) for x in (q, k, v))  # [heads of all images, N, d]
    mixed = torch.empty_like(queries)
    rows = max(1, AT_ONCE // keys.shape[1])
    heads = max(1, rows // queries.shape[1])
    for head in range(0, len(queries), heads):
        own = slice(head, head + heads)
        wide = keys[own].float().transpose(1, 2)
        for row in range(0, queries.shape[1], rows):
            logits = torch.bmm(queries[own, row : row + rows].float() * q.shape[-1] ** -0.5, wide)
            torch.softmax(logits, dim=-1, out=logits)
            mixed[own, row : row + rows] = torch.bmm(logits.bfloat16(), values[own])
    return mixed.unflatten(0, q.shape[:-2])


def fused_wide(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's own kernel on float32 copies of two images at a time."""
    mixed = torch.empty_like(q)
    for image in range(0, len(q), 2):
        own = slice(image, image + 2)
        mixed[own] = F.scaled_dot_product_attention(q[own].float(), k[own].float(), v[own].float())
    return mixed


VARIANTS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "fused": F.scaled_dot_product_attention,
    "fused, float32": fused_wide,
    "in pieces": in_pieces,
}


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


def errors() -> dict[str, dict[str, float]]:
    """Root-mean-square and largest error of each variant over the fused kernel's, the worst of all logits up to 500."""
    worst: dict[str, dict[str, float]] = {name: {"rms": 0.0, "largest": 0.0} for name in VARIANTS}
    for top in (10, 50, 200, 500):
        for offset in (True, False):
            q, k, v = torch.randn(3, 2, 6, 261, 64)
            direction = F.normalize(torch.randn(64), dim=0)
            stretch = (top / float((q @ k.mT).max() / 8)) ** 0.5
            q, k = (q + 8 * direction, 0.5 * k + top * direction) if offset else (q * stretch, k * stretch)
            q, k, v = q.to(bf16), k.to(bf16), v.to(bf16)
            truth = (q.double() @ k.double().mT / 8).softmax(-1) @ v.double()
            found = {name: (attend(q, k, v).double() - truth).abs() for name, attend in VARIANTS.items()}
            for name, error in found.items():
                ratio = {
                    "rms": float(error.norm() / found["fused"].norm()),
                    "largest": float(error.max() / found["fused"].max()),
                }
                worst[name] = {kind: round(max(worst[name][kind], ratio[kind]), 2) for kind in ratio}
    return worst


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
    result: dict[str, object] = {"error over the fused kernel's, logits up to 500": errors()}
    with torch.inference_mode():
        for shape in SHAPES:
            q, k, v = projected(*shape)
            work = {name: lambda a=attend, q=q, k=k, v=v: a(q, k, v) for name, attend in VARIANTS.items()}
            result[f"forward {shape}, over fused"] = ratios(best(work, options.rounds), "fused")
        for rows, width, out in ((4176, 384, 1536), (4176, 1536, 384), (261, 384, 1152)):
            x, w, b = torch.randn(rows, width).to(bf16), torch.randn(out, width).to(bf16), torch.randn(out).to(bf16)
            work = {"F.linear": lambda x=x, w=w, b=b: F.linear(x, w, b)}
            if (product := onednn.linear) is not None:
                work["bias inside"] = lambda x=x, w=w, b=b, product=product: product(x, w, b)
            result[f"linear {rows}x{width}x{out}, over F.linear"] = ratios(best(work, options.rounds), "F.linear")
    for shape in TRAINED:
        qkv = projected(*shape)
        kernels = {"fused": F.scaled_dot_product_attention, "ours": attend_plainly}
        work = {name: lambda a=attend, qkv=qkv: step(a, qkv) for name, attend in kernels.items()}
        result[f"forward and backward {shape}, over fused"] = ratios(best(work, options.rounds), "fused")
    choice = choose_precision("auto", cpu)[1]
    result["chosen"] = {"precision": choice.sentence if choice else ""}
    print(json.dumps(result, indent=1))
    result["provenance"] = provenance(started=started, device=cpu, precision="bfloat16", processes=1).model_dump()
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / "attention-cpu.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
