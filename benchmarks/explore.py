"""What the live explorer takes to answer, asked over the loopback by a process of its own.

    python benchmarks/explore.py [--photos 100] [--model vit_small_patch16_224] [--write benchmarks/results]

One photo waits at a time, as on a page. Between two photos the server's process makes the plain forward of the model, without
anything kept, so that both see the same machine.

The answer is what the first screen shows: the photo, the norms after all blocks with the thresholds of their second groups, the
verdict, redundancy and the features that similar patches are found by. Its time holds decoding, a forward that keeps queries, keys
and values, the detector, the parts and their way through the socket. A page asks next for what is read of attention in all blocks
(`read`), and for a block when somebody points at it; both are timed apart. Before each of them, and before each forward, everything
rests, so that what the server moves after an answer is done. CPU time is that of the server's process, which other programs change
less than the time that passes.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import torch

import vitreg
from vitreg.data.sets.synthetic.photographs import photograph
from vitreg.machine.runtime import provenance
from vitreg.passes.view import view_of
from vitreg.verbs.explore.live.serve import opened
from vitreg.verbs.explore.options import ExploreOptions

WARM = 3  # answers that are not counted
REST = 0.05  # seconds


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds: the median, and what 95 of 100 stay below."""
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return {"p50": round(1000 * statistics.median(seconds), 1), "p95": round(1000 * cuts[18], 1)}


def asker(address: str, photo: bytes, asks: Any) -> None:
    """Ask for a photo (""), or for a part of the photo before ("read", "b0"), whenever it is told to."""
    name = ""
    with httpx.Client(timeout=600) as client:
        for end in iter(asks.recv, None):
            start = time.perf_counter()
            if end:
                reply = client.get(f"{address}data/{name}-{end}")
            else:
                reply = client.post(f"{address}photos", params={"name": "a.jpg", "model": 0}, content=photo)
            asks.send((time.perf_counter() - start, len(reply.raise_for_status().content)))
            name = name if end else reply.json()["name"]


def answers(spec: str, photo: bytes, photos: int) -> Iterator[dict[str, tuple[float, float, int]]]:
    """Yield seconds, CPU seconds of this process and bytes of an answer, of what is asked for next, and of the plain forward."""
    session = opened([spec], [], options=ExploreOptions(), loading={"random": True})
    plain = view_of(vitreg.load(spec, random=True))
    pixels = torch.zeros(1, 3, *plain.size)
    threading.Thread(target=session.run, daemon=True).start()
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=asker, args=(session.address, photo, there))
    process.start()

    def forward() -> tuple[float, int]:
        start = time.perf_counter()
        with torch.inference_mode():
            plain.backbone(pixels)
        return time.perf_counter() - start, 0

    def asked(end: str) -> tuple[float, int]:
        here.send(end)
        return here.recv()

    for number in range(photos + WARM):
        found = {}
        for name, step in (("forward", None), ("answer", ""), ("read", "read"), ("block", f"b{number % 2}")):
            time.sleep(REST)
            before = time.process_time()
            seconds, size = forward() if step is None else asked(step)
            found[name] = seconds, time.process_time() - before, size
        if number >= WARM:
            yield found
    here.send(None)
    process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    started, load, file = datetime.now(UTC), os.getloadavg()[0], io.BytesIO()
    photograph("astronaut").save(file, "jpeg", quality=92)
    rows = list(answers(f"timm:{options.model}", file.getvalue(), options.photos))
    found: dict[str, Any] = {}
    for name in rows[0]:
        seconds, cpu, sizes = zip(*(row[name] for row in rows), strict=True)
        found |= {f"{name}_ms": summary(seconds), f"{name}_cpu_ms": summary(cpu), f"{name}_bytes": max(sizes)}
    del found["forward_bytes"]
    for kind in ("ms", "cpu_ms"):
        for share in ("p50", "p95"):
            of_forwards = found[f"answer_{kind}"][share] / found[f"forward_{kind}"]["p50"]
            found[f"answer_{kind}_{share}_over_forward_p50"] = round(of_forwards, 2)
    print(json.dumps(found, indent=1))
    if options.write is not None:
        where = provenance(started=started, device=torch.device("cpu"), precision="auto", processes=1).model_dump()
        options.write.mkdir(parents=True, exist_ok=True)
        path = options.write / f"explore-cpu-{torch.get_num_threads()}-threads.json"
        kept = {
            "model": options.model,
            "photos": options.photos,
            "load_of_others": round(load, 1),
            **found,
            "provenance": where,
        }
        path.write_text(json.dumps(kept, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
