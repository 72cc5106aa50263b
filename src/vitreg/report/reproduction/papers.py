"""Tables 1, 2a, 2b and 3 in the paper's form: its rows and columns, and beside them what was measured here."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from vitreg.quantities import number
from vitreg.records.reproduction import ExperimentRecord, Measured
from vitreg.report.reproduction.about import CITATION, data_in_words, named
from vitreg.report.reproduction.tables import escaped

NONE = "—"
TOKENS = {
    "cls": ("[CLS]", "class_token"),
    "normal": ("normal", "normal_patch"),
    "outlier": ("outlier", "outlier_patch"),
}
"""Of Table 1: the paper's name of each kind of token, and ours of its accuracy."""
UNITS = {"ImageNet": "top-1, %", "ADE20k": "mIoU, %", "NYUd": "RMSE, m"}
OURS = {
    "table2a": (
        ("linear", "top-1, %", "classes"),
        ("segmentation", "mIoU, %", "masks"),
        ("depth", "RMSE, m", "depths"),
    ),
    "table2b": (("zeroshot", "top-1, %", "classes"),),
    "table3": (("corloc", "CorLoc, %", "boxes"),),
}
"""Of each table: our numbers, their units, and the option that names their data."""
RECIPES = {"deit3": "DeiT-III", "clip": "OpenCLIP", "dinov2": "DINOv2"}


@dataclass(frozen=True)
class Grid:
    """A table of text; the first columns name a row. `left` counts them."""

    left: int
    head: list[str]
    rows: list[list[str]]


def grid_of(each: ExperimentRecord) -> Grid | None:
    """Return the table of an experiment in the paper's form; None for what is no table of the paper."""
    if each.id == "table1":
        return _tokens(each)
    return _pairs(each) if each.id in OURS else None


def as_csv(grid: Grid) -> str:
    """Return the table as CSV; what was not measured is an em dash."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([grid.head, *grid.rows])
    return text.getvalue()


def as_latex(each: ExperimentRecord, grid: Grid) -> str:
    """Return the table as a tabular for booktabs; what was not measured is an em dash."""
    lines = [" & ".join(escaped(cell) for cell in row) + r" \\" for row in grid.rows]
    return "\n".join([
        f"% {each.label}: {each.title}. The paper's numbers ({CITATION}), and those measured here.",
        rf"\begin{{tabular}}{{{'l' * grid.left}{'r' * (len(grid.head) - grid.left)}}}", r"\toprule",
        " & ".join(escaped(cell) for cell in grid.head) + r" \\", r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", "",
    ])  # fmt: skip


def _tokens(each: ExperimentRecord) -> Grid:
    """Table 1: kinds of tokens in rows, data sets in columns, ours last."""
    here = f"here: {data_in_words(each.data.get('classes', '')) or 'classes'}, top-1, %"
    sets = {name: held for name, held in each.published.items() if isinstance(held, dict)}
    rows = [
        ["DINOv2-g, the paper", token, *(_papers(held.get(key)) for held in sets.values()), NONE]
        for key, (token, _) in TOKENS.items()
    ]
    rows += [
        [named(found), token, *[NONE] * len(sets), _cell(found.numbers.get(ours))]
        for found in each.measured
        for token, ours in TOKENS.values()
        if any(found.numbers.get(name) is not None for _, name in TOKENS.values())
    ]
    return Grid(2, ["model", "token", *sets, here], rows)


def _pairs(each: ExperimentRecord) -> Grid:
    """Tables 2 and 3: each model without and with registers, the paper's data sets, then ours: means over seeds."""
    ours = OURS[each.id]
    sets = list(dict.fromkeys(name for held in each.published.values() if isinstance(held, dict) for name in held))
    units = {name: "CorLoc, %" if each.id == "table3" else UNITS.get(name, "") for name in sets}
    rows = []
    for name, held in each.published.items():
        for place, (end, registers) in enumerate((("", 0), ("+reg", 4))):
            own = [found for found in each.measured if _is_of(found, name, registers)]
            papers = [_papers(held[data][place] if data in held else None) for data in sets]
            rows.append(
                [f"{name}{end}", *papers, *(_cell(_mean(own, task)) for task, _, _ in ours), str(len(own) or NONE)]
            )
    rows += [
        [named(found), *[NONE] * len(sets), *(_cell(found.numbers.get(task)) for task, _, _ in ours), NONE]
        for found in each.measured
        if found.trained is None and any(found.numbers.get(task) is not None for task, _, _ in ours)
    ]
    here = [f"here: {data_in_words(each.data.get(option, '')) or option}, {unit}" for _, unit, option in ours]
    return Grid(1, ["model", *(f"{name}, {units[name]}" for name in sets), *here, "trained here, seeds"], rows)


def _is_of(found: Measured, name: str, registers: int) -> bool:
    held = found.trained
    plain = held is not None and not held.size and not held.decorrelation and not held.slots
    return held is not None and plain and (RECIPES.get(held.recipe), held.registers) == (name, registers)


def _mean(found: Sequence[Measured], task: str) -> float | None:
    values = [value for each in found if (value := each.numbers.get(task)) is not None]
    return sum(values) / len(values) if values else None


def _cell(value: object) -> str:
    return NONE if value is None else number(value) if isinstance(value, float) else str(value)


def _papers(value: object) -> str:
    """Write a number with the digits that the paper gives."""
    return NONE if value is None else str(value)
