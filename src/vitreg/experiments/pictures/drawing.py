"""The form of the picture figures: the same photographs for all models, in columns; a row of maps for each model below them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vitreg.experiments.experiment import Drawings
from vitreg.experiments.maps.seen import CLS, Seen, kept_maps, spread
from vitreg.experiments.pictures.judging import twin_of
from vitreg.records.reproduction import ExperimentRecord, Measured
from vitreg.report.paper import NotMeasuredError

if TYPE_CHECKING:
    from vitreg.report.sheets.sheet import Scale

TOP = 0.99  # quantile at which a scale of attention ends, as a few sinks would leave all else black
FEW = 5  # photographs of a figure
Maps = Callable[[Seen], "np.ndarray | None"]
"""Maps of all photographs, [n, rows, cols]; None for a model that has none."""


def rows_of_models(
    record: ExperimentRecord,
    jobs: Path,
    maps: Maps,
    scale: Callable[[list[np.ndarray]], Scale | None],
    caption: str,
    colours: str = "viridis",
    most: int = FEW,
) -> Drawings:
    """Return one figure: photographs, and below them the maps of each model that has some.

    Args:
        maps: of a model. scale: the colour scale of all maps together; None gives each map its own.
        caption: what is shown, and how it is scaled. most: photographs.
    """
    return {
        record.id: (
            "The same photographs for all models",
            lambda: _drawn(record, jobs, maps, scale, caption, colours, most),
        )
    }


def _drawn(
    record: ExperimentRecord, jobs: Path, maps: Maps, scale: Callable[[list[np.ndarray]], Scale | None], caption: str, colours: str,
    most: int,
) -> Any:  # fmt: skip
    from vitreg.report.sheets.sheet import Column, Sheet, draw

    rows: list[tuple[str, Sequence[np.ndarray]]] = []
    last: Seen | None = None
    drawn: list[np.ndarray] = []
    for found in subjects(record):
        seen = kept_maps(found, jobs)
        values = maps(seen)
        if values is None:
            continue
        if last is None or not same_pictures(last, seen):
            rows.append(("photographs", [seen.pictures[place] for place in spread(len(seen.shown), most)]))
        shown = values[[seen.shown[place] for place in spread(len(seen.shown), most)]]
        rows.append((found.subject, list(shown)))
        drawn.append(shown)
        last = seen
    if last is None:
        raise NotMeasuredError("no model has such maps")
    names = [short(last.names[last.shown[place]]) for place in spread(len(last.shown), most)]
    return draw(
        Sheet(
            title=f"{record.label}: {record.title}",
            rows=[name for name, _ in rows],
            columns=[Column(title=name, cells=[cells[place] for _, cells in rows]) for place, name in enumerate(names)],
            scale=scale(drawn),
            colours="magma" if colours == "magma" else "viridis",
            caption=caption,
        )
    )


def subjects(record: ExperimentRecord) -> list[Measured]:
    """Return the subjects that have maps."""
    return [each for each in record.measured if not each.failed and "maps" in each.jobs]


def pairs(record: ExperimentRecord) -> ExperimentRecord:
    """Return the record with the models that have registers, each after its twin without; as it is where there is no pair."""
    measured = subjects(record)
    both = [(twin_of(each, measured), each) for each in measured if each.numbers["registers"]]
    kept = [each for pair in both if pair[0] is not None for each in pair if each is not None]
    return record.model_copy(update={"measured": kept}) if kept else record


def same_pictures(one: Seen, other: Seen) -> bool:
    """Whether two models saw the same pictures, up to rounding."""
    return len(one.pictures) == len(other.pictures) and all(
        a.shape == b.shape and bool((np.abs(a.astype(np.int16) - b.astype(np.int16)) <= 2).all())
        for a, b in zip(one.pictures, other.pictures, strict=True)
    )


def short(name: str) -> str:
    """Return the name of a photograph without its folder and suffix."""
    return Path(name).stem or name


def of_class_token(seen: Seen) -> np.ndarray | None:
    """Return the attention of the class token as multiples of uniform attention, so that grids of any size share a scale."""
    return seen.attention[CLS] * seen.tokens if CLS in seen.attention else None


def attention_scale(maps: list[np.ndarray]) -> Scale:
    """Return one scale for attention maps, from 0."""
    from vitreg.report.sheets.sheet import shared_scale

    return shared_scale(maps, "attention, multiples of uniform (1/N)", low=0.0, top=TOP)


def fixed_scale(
    maps: list[np.ndarray], end: float, label: str, colours: Literal["viridis", "magma"] = "viridis"
) -> Scale:
    """Return a scale from -end to end, which says whether values lie beyond."""
    from vitreg.report.sheets.sheet import Scale

    below, above = (any(bool((sign * each > end).any()) for each in maps) for sign in (-1, 1))
    clipped = "both" if below and above else "min" if below else "max" if above else "neither"
    return Scale(low=-end, high=end, label=label, colours=colours, clipped=clipped)


ATTENTION = (
    "Attention of the class token to the patches in the last block, mean over heads. One colour scale for all; values "
    "above it have the last colour."
)
