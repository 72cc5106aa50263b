"""`lab run`: the runs of a design on the one runner, how long they take beforehand, and what they say at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.lab.hours import Plan, Timing, plan_of
from vitreg.experiments.lab.options import RunOptions
from vitreg.experiments.lab.reading import KEPT, as_kept, data_named, design_named
from vitreg.experiments.lab.report import report
from vitreg.experiments.lab.runs import train_all
from vitreg.experiments.lab.said import line
from vitreg.passes import ahead
from vitreg.passes.jobs import ROWS, Jobs
from vitreg.quantities import number
from vitreg.records.lab import LabReport
from vitreg.writing.files import output_folder, write_text

if TYPE_CHECKING:
    from vitreg.experiments.lab.design import Design


def planned(name: str, out: Path, photos: str | None = None) -> tuple[Design, Plan]:
    """Return a design, and what of it is left to do in a folder. Nothing is written."""
    design = design_named(name, photos)
    if not (out / ROWS).is_dir():
        return design, plan_of(design, lambda job: None, Timing())
    with Jobs(out) as jobs:
        return design, plan_of(design, jobs.row, Timing())


def lines(design: Design, plan: Plan, processes: int) -> Iterator[str]:
    """Yield what a design would run, a line a cell in the order of its runs, then how long that takes."""
    for cell, seeds in design.cells.values():
        minutes = f", {number(plan.minutes[cell.name])} minutes each" if cell.name in plan.minutes else ", all ended"
        yield f"{cell.name}: seed{'s' * (len(seeds) > 1)} {_ranges(seeds)}{minutes}"
    yield plan.sentence(processes) + _bounded(design)


def _bounded(design: Design) -> str:
    return "" if design.hours is None else f" No run begins once the runs took {number(design.hours)} hours of a core."


def _ranges(seeds: tuple[int, ...]) -> str:
    """Return seeds as "0 to 7", or one by one."""
    if len(seeds) > 1 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return " ".join(map(str, seeds))


def run(name: str, options: RunOptions, out: Path, told: Callable[[str], object]) -> LabReport:
    """Train what is left of a design, and write what its runs say; see `vitreg.lab`."""
    design = design_named(name, options.photos)
    data, left_out = data_named(name, options.photos)
    folder = begun(design, data, out)
    with Jobs(folder) as jobs:
        plan = plan_of(design, jobs.row, Timing())
    for each in (*left_out, plan.sentence(options.processes) + _bounded(design)):
        told(each)
    if plan.left:
        places = places_of(design, folder)
        train_all(
            design.runs, folder, options.processes, lambda: told(_stand(places, folder / ROWS)), hours=design.hours
        )
    return report(folder)


def begun(design: Design, data: Mapping[str, object], out: Path) -> Path:
    """Keep a design in the folder of its runs, and return that folder.

    Args:
        data: what the design was built from.
    """
    folder = output_folder(out)
    ahead.refuse_other_lab(folder)
    outputs = ahead.design_outputs(folder)
    outputs.check()
    with Jobs(folder) as jobs, jobs.alone(), outputs.adding() as place:
        write_text(place / KEPT, as_kept(data, design.name))
    return folder


def places_of(design: Design, folder: Path) -> dict[str, Path]:
    """Return the folder of each run, by its name."""
    with Jobs(folder) as jobs:
        return {each.name: jobs.files(each.job) for each in design.runs}


def _stand(places: Mapping[str, Path], rows: Path) -> str:
    """Return how many runs have ended, and how those stand that have not."""
    ended = {path.stem for path in rows.glob("*.json")}
    running = {name: place for name, place in places.items() if place.name not in ended}
    words = line(running)
    return f"{sum(place.name in ended for place in places.values())} of {len(places)} runs ended{' | ' if words else ''}{words}"
