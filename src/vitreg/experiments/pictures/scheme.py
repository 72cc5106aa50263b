"""Draws the scheme of a model: its tokens in their order, the transformer, and which of the outputs are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitreg.quantities import count
from vitreg.records.reproduction import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROLES = ("patch", "cls", "register", "other")
"""What the numbers in an order of tokens stand for."""
SHOWN = 6  # tokens of a run; more are dots
GAP, SIDE = 0.25, 0.8
INPUT, OUTPUT = 0.0, 4.2  # heights of the rows of tokens
NAMES = {"patch": "patches", "cls": "class token", "register": "registers", "other": "other tokens"}


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """What is drawn.

    Args:
        runs: (role, how many) of the sequence, in its order.
        placed: roles with a position.
        grid, patch: rows and columns, and pixels of a patch.
    """

    subject: str
    runs: tuple[tuple[str, int], ...]
    placed: frozenset[str]
    grid: tuple[int, int]
    patch: tuple[int, int]
    blocks: int
    width: int

    @classmethod
    def of(cls, found: Measured) -> Scheme:
        """Read the numbers of the experiment."""
        n, order = found.numbers, found.series["order"]

        def whole(name: str) -> int:
            return int(n[name] or 0)

        moved = {"patch": n["patches_moved"], "cls": n["cls_moved"], "register": n["registers_moved"]}
        return cls(
            subject=found.subject, placed=frozenset(role for role, many in moved.items() if many),
            runs=tuple((ROLES[int(role)], int(many)) for role, many in zip(order[::2], order[1::2], strict=True)),
            grid=(whole("rows"), whole("cols")), patch=(whole("patch_height"), whole("patch_width")), blocks=whole("blocks"),
            width=whole("width"),
        )  # fmt: skip


def figure(scheme: Scheme) -> Figure:
    """Draw the scheme: the input below, the output above; registers are kept inside only."""
    from vitreg.report.paper import CLS, INK, PATCH, REGISTER, axes_of

    colours = {"patch": PATCH, "cls": CLS, "register": REGISTER, "other": INK}
    total = sum(min(many, SHOWN) + (many > SHOWN) + 0.6 for _, many in scheme.runs)
    made, axes = axes_of(max(5.0, 0.62 * total), 4.1)
    axes.set_axis_off()
    x = 0.0
    for role, many in scheme.runs:
        end = _run(axes, x, role, many, colours[role], placed=role in scheme.placed)
        middle = (x + end - GAP) / 2
        said = (
            f"{many} {NAMES[role]}"
            if many > 1
            else NAMES[role].removesuffix("s")
            if role == "register"
            else NAMES[role]
        )
        axes.text(middle, INPUT - 0.2, said, ha="center", va="top", fontsize=8, color=colours[role])
        fate = "dropped" if role == "register" else "used"
        axes.text(middle, OUTPUT + SIDE + 0.25, fate, ha="center", va="bottom", fontsize=8, color=colours[role])
        x = end + 0.6
    right = x - 0.6 - GAP
    _transformer(axes, right, f"transformer: {count(scheme.blocks, 'block')} of width {scheme.width}", INK)
    (rows, cols), (height, width) = scheme.grid, scheme.patch
    where = "; +: with a position" if scheme.placed else "; positions do not come from a table"
    image = f"image of {rows * height}x{cols * width} pixels, in {rows}x{cols} patches of {height}x{width}{where}"
    axes.text(right / 2, INPUT - 0.85, image, ha="center", va="top", fontsize=8, color=INK)
    axes.text(
        right / 2,
        OUTPUT + SIDE + 1.0,
        scheme.subject,
        ha="center",
        fontsize=9,
        color=INK,
        fontweight="bold",
        parse_math=False,
    )
    axes.set_xlim(-0.5, right + 0.5)
    axes.set_ylim(INPUT - 1.5, OUTPUT + SIDE + 1.5)
    return made


def _run(axes: Axes, x: float, role: str, many: int, colour: str, *, placed: bool) -> float:
    """Draw tokens of one role at the input and at the output; returns where they end."""
    for place in range(min(many, SHOWN) + (many > SHOWN)):
        left = x + place * (SIDE + GAP)
        if many > SHOWN and place == SHOWN - 1:
            for height in (INPUT, OUTPUT):
                axes.text(left + SIDE / 2, height + SIDE / 2, "…", ha="center", va="center", fontsize=12, color=colour)
            continue
        _token(axes, left, INPUT, colour, "+" if placed else "")
        _token(axes, left, OUTPUT, colour, "", gone=role == "register")
        for low, high in ((INPUT + SIDE, 1.5), (3.2, OUTPUT)):
            axes.annotate(
                "", (left + SIDE / 2, high), (left + SIDE / 2, low), arrowprops={"arrowstyle": "->", "color": "0.5", "lw": 0.7}
            )  # fmt: skip
    return x + (min(many, SHOWN) + (many > SHOWN)) * (SIDE + GAP)


def _token(axes: Axes, x: float, y: float, colour: str, mark: str, *, gone: bool = False) -> None:
    from matplotlib.patches import FancyBboxPatch

    box = FancyBboxPatch(
        (x + 0.06, y + 0.06), SIDE - 0.12, SIDE - 0.12, boxstyle="round,pad=0.06", ec=colour, fc="none" if gone else colour,
        ls="--" if gone else "-", lw=1,
    )  # fmt: skip
    axes.add_patch(box)
    if gone:
        axes.plot([x + 0.15, x + SIDE - 0.15], [y + 0.15, y + SIDE - 0.15], color=colour, lw=1)
        axes.plot([x + 0.15, x + SIDE - 0.15], [y + SIDE - 0.15, y + 0.15], color=colour, lw=1)
    axes.text(x + SIDE / 2, y + SIDE / 2, mark, ha="center", va="center", fontsize=9, color="white", fontweight="bold")


def _transformer(axes: Axes, right: float, words: str, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(FancyBboxPatch((0, 1.6), right, 1.5, boxstyle="round,pad=0.1", ec=colour, fc="0.93", lw=1))
    axes.text(right / 2, 2.35, words, ha="center", va="center", fontsize=9, color=colour)
