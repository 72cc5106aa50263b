"""Precision and recall of every detector on planted models: 5 kinds x 20 draws; and the verdict on 40 models without artifacts.

    python benchmarks/detectors.py [--draws 20] [--images FOLDER] [--write docs/detectors.md]

Planted models know their outliers from pixels alone (`models.planted.Truth`). Each detector chooses its own layer as the
scan does, and is judged on the patch tokens of that layer. Without --images the photographs of scikit-image are used.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from vitreg.analysis import lint, maps, outliers
from vitreg.analysis.norms import NormHistogram, edge_index, encode
from vitreg.analysis.tally import SINK, is_outlier
from vitreg.analysis.verdict.decide import choose
from vitreg.backbones import Backbone, Capture
from vitreg.data import IMAGENET, ImageSource, stream
from vitreg.models import planted
from vitreg.verbs.demo.verb import write_photographs
from vitreg.verbs.scan.measure import sampled_queries
from vitreg.verbs.scan.verb import scan

NORM_DETECTORS = ("mixture", "mad:5", "ratio:3", "absolute:150")
ALL = (*NORM_DETECTORS, "percentile:98 (plots only)", "attention sink", "position table")


def flagged_by_norm(norms: np.ndarray, name: str) -> np.ndarray | None:
    """Patch tokens [B, P] that a detector marks at the layer it chooses; None if it finds nothing. norms: [L, B, P]."""
    if name.startswith("percentile"):
        last = NormHistogram.of(norms[-1])
        return is_outlier(encode(norms[-1]), edge_index(last.quantile(0.98)), "high")
    detect = outliers.detector(name)
    found = [{side: detect(NormHistogram.of(layer), side) for side in ("high", "low")} for layer in norms]
    side, _, peak = choose(found)
    if side is None or peak is None:
        return None
    return is_outlier(encode(norms[peak]), edge_index(found[peak][side].threshold), side)


def measure(backbone: Backbone, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Norms [L, B, P] and attention received [L, B, P] in multiples of the mean."""
    layout = backbone.layout(images.shape[-2:])
    queries = sampled_queries(layout)
    norms, received = [], []
    for batch in images.split(16):
        trace = backbone.trace(batch, Capture(norms="all", rows=("all", queries)))
        norms.append(torch.stack([layout.take(trace.norms(i), -1) for i in range(backbone.depth)]))
        each = torch.stack(
            [layout.take(maps.received(trace.attention(i, queries), queries), -1) for i in range(backbone.depth)]
        )
        received.append(each / each.mean(-1, keepdim=True))
    return torch.cat(norms, 1).numpy(), torch.cat(received, 1).numpy()


def score(flagged: np.ndarray | None, truth: np.ndarray) -> tuple[float, float]:
    """Precision and recall; finding nothing where something is has recall 0 and no precision."""
    if flagged is None or not flagged.any():
        return float("nan"), 0.0
    return float((flagged & truth).sum() / flagged.sum()), float((flagged & truth).sum() / truth.sum())


def by_position(model: torch.nn.Module, shape: tuple[int, int]) -> np.ndarray:
    """Patches whose row of the position table stands out, in every image."""
    table, grid = Backbone(model).anatomy.position_table()
    marked = np.zeros(shape, bool)
    for row in lint.position_outliers(table, grid):
        marked[:, row.row * grid[1] + row.col] = True
    return marked


def random_models(count: int) -> list[tuple[str, Backbone]]:
    """Untrained ViTs of several families."""
    import timm

    names = (
        "vit_tiny_patch16_224",
        "deit_tiny_patch16_224",
        "vit_wee_patch16_reg1_gap_256",
        "vit_pwee_patch16_reg1_gap_256",
        "vit_tiny_patch16_rope_reg1_gap_256",
    )
    known = [n for n in names if timm.is_model(n)]
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        name = known[seed % len(known)]
        models.append((f"random {name}, seed {seed}", Backbone(timm.create_model(name, img_size=224).eval())))
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    folder = options.images or Path("benchmarks/photographs")
    if options.images is None:
        write_photographs(folder)
    pixels = torch.cat([b.pixels for b in stream(ImageSource([folder]), IMAGENET, 16, limit=options.count)])
    print(f"{len(pixels)} photographs of {folder}")
    started, scores, shares, kinds_named = time.time(), defaultdict(list), defaultdict(list), defaultdict(list)
    for kind in planted.KINDS:
        for seed in range(options.draws):
            model, truth = planted.build(kind, seed=seed)
            marked = truth.outliers(pixels).numpy()
            backbone = Backbone(model)
            norms, received = measure(backbone, pixels)
            for name in NORM_DETECTORS:
                scores[kind, name].append(score(flagged_by_norm(norms, name), marked))
            scores[kind, ALL[4]].append(score(flagged_by_norm(norms, "percentile"), marked))
            sinks = received > SINK
            scores[kind, "attention sink"].append(score(sinks[sinks.sum((1, 2)).argmax()], marked))
            scores[kind, "position table"].append(score(by_position(model, marked.shape), marked))
            shares[kind].append(marked.mean())
            kinds_named[kind].append(scan(backbone, pixels).verdict.kind)
        default = np.array(scores[kind, "mixture"])
        print(
            f"{kind:16} {np.nanmean(default, 0).round(3)} {kinds_named[kind]} {time.time() - started:.0f} s", flush=True
        )
    clean = [(f"clean twin, seed {s}", Backbone(planted.clean(seed=s))) for s in range(options.draws)]
    none = {name: scan(backbone, pixels).verdict for name, backbone in [*clean, *random_models(options.draws)]}
    wrong = {name: verdict.reason for name, verdict in none.items() if verdict.kind != "none"}
    print(f"verdict none: {len(none) - len(wrong)} of {len(none)}; others: {json.dumps(wrong, indent=1)}")
    table = render(scores, shares, kinds_named, none, len(pixels), options.draws)
    print(table)
    if options.write:
        text = options.write.read_text()
        begin, end = "<!-- table:begin -->", "<!-- table:end -->"
        head, tail = text.split(begin)[0], text.split(end)[1]
        options.write.write_text(f"{head}{begin}\n{table}\n{end}{tail}")


def render(scores, shares, kinds_named, none, images: int, draws: int) -> str:
    """Draw the Markdown table."""
    lines = [
        f"{draws} draws of each kind, {images} photographs each; mean precision / mean recall over draws (– : marks nothing).",
        "",
        "| planted kind | share of patches | " + " | ".join(ALL) + " | verdicts |",
        "|" + "---|" * (len(ALL) + 3),
    ]
    for kind in planted.KINDS:
        cells = []
        for name in ALL:
            values = np.array(scores[kind, name])
            some = ~np.isnan(values[:, 0])
            precision = f"{values[some, 0].mean():.3f}" if some.any() else "–"
            cells.append(f"{precision} / {values[:, 1].mean():.3f}")
        names, counts = np.unique(kinds_named[kind], return_counts=True)
        verdicts = ", ".join(f"{n} {c}" for n, c in zip(names, counts, strict=True))
        lines.append(f"| {kind} | {np.mean(shares[kind]):.2%} | " + " | ".join(cells) + f" | {verdicts} |")
    right = sum(v.kind == "none" for v in none.values())
    lines += [
        "",
        f"Verdict `none` on {right} of {len(none)} models without artifacts: {draws} clean twins, {draws} untrained ViTs.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
