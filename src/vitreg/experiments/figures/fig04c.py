"""Fig. 4c: the norms of the tokens over model sizes. Only the larger models have outliers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.outliers import absence, of_verdict
from vitreg.experiments.records import scans_drawn
from vitreg.experiments.trained.model import RECIPES
from vitreg.experiments.trained.scales import sized
from vitreg.experiments.trained.seeds import FEWEST_SEEDS
from vitreg.quantities import count, percent
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

LARGER = Says(
    id="larger-models",
    says="Outliers appear in the larger models only.",
    criterion="in every seed there is a size from which on all models have outliers, and below which none has; three seeds or "
    "more, which all agree",
    paper="in ViT-L, H and g, not in T, S and B",
)
LAST = -1  # block


def measure(setting: Setting, model: str) -> Measured:
    """Scan one size."""
    result, job = setting.scan(model)
    numbers = {**of_verdict(result), "share": result.verdict.outlier_fraction, "width": float(result.model.width)}
    numbers |= {"blocks": float(result.model.blocks), "size": float(result.model.width**2 * result.model.blocks)}
    return Measured(subject=model, numbers=numbers, jobs={"scan": job})


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge all sizes together."""
    trained = [each for each in measured if each.trained is not None]
    if not trained:
        return []
    subject = f"{RECIPES[trained[0].trained.recipe]}, all sizes"  # type: ignore[union-attr, index]
    failed = next((each for each in trained if each.failed), None)
    if failed is not None:
        return [LARGER.outcome(subject, None, failed.failed)]
    seeds: dict[int, list[Measured]] = {}
    for each in trained:
        seeds.setdefault(each.trained.seed, []).append(each)  # type: ignore[union-attr]
    words = "; ".join(f"{each.subject} {percent(each.numbers['share'] or 0)}" for each in trained)
    if len(seeds) < FEWEST_SEEDS:
        few = f"{count(len(seeds), 'seed')}, and from fewer than {FEWEST_SEEDS} nothing is claimed"
        return [LARGER.outcome(subject, None, f"{few}: {words}.")]
    for each in trained:
        sure, absent = absence(each)
        if not each.numbers["outliers"] and not sure:
            return [LARGER.outcome(subject, None, f"{each.subject}: {absent}.")]
    parted = [_parted(each) for each in seeds.values()]
    held = True if all(parted) else None if any(parted) else False
    return [
        LARGER.outcome(
            subject, held, f"{words}. In {sum(parted)} of {len(parted)} seeds only the larger ones have some."
        )
    ]


def _parted(measured: Sequence[Measured]) -> bool:
    """Whether the sizes with outliers are the largest ones, and not all."""
    ordered = sorted(measured, key=lambda each: each.numbers["size"] or 0)
    shown = [bool(each.numbers["outliers"]) for each in ordered]
    return shown == sorted(shown) and not all(shown) and any(shown)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The histogram of norms of each size."""
    from vitreg.report.scan.charts import histogram

    return scans_drawn(record, jobs, lambda result: histogram.figure(result, LAST))


EXPERIMENT = Experiment(
    id="fig4c", label="Fig. 4c", title="Norms over model sizes", needs=("images",), looks="none", trains=sized,
    measure=measure, claims=claims, draw=draw,
    published={"with outliers": "ViT-L, ViT-H, ViT-g", "without": "ViT-T, ViT-S, ViT-B"},
    protocol="Distribution of the norms of patch tokens of DINOv2 models of six sizes.",
    ours="Three sizes of one recipe, all trained for as many steps (DeiT-III at smoke scale); at paper scale the six.",
)  # fmt: skip
