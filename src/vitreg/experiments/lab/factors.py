"""The factors of a design: settings of `vitreg train`, and parameters of `synthetic:retrieval`, by the names users know. No torch.

A factor is named as its flag, `optim.lr`, or by the last part alone where one setting has that name, `lr`. What the lab itself
sets (seed, length, end) is no factor. Other presets than lab-retrieval have no `val_asked`: their runs last as long as the design
says, and their data are settings too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any

from vitreg.config import decode, encode, flatten, merge
from vitreg.data.sets.synthetic.parameters import RetrievalParameters, parameters_of
from vitreg.errors import UserError, unknown
from vitreg.presets import preset
from vitreg.training.settings import TrainConfig

PRESET, DATA = "lab-retrieval", "retrieval."
OF = "preset"
"""The setting that says which preset a run starts from, where that is not the lab's own."""
DRAWN = "synthetic:retrieval@"
SOLVED, AFTER = "val_asked < 0.01", 1000
IMAGES = 160_000
UNSEEN = 2**31
"""Added to a seed for the images of a run that goes on: no seed of a design is as large."""
SET_HERE = {"run.seed", "run.duration", "run.until", "run.until_more", "run.device", "run.keep"}


@cache
def _settings(of: str) -> dict[str, Any]:
    """Return what can be a factor of a preset, by its whole name, with the value that the preset has."""
    flat = flatten(encode(preset(of)))
    open_to = {name: value for name, value in flat.items() if name not in SET_HERE}
    if of != PRESET:
        return open_to
    usual = {f"{DATA}{each.name}": each.default for each in fields(RetrievalParameters)}
    return {name: value for name, value in open_to.items() if not name.startswith("data.")} | usual


@cache
def _short(of: str) -> dict[str, str]:
    """Return the whole name of each setting whose last part no other has."""
    last = [name.rpartition(".")[2] for name in _settings(of)]
    return {name.rpartition(".")[2]: name for name in _settings(of) if last.count(name.rpartition(".")[2]) == 1}


def setting_named(name: str, where: str, of: str = PRESET) -> str:
    """Return the whole name of a setting of a preset.

    Raises:
        UserError: for a name that there is not, with the nearest.
    """
    if name in _settings(of):
        return name
    short = _short(of)
    if name not in short:
        raise unknown("factor", name, [*short, *_settings(of)], where, see=f"vitreg train {of} --help lists settings")
    return short[name]


def usual(setting: str, base: Mapping[str, Any], of: str = PRESET) -> Any:
    """Return the value that a setting has in the base of a design, for runs of a preset."""
    return base.get(OF, PRESET) if setting == OF else base.get(setting, _settings(of).get(setting))


def config_of(settings: Mapping[str, Any], steps: int, where: str, more: int = AFTER) -> TrainConfig:
    """Return the run of seed 0 of some settings, by their whole names, that differ from the preset.

    Tiles of another shape bring the model's patches, and the numbers that are asked, along.

    Args:
        steps: the most it takes.
        more: steps that it goes on after its task is solved.
    Raises:
        UserError: for a value that does not fit its setting.
    """
    of, settings = settings.get(OF, PRESET), {name: value for name, value in settings.items() if name != OF}
    if of != PRESET:
        return _other(of, settings, steps, where)
    try:
        given = parameters_of(
            ",".join(f"{name.removeprefix(DATA)}={value}" for name, value in settings.items() if name.startswith(DATA))
        )
    except UserError as error:
        raise UserError(f"{where}: {error.sentence}") from None
    flat = {
        "model.patch": given.side, "model.image_size": given.side * given.grid, "recipe.channels": given.channels,
        "recipe.own": given.code, "optim.warmup": f"{min(200, steps // 2)} steps",
    } | {name: value for name, value in settings.items() if not name.startswith(DATA)}  # fmt: skip
    base = encode(preset(PRESET))
    batch = flat.get("run.batch", base["run"]["batch"])
    count = max(IMAGES, steps * batch) if isinstance(batch, int) else IMAGES  # no image comes twice
    flat |= {
        "data.root": f"{DRAWN}0:{count}{given.spelling}", "run.seed": 0, "run.duration": f"{steps} steps",
        "run.until": SOLVED, "run.until_more": f"{more} steps", "run.device": "cpu", "run.keep": 1,
    }  # fmt: skip
    return decode(TrainConfig, merge(base, _nested(flat)), where=where)


def _other(of: str, settings: Mapping[str, Any], steps: int, where: str) -> TrainConfig:
    """Return the run of another preset: as long as the design says, on the CPU, with data that the design names."""
    flat = {"optim.warmup": f"{min(200, steps // 2)} steps", "data.workers": 0} | dict(settings)
    flat |= {"run.seed": 0, "run.duration": f"{steps} steps", "run.device": "cpu", "run.keep": 1}
    if not flat.get("data.root"):
        raise UserError(f'{where} has no data for {of}; name them, as in root = "synthetic:scenes:4000".')
    return decode(TrainConfig, merge(encode(preset(of)), _nested(flat)), where=where)


def seeded(config: TrainConfig, seed: int) -> TrainConfig:
    """Return a run of seed 0 with another seed, of its weights and of its data."""
    root = config.data.root.replace(f"{DRAWN}0:", f"{DRAWN}{seed}:", 1)
    return replace(config, data=replace(config.data, root=root), run=replace(config.run, seed=seed))


def going_on(config: TrainConfig, seed: int, source: str) -> TrainConfig:
    """Return a run of seed 0 that goes on from the end of another, for its whole duration, on images that this one never saw.

    Args:
        source: the job of the other; `runs` finds its folder.
    """
    later = seeded(config, seed + UNSEEN)
    run = replace(later.run, seed=seed, until=None, until_more="0 steps", start_from=f"run:{source}")
    return replace(later, run=run)


def parameters_in(settings: Mapping[str, Any]) -> RetrievalParameters:
    """Return what the images of some settings are made of."""
    words = [f"{name.removeprefix(DATA)}={value}" for name, value in settings.items() if name.startswith(DATA)]
    return parameters_of(",".join(words))


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for name, value in flat.items():
        *places, key = name.split(".")
        table = tables
        for place in places:
            table = table.setdefault(place, {})
        table[key] = value
    return tables
