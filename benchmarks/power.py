"""How often is found what a scan says that its images would have shown? Frequencies over planted draws, with 95 % intervals.

    python benchmarks/power.py [--draws 60] [--resamples 100] [--processes 2] [--write benchmarks/results]

For each kind of norms, number of images and ratio: `power_of` says a share for images without outliers; then outliers of
that share are planted in fresh images, some carrying more than others, and the rule of the scan (the default detector on
all norms, then 80 % of 100 resamples of the images) is asked. What is said is a bound: at least 80 % are to be found at
that share. How loose it is shows a fifth of the share, which is asked as well. A second table asks the rule itself of
very few images, where it is not the size of a group but its spread over the images that decides.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from vitreg.analysis.intervals import wilson
from vitreg.analysis.norms import BINS, encode, to_bin
from vitreg.analysis.outliers import Side, mixture
from vitreg.analysis.verdict import power
from vitreg.analysis.verdict.resampling import MIN_CONFIDENCE, MIN_IMAGES_FOR_CONFIDENCE, RESAMPLES, Pools, weights
from vitreg.machine.runtime import provenance
from vitreg.quantities import percent

PATCHES = 196
CASES: tuple[tuple[Side, int], ...] = (("high", 12), ("low", 12), ("high", 40))
FEW, FEW_SHARES = (1, 2, 3), (0.02, 0.05, 0.1)
LESS = 0.2  # of the share that is said


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


def is_found(norms: np.ndarray, side: Side, resamples: int) -> bool:
    """The rule of the scan, with as many or fewer resamples; they are asked until it is decided."""
    histograms = count(norms)
    pool = Pools(histograms)
    whole = mixture(pool(np.ones(len(norms))), side)
    if not whole.found or whole.threshold is None:
        return False
    if len(norms) < MIN_IMAGES_FOR_CONFIDENCE:
        beyond = norms >= whole.threshold if side == "high" else norms < whole.threshold
        return bool(beyond.any(1).all())
    hits = misses = 0
    asked = round(MIN_CONFIDENCE * resamples)
    for weight in weights(len(histograms), resamples, 0):
        found = mixture(pool(weight), side).found
        hits, misses = hits + found, misses + (not found)
        if hits >= asked or misses > resamples - asked:
            break
    return hits >= asked


def cell(job: tuple[str, int, Side, int, int, int]) -> dict[str, object]:
    """One row of the table."""
    kind, images, side, which, draws, resamples = job
    rng = np.random.default_rng((images, which, len(kind), len(side)))
    norms = count(NORMS[kind](images, rng))
    said = power.power_of(np.stack([norms, norms], axis=1), (PATCHES,) * 2, (0, 0), mixture)
    edge = (said.detectable if side == "high" else said.below)[which]
    row: dict[str, object] = {
        "norms": kind,
        "images": images,
        "ratio": edge.ratio,
        "said": edge.share,
        "resamples": resamples,
    }
    for name, factor, tries in (("found", 1.0, draws), ("found_at_less", LESS, max(draws // 3, 1))):
        if edge.share is not None:
            share = edge.share * factor
            drawn = (plant(NORMS[kind](images, rng), share, edge.ratio, said.unevenness, rng) for _ in range(tries))
            row[name] = [sum(is_found(each, side, resamples) for each in drawn), tries]
    return row


def few(job: tuple[int, float, int, int]) -> dict[str, object]:
    """How often the rule finds a share at 6 times the median in so many images."""
    images, share, draws, resamples = job
    rng = np.random.default_rng((images, round(1000 * share)))
    drawn = (plant(log_normal(images, rng), share, 6.0, power.MIN_UNEVENNESS, rng) for _ in range(draws))
    return {"images": images, "share": share, "found": [sum(is_found(e, "high", resamples) for e in drawn), draws]}


def frequency(row: dict, name: str) -> str:
    """A count of all with its interval."""
    if name not in row:
        return "–"
    low, high = wilson(*row[name])
    return f"{row[name][0]} of {row[name][1]} ({low:.0%} to {high:.0%})".replace("%", " %")


def render(rows: list[dict], rule: list[dict]) -> str:
    """Draw the Markdown tables."""
    lines = [
        "| norms | images | times the median | stated share | found at that share | found at a fifth of it |",
        "|" + "---|" * 6,
    ]
    for row in rows:
        said = "none" if row["said"] is None else percent(row["said"])
        found = " | ".join(frequency(row, name) for name in ("found", "found_at_less"))
        lines.append(f"| {row['norms']} | {row['images']} | {row['ratio']:.3g} | {said} | {found} |")
    lines += ["", "| images | share at 6 times the median | found |", "|" + "---|" * 3]
    lines += [f"| {row['images']} | {percent(row['share'])} | {frequency(row, 'found')} |" for row in rule]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    started, rest = datetime.now(UTC), (options.draws, options.resamples)
    rule = [(n, share, *rest) for n in FEW for share in FEW_SHARES]
    jobs = [(k, n, side, r, *rest) for side, n in CASES for k in NORMS for r in range(len(power.RATIOS))]
    with ProcessPoolExecutor(options.processes) as pool:
        rows, ruled = [], []
        for function, asked, said in ((cell, jobs, rows), (few, rule, ruled)):
            for row in pool.map(function, asked):
                said.append(row)
                print(json.dumps(row), flush=True)
    print(render(rows, ruled))
    if options.write:
        made = provenance(started=started, device=torch.device("cpu"), precision="float32", processes=options.processes)
        record = {"rows": rows, "rule": ruled, "provenance": made.model_dump()}
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / "power.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
