"""Scan records and examples made up by arithmetic, in the shapes that a real scan leaves: found, none, and odd ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitreg.records import (
    SINK_KINDS,
    Example,
    Finding,
    Followed,
    Heatmap,
    Histogram,
    ImagesRecord,
    LayerRecord,
    ModelRecord,
    Provenance,
    RedundancyRecord,
    ScanResult,
    SinksRecord,
    Skipped,
    ValueSpace,
    VerdictRecord,
)


def _tokens(rng: np.random.Generator, median: float, outliers: float, ratio: float, count: int = 12_000) -> np.ndarray:
    bulk = median * np.exp(0.16 * rng.standard_normal(count))
    few = median * ratio * np.exp(0.22 * rng.standard_normal(round(count * outliers)))
    return np.concatenate([bulk, few])


def scan_result(
    kind: str = "high-norm",
    *,
    blocks: int = 12,
    cls: bool = True,
    registers: int = 0,
    redundancy: bool = True,
    attention: bool = True,
    seen: int = 200,
    skipped: Sequence[Skipped] = (),
    grid: tuple[int, int] = (37, 37),
    spec: str = "timm:vit_large_patch14_dinov2",
    share: float = 0.023,
    **changes: Any,
) -> ScanResult:
    """A complete record; `changes` replace whole fields."""
    rng = np.random.default_rng(5)
    found = kind != "none"
    first = blocks // 2
    layers = [_layer(rng, i, blocks, kind, cls, registers, share) for i in range(blocks)]
    rows, cols = grid
    spread = rng.random((rows, cols)) ** 3 * share * 4 + share * 0.3
    spread[:2], spread[-2:] = spread[:2] * 2.4, spread[-2:] * 1.8
    images = np.bincount(rng.negative_binomial(6, 6 / (6 + share * rows * cols), size=seen)).astype(float)
    if not found:
        images = np.array([float(seen)])
    record: dict[str, Any] = {
        "model": _model(spec, blocks, grid, cls, registers),
        "images": ImagesRecord(seen=seen, skipped=list(skipped)),
        "settings": {"detector": "log-gmm", "batch_size": 8},
        "layers": layers,
        "verdict": _verdict(kind, layers, share),
        "positions": Heatmap(rows=rows, cols=cols, values=spread.tolist()) if found else None,
        "redundancy": _redundancy() if redundancy and found else None,
        "head_sinks": head_sinks(blocks, first if found else blocks) if attention else None,
        "per_image": Histogram(edges=list(map(float, range(len(images) + 1))), counts=images.tolist(), unit="images"),
        "lint": _lint(),
        "provenance": _provenance(spec),
    }
    return ScanResult(**(record | changes))


def _layer(
    rng: np.random.Generator, i: int, blocks: int, kind: str, cls: bool, registers: int, share: float
) -> LayerRecord:
    """A block; outliers begin in the middle and are longest in the last but one."""
    found, low = kind != "none", kind == "low-norm"
    first, peak = blocks // 2, max(blocks - 2, 0)
    depth = i / max(blocks - 1, 1)
    median = 9 + 40 * depth**1.6
    on = found and i >= first
    growth = 1 + 9 * min((i - first + 1) / max(peak - first + 1, 1), 1) * (0.75 if i > peak else 1) if on else 1.0
    norms = _tokens(rng, median, share if on else 0.0, 1 / growth if low else growth)
    threshold = median * growth**-0.5 if low else median * max(growth**0.5, 1.9)
    edges = np.geomspace(norms.min() * 0.7, norms.max() * 1.3, 97)
    return LayerRecord(
        index=i,
        median=float(np.median(norms)),
        p99=float(np.quantile(norms, 0.99)),
        max=float(norms.max()),
        min=float(norms.min()),
        ratio=growth if on else None,
        threshold=threshold if on else None,
        side=("low" if low else "high") if on else None,
        outlier_fraction=share if on else 0.0,
        quantiles={"0.01": float(np.quantile(norms, 0.01)), "0.5": float(np.median(norms))},
        histogram=Histogram(
            edges=edges.tolist(), counts=np.histogram(norms, edges)[0].astype(float).tolist(), unit="tokens"
        ),
        cls_norm=median * (1.6 + depth) if cls else None,
        register_norms=[median * (2 + 2.4 * (r + 1) * depth) for r in range(registers)],
        cls_attention=min(0.9, share * (1 + 22 * (growth - 1) / 9)) if on and cls else None,
        received=1 + 1.9 * (growth - 1) if on else None,
        sinks=share / 2 if on else 0.0,
        followed=Followed(median=median * (1 / growth if low else growth), ratio=growth, auc=1 if on else 0.5)
        if found
        else None,
        gates={"bic_gain": 812.4, "ashman_d": 6.21, "weight": share, "bimodal": True} if on else {},
    )


def _model(spec: str, blocks: int, grid: tuple[int, int], cls: bool, registers: int) -> ModelRecord:
    rows, cols = grid
    return ModelRecord(
        spec=spec,
        library="timm 1.0.31",
        blocks=blocks,
        width=1024,
        heads=16,
        parameters=304_368_640,
        patch=(14, 14),
        image_size=(rows * 14, cols * 14),
        grid=grid,
        tokens={"cls": int(cls), "registers": registers, "other": 0, "patches": rows * cols},
        weights="made up for a test",
        weights_sha256="9f2c" * 16,
    )


def _verdict(kind: str, layers: Sequence[LayerRecord], share: float) -> VerdictRecord:
    found = kind != "none"
    first, peak = len(layers) // 2, max(len(layers) - 2, 0)
    return VerdictRecord(
        kind=kind,
        strength="strong" if found else "none",
        confidence=0.98,
        first_layer=first if found else None,
        peak_layer=peak if found else None,
        outlier_fraction=share if found else 0.0,
        threshold=layers[peak].threshold if found else None,
        ratio=10.0 if found else None,
        sentence=(
            "This model carries strong artifacts: about 1 patch in 43 has a vector ten times longer than the rest."
            if found
            else "No artifacts were found: the patch tokens of this model form one group in every block."
        ),
        reason=(
            f"At block {peak}, 2.3 % of patch tokens form a separate group whose median norm is 10.0 times "
            f"that of the rest. The group first separates at block {first} and appears in 196 of 200 images."
            if found
            else "In all blocks one Gaussian explains the log-norms as well as two; the ratio is 1.9."
        ),
        effects={"norm_ratio": 10.0, "attention_ratio": 18.1} if found else {},
        advice=[
            "For dense tasks use a model trained with registers, such as `timm:vit_large_patch14_reg4_dinov2`.",
            "Without retraining, add test-time registers and scan again.",
        ]
        if found
        else [],
    )


def _redundancy() -> RedundancyRecord:
    cosines = np.linspace(-0.2, 1, 61)
    centres = (cosines[1:] + cosines[:-1]) / 2
    bump = lambda mean, width: np.exp(-(((centres - mean) / width) ** 2) / 2)  # noqa: E731
    return RedundancyRecord(
        outliers=Histogram(edges=cosines.tolist(), counts=(900 * bump(0.87, 0.06)).tolist()),
        others=Histogram(edges=cosines.tolist(), counts=(40_000 * bump(0.62, 0.18)).tolist()),
        outlier_mean=0.871,
        other_mean=0.662,
        auc=0.91,
    )


def _lint() -> list[Finding]:
    return [
        Finding(level="ok", subject="positions", message="No row of the position table stands out."),
        Finding(
            level="warning",
            subject="registers",
            message="The library calls them `prefix tokens`; slicing from 1 mixes them with patches.",
            remedy="Slice from `num_prefix_tokens`.",
        ),
    ]


def _provenance(spec: str) -> Provenance:
    return Provenance(
        vitreg="0.1.0",
        command=f"vitreg scan {spec} photos/ --out scan/",
        started="2026-01-05T10:12:44+00:00",
        seconds=81.4,
        python="3.11.2",
        packages={"torch": "2.15.0", "timm": "1.0.31"},
        hardware="2 cores, 8 GiB",
        device="cpu",
        precision="bf16, statistics in fp32",
        processes=1,
    )


def head_sinks(blocks: int, first: int, heads: int = 4) -> SinksRecord:
    """Sinks whose kind goes round over the blocks after the first, in heads 1 and 2; outliers on their way out."""
    shares: dict[str, Any] = {kind: [[0.0] * heads for _ in range(blocks)] for kind in SINK_KINDS}
    read = range(first + 1, blocks)
    for block in read:
        shares[SINK_KINDS[block % 3]][block][1], shares["no-op"][block][2] = 0.9, 0.1
    some = [[0.3 if block in read and head in (1, 2) else None for head in range(heads)] for block in range(blocks)]
    return SinksRecord(
        queries=17,
        no_op=shares["no-op"],
        broadcast=shares["broadcast"],
        unclear=shares["unclear"],
        value_ratio=some,
        stable_rank=some,
        places=[{"patch": 0.8, "cls": 0.2} if block in read else {} for block in range(blocks)],
        on_outliers=[0.7 if block in read else None for block in range(blocks)],
        value_space=[
            ValueSpace(
                block=block,
                outliers=40,
                length=[0.2] * heads,
                length_without_bias=[0.21] * heads,
                outside=[0.95] * heads,
                outside_normal=[0.7] * heads,
                outside_random=[0.75] * heads,
            )
            for block in read
        ],
        value_images=4 if read else 0,
    )


def examples(
    count: int = 4,
    *,
    grid: tuple[int, int] = (14, 14),
    size: int = 224,
    cls: bool = True,
    registers: int = 0,
    outliers: bool = True,
    attended: int = 8,
    photographs: Sequence[Path] = (),
    names: Sequence[str] = (),
) -> list[Example]:
    """Images with maps that follow the picture: outliers on its plainest patches, attention on its busiest."""
    made = []
    for i in range(count):
        rng = np.random.default_rng(i)
        image = _picture(rng, size, photographs[i % len(photographs)] if photographs else None)
        rows, cols = grid
        small = np.asarray(Image.fromarray(image).resize((cols * 4, rows * 4)), dtype=np.float32) / 255
        patches = small.reshape(rows, 4, cols, 4, 3)
        busy = patches.std(axis=(1, 3)).mean(-1)
        colour = patches.mean(axis=(1, 3))
        chosen = np.zeros(rows * cols, bool)
        if outliers:
            plain = np.argsort(busy.ravel() + 0.02 * rng.random(rows * cols))[: rows * cols // 5]
            wanted = max(0, (count - i) * rows * cols // (26 * count) - 1)
            chosen[rng.choice(plain, wanted, replace=False)] = True
        chosen = chosen.reshape(grid)
        norms = 45 * np.exp(0.13 * rng.standard_normal(grid) + busy)
        norms[chosen] = 45 * rng.uniform(5, 13, chosen.sum())
        made.append(
            Example(
                name=names[i]
                if i < len(names)
                else (photographs[i % len(photographs)].name if photographs else f"picture-{i}.jpg"),
                image=image,
                outliers=chosen,
                norms=norms.astype(np.float32),
                cls_attention=_attention(rng, busy, chosen) if cls else None,
                register_attention=np.stack([_attention(rng, busy, chosen & False) for _ in range(registers)])
                if registers
                else np.zeros((0, rows, cols), np.float32),
                pca=_pca(colour, chosen),
                **_attends(rng, colour, chosen, attended),
            )
        )
    return made


def _picture(rng: np.random.Generator, size: int, photograph: Path | None) -> np.ndarray:
    if photograph is not None:
        with Image.open(photograph) as opened:
            image = opened.convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize((size, size))
        return np.asarray(image)
    y, x = np.mgrid[0:size, 0:size] / size
    centre = rng.uniform(0.3, 0.7, 2)
    disc = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 0.05)[..., None] * rng.uniform(80, 160, (size, size, 3))
    sky = np.stack([120 + 60 * y, 150 + 40 * y, 190 - 30 * y], -1)
    return np.clip(np.where(disc > 0, disc, sky), 0, 255).astype(np.uint8)


def _attention(rng: np.random.Generator, busy: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    rows, cols = busy.shape
    y, x = np.mgrid[0:rows, 0:cols]
    at = rng.uniform(0.3, 0.7, 2) * (rows, cols)
    focus = np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * (0.22 * rows) ** 2))
    raw = (0.05 + busy) * (0.15 + focus) * np.exp(0.3 * rng.standard_normal(busy.shape))
    raw[chosen] += raw.max() * rng.uniform(1, 4, chosen.sum())
    return (0.9 * raw / raw.sum()).astype(np.float32)


def _pca(colour: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    flat = colour.reshape(-1, 3) - colour.reshape(-1, 3).mean(0)
    scores = flat @ np.linalg.eigh(flat.T @ flat)[1][:, ::-1]
    scores = np.clip(scores / (6 * scores.std(0) + 1e-6) + 0.5, 0, 1).reshape(colour.shape)
    scores[chosen] = (0.95, 0.9, 0.2)
    return scores.astype(np.float32)


def _attends(rng: np.random.Generator, colour: np.ndarray, chosen: np.ndarray, attended: int) -> dict[str, np.ndarray]:
    flat = colour.reshape(-1, 3)
    distance = ((flat[:, None] - flat[None]) ** 2).sum(-1)
    logits = -14 * distance + 0.9 * rng.standard_normal(distance.shape).astype(np.float32) + 3.2 * chosen.ravel()
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    attended = min(attended, flat.shape[0])
    best = np.argsort(-weights, axis=1)[:, :attended]
    return {
        "attends": best.astype(np.int32),
        "attends_share": np.take_along_axis(weights, best, axis=1).astype(np.float32),
    }
