"""How often is found what a scan says that its images would have shown? Frequencies over planted draws, with 95 % intervals.

    python benchmarks/power.py [--draws 20] [--resamples 100] [--processes 2] [--write benchmarks/results]

For each kind of norms, number of images and ratio: `power_of` says a share for images without outliers; then outliers of
that share are planted in fresh images, some carrying more than others, and the rule of the scan (the default detector on
all norms, then 80 % of 100 resamples of the images) is asked. What is said is a bound: at
least 80 % are to be found at that share. How loose it is shows a quarter of the share, which is asked as well.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from vitreg.analysis import power
from vitreg.analysis.intervals import wilson
from vitreg.analysis.norms import BINS, NormHistogram, encode, to_bin
from vitreg.analysis.outliers import mixture
from vitreg.analysis.resampling import MIN_CONFIDENCE, RESAMPLES, weights
from vitreg.runtime import provenance

PATCHES = 196
IMAGES = (12, 40)
LESS = 0.25  # of the share that is said


def log_normal(images: int, rng: np.random.Generator) -> np.ndarray:
    """Norms [images, PATCHES] as of one group, the same in every image."""
    return rng.lognormal(3, 0.12, (images, PATCHES))


def skewed(images: int, rng: np.random.Generator) -> np.ndarray:
    """Norms [images, PATCHES] pooled over images that differ: each has its own median and width, and a tail to the right."""
    centre, width = rng.normal(3, 0.06, (images, 1)), rng.uniform(0.06, 0.14, (images, 1))
    return np.exp(centre + width * (rng.gamma(4, 0.5, (images, PATCHES)) - 2))


NORMS = {"log-normal": log_normal, "pooled, skewed": skewed}


def plant(norms: np.ndarray, share: float, ratio: float, unevenness: float, rng: np.random.Generator) -> np.ndarray:
    """Put outliers at `ratio` times the median into a share of the patches, on some images more than on others."""
    norms, median = norms.copy(), np.median(norms)
    counts = rng.poisson(rng.gamma(1 / unevenness, share * PATCHES * unevenness, len(norms)))
    for image, count in zip(norms, counts, strict=True):
        marked = rng.permutation(PATCHES)[:count]
        image[marked] = median * ratio * rng.lognormal(0, 0.12, len(marked))
    return norms


def count(norms: np.ndarray) -> np.ndarray:
    """Norm counts [n, BINS] of images [n, PATCHES]."""
    return np.stack([np.bincount(to_bin(encode(image)), minlength=BINS) for image in norms])


def is_found(norms: np.ndarray, resamples: int) -> bool:
    """The rule of the scan, with as many or fewer resamples; they are asked until it is decided."""
    histograms = count(norms)
    if not mixture(NormHistogram(histograms.sum(0)), "high").found:
        return False
    hits = misses = 0
    asked = round(MIN_CONFIDENCE * resamples)
    for weight in weights(len(histograms), 0)[:resamples]:
        found = mixture(NormHistogram(weight @ histograms), "high").found
        hits, misses = hits + found, misses + (not found)
        if hits >= asked or misses > resamples - asked:
            break
    return hits >= asked


def cell(job: tuple[str, int, int, int, int]) -> dict[str, object]:
    """One row of the table."""
    kind, images, which, draws, resamples = job
    rng = np.random.default_rng((images, which, len(kind)))
    said = power.power_of(count(NORMS[kind](images, rng)), PATCHES, 0, mixture)
    edge = said.detectable[which]
    row: dict[str, object] = {
        "norms": kind,
        "images": images,
        "ratio": edge.ratio,
        "said": edge.share,
        "draws": draws,
        "resamples": resamples,
    }
    for name, factor in (("found", 1.0), ("found_at_less", LESS)):
        if edge.share is not None:
            share = edge.share * factor
            drawn = (plant(NORMS[kind](images, rng), share, edge.ratio, said.unevenness, rng) for _ in range(draws))
            row[name] = sum(is_found(each, resamples) for each in drawn)
    return row


def render(rows: list[dict]) -> str:
    """Draw the Markdown table."""

    def frequency(row: dict, name: str) -> str:
        if name not in row:
            return "–"
        low, high = wilson(row[name], row["draws"])
        return f"{row[name]} of {row['draws']} ({low:.0%} to {high:.0%})"

    lines = [
        "| norms | images | times the median | share that is said | found at that share | found at a quarter of it |",
        "|" + "---|" * 6,
    ]
    for row in rows:
        said = "none" if row["said"] is None else f"{row['said']:.2%}"
        found = " | ".join(frequency(row, name) for name in ("found", "found_at_less"))
        lines.append(f"| {row['norms']} | {row['images']} | {row['ratio']:g} | {said} | {found} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    started = datetime.now(UTC)
    jobs = [
        (k, n, r, options.draws, options.resamples) for k in NORMS for n in IMAGES for r in range(len(power.RATIOS))
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        rows = []
        for row in pool.map(cell, jobs):
            rows.append(row)
            print(json.dumps(row), flush=True)
    print(render(rows))
    if options.write:
        made = provenance(started=started, device=torch.device("cpu"), precision="float32", processes=options.processes)
        record = {"rows": rows, "provenance": made.model_dump()}
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / "power.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
