"""Reads a design: a TOML file, or one that vitreg ships, by its name. No torch.

title = "What grows artifacts"        # optional
seeds = 4                             # of every block that names none: 4 is 0 to 3; or a list
steps = 6000                          # the most a run takes
steps_after_solved = 1500             # it ends so many steps after its task is solved, 1000 if left out

preset = "lab-retrieval"              # what runs start from, this if left out; a block may name another
hours = 12                            # of a core: no run begins once the runs took so long; optional

[base]                                # settings that differ from the preset; optional
depth = 2

[[block]]                             # levels of the factors of a block are crossed
seeds = 8
[block.factors]
registers = [0, 4]
attention = ["off-by-one"]            # the base's own level is always there too
rate = { "x 3" = { lr = 0.015, min_lr = 0.015 } }    # a level of several settings, under a name

[[block]]                             # masks = true: left out where the photographs have none
base = { depth = 6 }                  # what all cells of this block differ in

[[block]]
after = { registers = 0 }             # each run goes on from the end of this one's, of an earlier block, from the same seed
steps = 4000                          # for so many steps, whatever its error
factors = { registers = [0, 4] }
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitreg.config import read
from vitreg.data.sets.synthetic.naming import named
from vitreg.data.sets.synthetic.parameters import RetrievalParameters
from vitreg.errors import UserError, unknown
from vitreg.experiments.lab.design import AS_IN_BASE, OF_THE_BLOCK, Block, Cell, Design, Factor, Level
from vitreg.experiments.lab.factors import AFTER, OF, PRESET, config_of, setting_named, usual
from vitreg.experiments.lab.photographs import with_photographs
from vitreg.presets import preset

KEPT = "design.json"
SHIPPED = Path(__file__).with_name("designs")
MOST_STEPS, MOST_SEEDS = 1_000_000, 1000
TOP = ("title", "seeds", "steps", "steps_after_solved", "hours", "preset", "base", "block")
OF_A_BLOCK = ("name", "seeds", "preset", "base", "factors", "masks", "after", "steps")


def design_named(name: str, photos: str | None = None) -> Design:
    """Read a design, and make sure that each of its levels can be trained.

    Args:
        photos: see `data_named`.
    Raises:
        UserError: for a file that is absent or no design, an unknown factor, a level that does not fit, or a block without
            seeds: one sentence, with the nearest choice.
    """
    data, _ = data_named(name, photos)
    found = design_of(data, Path(name).stem, name)
    _refuse_what_cannot_be_trained(found)
    return found


def data_named(name: str, photos: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """Read the file of a design, and return what it holds, and a sentence for each block that is left out.

    Args:
        photos: whose photographs the runs see instead of those that the design names.
    Raises:
        UserError: for a file that is absent, or photographs that are.
    """
    if not name:
        raise UserError(f"no design named; give a TOML file, or one of {', '.join(shipped())}.")
    path, own = Path(name).expanduser(), SHIPPED / f"{name}.toml"
    if not path.is_file():
        if name not in shipped():
            raise unknown("file or shipped design", name, shipped(), "vitreg lab run")
        path = own
    return with_photographs(read(path), photos, name)


def design_in(folder: Path) -> Design:
    """Read the design that `lab run` keeps beside its runs.

    Raises:
        UserError: if there is none.
    """
    path = folder / KEPT
    if not path.is_file():
        raise UserError(f"{folder} holds no {KEPT}; name the --out of a vitreg lab run.")
    held = read(path)
    if not isinstance(held.get("design"), dict):
        raise UserError(f"{path} is no design that vitreg lab run wrote.")
    return design_of(held["design"], str(held.get("name", "design")), str(path))


def as_kept(data: Mapping[str, object], name: str) -> str:
    """Return the file that keeps a design beside its runs."""
    return json.dumps({"schema": "vitreg.lab-design/1", "name": name, "design": data}, indent=1)


def shipped() -> list[str]:
    """Return the names of the designs that vitreg ships."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def design_of(data: Mapping[str, Any], name: str, where: str) -> Design:
    """Build a design from what its file holds.

    Args:
        where: the file, for messages.
    Raises:
        UserError: see `design_named`.
    """
    _refuse_unknown(data, TOP, where)
    title = data.get("title", name)
    steps, more = _steps(data, "steps", 10_000, where), _steps(data, "steps_after_solved", AFTER, where)
    hours = data.get("hours")
    if hours is not None and (isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 < hours < 1e6):
        raise UserError(f"hours of {where} is a number above 0, of hours of a core, not {hours!r}.")
    of = _preset(data.get("preset", PRESET), where)
    base = _named(data.get("base", {}), of, "base", where) | ({OF: of} if of != PRESET else {})
    blocks = data.get("block", [])
    if not isinstance(blocks, list) or not blocks:
        raise UserError(f"{where} has no [[block]], so there is nothing to run; give one with seeds and factors.")
    design = Design(name=name, title=str(title), base=base, blocks=(), steps=steps, where=where, hours=hours, more=more)
    for number, each in enumerate(blocks, 1):
        block = _going_on(_block(each, number, data.get("seeds"), base, where), each, design)
        design = replace(design, blocks=(*design.blocks, block))
    return design


