"""Peak memory of a scan over few and over many images: it must not grow with their number.

    python benchmarks/memory.py FOLDER [--few 1000] [--many 20000] [--write benchmarks/results]

Each scan runs in a process of its own; images of FOLDER are listed as often as needed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORK = """
import resource, sys
from vitreg.verbs.scan.verb import ScanOptions, scan
spec, images, out, size = sys.argv[1:]
result = scan(spec, images, out=out, random=True, options=ScanOptions(size=(int(size), int(size))))
print(result.images.seen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--model", default="timm:vit_tiny_patch16_224")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    files = sorted(p.resolve() for p in options.folder.rglob("*.jpg"))
    peaks = {}
    for count in (options.few, options.many):
        with tempfile.TemporaryDirectory() as folder:
            listed = Path(folder) / "images.txt"
            listed.write_text("\n".join(map(str, itertools.islice(itertools.cycle(files), count))))
            command = [sys.executable, "-c", WORK, options.model, str(listed), f"{folder}/out", str(options.size)]
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seen, peak = map(int, done.stdout.split())
            peaks[seen] = peak
            print(f"{seen} images: peak {peak / 1024:.0f} MiB, {time.perf_counter() - start:.0f} s", flush=True)
    few, many = sorted(peaks)
    result = {
        "model": options.model,
        "size": options.size,
        "peak_kib": peaks,
        "ratio": round(peaks[many] / peaks[few], 4),
    }
    print(json.dumps(result))
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / "memory.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
