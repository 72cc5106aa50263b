"""What the live explorer takes to answer, asked over the loopback by a process of its own.

    python benchmarks/explore.py [--photos 100] [--model vit_small_patch16_224] [--write benchmarks/results]

One photo waits at a time, as on a page. Between two photos the server's process makes the plain forward of the model, without
anything kept, so that both see the same machine. The answer holds decoding, the forward with all that a page shows, the first
parts and their way through the socket; a block is what a page asks for when somebody points at it.
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
from collections.abc import Iterator
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


def summary(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: the median, and what 95 of 100 stay below."""
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return {"p50": round(1000 * statistics.median(seconds), 1), "p95": round(1000 * cuts[18], 1)}


def asker(address: str, photo: bytes, asks: Any) -> None:
    """Ask for a photo, and for one of its blocks, whenever it is told to."""
    with httpx.Client(timeout=600) as client:
        for number in iter(asks.recv, None):
            start = time.perf_counter()
            reply = client.post(
                f"{address}photos", params={"name": "a.jpg", "model": 0}, content=photo
            ).raise_for_status()
            whole = time.perf_counter() - start
            name = reply.json()["name"]
            start = time.perf_counter()
            block = client.get(f"{address}data/{name}-b{number % 2}").raise_for_status()
            asks.send((whole, time.perf_counter() - start, len(reply.content), len(block.content)))


def answers(spec: str, photo: bytes, photos: int) -> Iterator[tuple[float, float, float, int, int]]:
    """Yield the seconds of an answer, of a block and of the plain forward between two answers, and bytes of the first two."""
    session = opened([spec], [], options=ExploreOptions(), loading={"random": True})
    plain = view_of(vitreg.load(spec, random=True))
    pixels = torch.zeros(1, 3, *plain.size)
    threading.Thread(target=session.run, daemon=True).start()
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=asker, args=(session.address, photo, there))
    process.start()
    for number in range(photos + WARM):
        start = time.perf_counter()
        with torch.inference_mode():
            plain.backbone(pixels)
        forward = time.perf_counter() - start
        here.send(number)
        whole, block, size, block_size = here.recv()
        if number >= WARM:
            yield whole, block, forward, size, block_size
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
    whole, block, forward, size, block_size = zip(
        *answers(f"timm:{options.model}", file.getvalue(), options.photos), strict=True
    )
    found = {
        "answer_ms": summary(list(whole)), "block_ms": summary(list(block)), "forward_ms": summary(list(forward)),
        "answer_p95_over_forward_p50": round(summary(list(whole))["p95"] / summary(list(forward))["p50"], 2),
        "answer_bytes": max(size), "block_bytes": max(block_size),
    }  # fmt: skip
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