def _preset(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise UserError(f"preset of {where} is the name of a preset, not {name!r}.")
    preset(name)  # refuses names that there are not
    return name


def _named(given: Any, of: str, what: str, where: str) -> dict[str, Any]:
    """Return a table of settings by their whole names."""
    return {setting_named(key, where, of): value for key, value in _table(given, what, where).items()}


def _block(data: Any, number: int, seeds: Any, base: Mapping[str, Any], where: str) -> Block:
    table = _table(data, f"block {number}", where)
    _refuse_unknown(table, OF_A_BLOCK, f"block {number} of {where}")
    factors = _table(table.get("factors", {}), f"the factors of block {number}", where)
    name = str(table.get("name", " x ".join(factors) or "base"))
    at = f"block '{name}' of {where}"
    of = _preset(table.get("preset", base.get(OF, PRESET)), at)
    own = _named(table.get("base", {}), of, "base", at)
    built = tuple(_factor(each, levels, {**base, **own}, of, at) for each, levels in factors.items())
    if own or of != base.get(OF, PRESET):
        built = (Factor(OF_THE_BLOCK, (Level(name, own | {OF: of}),)), *built)
    return Block(name, built, _seeds(table.get("seeds", seeds), at))


def _going_on(block: Block, data: Mapping[str, Any], so_far: Design) -> Block:
    """Return a block with the cell that its runs go on from, which an earlier block must have."""
    at = f"block '{block.name}' of {so_far.where}"
    if "after" not in data:
        if "steps" in data:
            raise UserError(
                f"{at} has steps of its own, which only runs that go on have; give it after, or leave steps out."
            )
        return block
    of = so_far.base.get(OF, PRESET)
    given = _named(data["after"], of, f"after in {at}", f"after in {at}")
    wanted = Cell("", {key: value for key, value in given.items() if value != usual(key, so_far.base, of)})
    earlier = [(cell, each.seeds) for each in so_far.blocks for cell in so_far.crossed(each) if cell.key == wanted.key]
    lacking = set(block.seeds) - {seed for _, seeds in earlier for seed in seeds}
    if lacking:
        what = ", ".join(f"{key} = {_word(value)}" for key, value in data["after"].items()) or "the base"
        raise UserError(f"{at} goes on from {what}, which no earlier block has from seed {min(lacking)}.")
    return replace(block, after=earlier[0][0], steps=_steps(data, "steps", so_far.steps, at))


def _steps(data: Mapping[str, Any], name: str, otherwise: int, where: str) -> int:
    given = data.get(name, otherwise)
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MOST_STEPS:
        raise UserError(f"{name} of {where} is a whole number from 1 to {MOST_STEPS:,}, not {given!r}.")
    return given


def _seeds(given: Any, where: str) -> tuple[int, ...]:
    if given is None or given in (0, []):
        raise UserError(f"{where} has no seeds; say how many, as in seeds = 8, or which, as in seeds = [0, 1].")
    listed = list(range(given)) if isinstance(given, int) and 0 < given <= MOST_SEEDS else given
    if not isinstance(listed, list) or not all(type(each) is int and 0 <= each < 2**31 for each in listed):
        raise UserError(
            f"seeds of {where} are a number from 1 to {MOST_SEEDS} or a list of whole numbers, not {given!r}."
        )
    return tuple(dict.fromkeys(listed))


def _factor(name: str, given: Any, base: Mapping[str, Any], of: str, where: str) -> Factor:
    """Read a factor; the base's own level comes first, also where it is not listed."""
    if isinstance(given, dict) and given and all(isinstance(each, dict) for each in given.values()):
        named = {
            level: {setting_named(key, where, of): value for key, value in settings.items()}
            for level, settings in given.items()
        }
        keys = dict.fromkeys(key for settings in named.values() for key in settings)
        own = {key: usual(key, base, of) for key in keys}
        levels = [Level(AS_IN_BASE, own), *(Level(level, own | settings) for level, settings in named.items())]
        return Factor(name, tuple(_apart(levels)))
    setting = setting_named(name, where, of)
    if not isinstance(given, list) or not given:
        raise UserError(
            f"factor '{name}' in {where} takes a list of levels, as in {name} = [{_word(usual(setting, base, of))}]."
        )
    values = [usual(setting, base, of), *given]
    return Factor(name, tuple(_apart([Level(_word(value), {setting: value}) for value in values])))


def _apart(levels: list[Level]) -> list[Level]:
    """Leave out levels that set the same as an earlier one."""
    found: list[Level] = []
    for level in levels:
        if all(level.settings != other.settings for other in found):
            found.append(level)
    return found


def _word(value: Any) -> str:
    """Return a value as tables show it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _refuse_what_cannot_be_trained(design: Design) -> None:
    """Build the settings of every level alone, then of every cell."""
    from vitreg.verbs.train.checks import check_values

    if design.base.get(OF, PRESET) == PRESET or "data.root" in design.base:
        config_of(design.base, design.steps, f"the base of {design.where}")
    for block in design.blocks:
        own = block.factors[0].levels[0].settings if block.factors and block.factors[0].name == OF_THE_BLOCK else {}
        for factor in block.factors:
            for level in factor.levels[1:]:
                at = f"factor '{factor.name}', level {level.name} in block '{block.name}' of {design.where}"
                config = config_of({**design.base, **own, **level.settings}, design.steps, at)
                try:
                    check_values(config)
                except UserError as error:
                    raise UserError(f"{at}: {error.sentence}") from None
    firsts = {run.cell.key: run for run in reversed(design.runs)}
    for run in firsts.values():
        try:
            check_values(run.config)
        except UserError as error:
            raise UserError(f"{run.cell.name} of {design.where}: {error.sentence}") from None
        drawn = named(run.config.data.root)
        if drawn is not None:
            _refuse_absent_photographs(drawn.parameters, f"{run.cell.name} of {design.where}")
        for objection in run.config.recipe.check(run.config.model):
            raise UserError(f"{run.cell.name} of {design.where}: {objection}")


def _refuse_absent_photographs(given: RetrievalParameters, where: str) -> None:
    from vitreg.data.sets.synthetic.patches import check_photographs

    try:
        check_photographs(given)
    except UserError as error:
        raise UserError(f"{where}: {error.sentence}") from None


def _table(given: Any, what: str, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise UserError(f"{what} of {where} is a table, not {given!r}.")
    return given


def _refuse_unknown(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise unknown("key", key, known, where)
