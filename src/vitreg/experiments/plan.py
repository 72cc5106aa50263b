"""What a run of experiments needs and costs, said before anything runs: `--dry-run` and `--list`. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

from vitreg.experiments.experiment import Experiment
from vitreg.experiments.options import ReproduceOptions
from vitreg.experiments.subjects import models_of, others_of, read_by, runs
from vitreg.experiments.trained.cost import RATES, Cost, cost_of
from vitreg.experiments.trained.model import PREFIX, Trained
from vitreg.experiments.trained.scales import PROTOCOLS
from vitreg.quantities import count

FIRST_SETS = "ImageNet-22k to train on (--train), images with texts (--captions; the paper's are not public), ImageNet-1k (--classes), " \
    "ADE20k (--masks), NYUd v2 (--depths), VOC 2007 (--boxes)"  # fmt: skip
GIGABYTES = {
    "timm:vit_base_patch14_dinov2.lvd142m": 0.35,
    "timm:vit_base_patch14_reg4_dinov2.lvd142m": 0.35,
    "timm:vit_base_patch16_224.dino": 0.34,
    "timm:vit_giant_patch14_dinov2.lvd142m": 4.5,
    "timm:vit_giant_patch14_reg4_dinov2.lvd142m": 4.5,
}
"""What the weights of the scales' models are to download."""


def lines(experiments: Sequence[Experiment], options: ReproduceOptions, *, named: bool) -> list[str]:
    """Say of each experiment what it needs and trains, and of all together what they cost.

    Args:
        named: whether the user named the experiments.
    """
    found, everything, looked = [], [], []
    for each in (held for held in experiments if runs(held, options, named)):
        models, others = models_of(each, options), others_of(each, options)
        everything += models
        looked += [] if each.subjects else others
        found.append(
            f"{each.id:8} {each.label}: {each.title}. {_needs(each, models, options)}{_trains(models, options)}"
        )
    models = list(dict.fromkeys(everything))
    if models:
        rate = RATES[options.scale]
        found.append(
            f"In all {_cost(models, options)}, each trained once: {rate.words}; scans and probes come besides."
        )
        found.append(f"How models are trained and probed at {options.scale} scale: {PROTOCOLS[options.scale].words}.")
    if options.scale == "paper" and models:
        found.append(f"The paper's sets, which you name: {FIRST_SETS}.")
    size = sum(GIGABYTES.get(spec, 0.0) for spec in set(looked))
    found.append(f"Downloads: {f'weights of {size:.2g} GB' if size else 'none that are known beforehand'}.")
    return found


def _needs(each: Experiment, models: Sequence[Trained], options: ReproduceOptions) -> str:
    needs = read_by(each, models)
    given = {"images": options.images or options.scale != "paper", **options.data}
    absent = [f"--{name}" for name in needs if not given[name]]
    words = f"Needs {', '.join(needs)}" if needs else "Needs no data"
    return words + (f" (not given: {', '.join(absent)})." if absent else ".")


def _trains(models: Sequence[Trained], options: ReproduceOptions) -> str:
    if not models:
        return ""
    names = dict.fromkeys(model.name.removeprefix(PREFIX).partition("@")[0] for model in models)
    seeds = f" of {count(options.seeds, 'seed')} each" if options.seeds > 1 else ""
    return f" Trains {_cost(models, options)}: {', '.join(names)}{seeds}."


def _cost(models: Sequence[Trained], options: ReproduceOptions) -> str:
    clip = [model for model in models if model.recipe == "clip"]
    others = [model for model in models if model.recipe != "clip"]
    found: Cost = cost_of(others, options.scale, options.data["train"], options.longer)
    found += cost_of(clip, options.scale, options.data["captions"], options.longer)
    hours = f"{found.hours:,.0f}" if found.hours >= 10 else f"{found.hours:.2g}"
    words = f"{count(len(set(models)), 'model')}, {hours} {RATES[options.scale].unit} ({found.flops:.1e} FLOPs)"
    return f"{words}, {found.disk / 1e9:.2g} GB of disk"
