"""Lays maps out on contact sheets: rows are images, columns are tokens, heads, layers and models.

A sheet shows everything needed to repeat it: the block, the resolution, the normalisation and the colour scale.
`report.sheets` draws it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from vitreg.analysis.maps import mass_mask
from vitreg.quantities import percent
from vitreg.report.sheets.sheet import Column, Scale, Sheet, Upsample, shared_scale
from vitreg.verbs.maps.values import ModelMaps

ROWS = 8  # images on a sheet
COLUMNS = 18  # pictures in a row, unless one model needs more
CLIP = 0.995  # quantile at which an attention scale ends, as a few sinks would leave all else black

PicturesByTitle = dict[str, np.ndarray]  # title of a column -> one picture per image
Paged = tuple[str, Sheet]  # file name, sheet


def compose(
    images: Sequence[str],
    maps: Sequence[ModelMaps],
    what: Sequence[str],
    *,
    shared: bool,
    upsample: Upsample,
    mass: float | None,
) -> list[Paged]:
    """Lay out all sheets of a result.

    Args:
        images: their names.
        maps: of every model and layer.
        what: kinds of maps, see `verbs.maps`.
        shared: one colour scale per kind of map, else one per map.
        upsample: how patches are enlarged.
        mass: show only the strongest patches of an attention map, which together hold this share.
    Returns:
        (file name, sheet), in the order of `what`.
    """
    return [page for kind in what for page in _KINDS[kind](_Layout(images, maps, shared, upsample, mass))]


class _Layout:
    """The settings of one call, and the layout common to all kinds of sheets."""

    def __init__(
        self, images: Sequence[str], maps: Sequence[ModelMaps], shared: bool, upsample: Upsample, mass: float | None
    ) -> None:
        self.upsample: Upsample = upsample
        self.images, self.maps, self.shared, self.mass = images, maps, shared, mass

    def attention(
        self, title: str, file: str, found: list[tuple[ModelMaps, PicturesByTitle]], caption: str
    ) -> Iterator[Paged]:
        """Attention as multiples of uniform attention, so that grids of any size share a scale."""
        scaled = [(m, {t: self._cut(p) * m.tokens for t, p in pictures.items()}) for m, pictures in found]
        scale = self._scale(scaled, "attention, multiples of uniform (1/N)", low=0.0, top=CLIP)
        if self.mass:
            caption += f" Only the strongest patches that hold {percent(self.mass)} of a map are shown."
        yield from self.pages(title, file, scaled, scale, "viridis", caption)

    def pages(
        self,
        title: str,
        file: str,
        found: list[tuple[ModelMaps, PicturesByTitle]],
        scale: Scale | None,
        colours: str,
        caption: str,
    ) -> Iterator[Paged]:
        """Cut one kind of map into sheets of up to ROWS images and COLUMNS pictures; all share the scale."""
        if not found:
            return
        same = all(_same_inputs(found[0][0], m) for m, _ in found)
        before = [None, *(m for m, _ in found)]
        groups = [
            self._columns(
                m,
                pictures,
                heading=len(found) > 1,
                with_input=not same and (last is None or not _same_inputs(last, m)),
            )
            for last, (m, pictures) in zip(before, found, strict=False)
        ]
        parts = [(rows, part) for part in _packed(groups) for rows in _slices(len(self.images))]
        for number, (rows, part) in enumerate(parts, start=1):
            columns = ([Column(title="input", cells=list(found[0][0].inputs))] if same else []) + part
            sheet = Sheet(
                title=title + (f" ({number} of {len(parts)})" if len(parts) > 1 else ""),
                rows=[_short(name) for name in self.images[rows]],
                subtitle=f"{found[0][0].model}, {_block(found[0][0])}" if len(found) == 1 else "",
                columns=[Column(title=c.title, group=c.group, cells=c.cells[rows]) for c in columns],
                scale=scale,
                colours="magma" if colours == "magma" else "viridis",
                caption=self._caption(caption, scale, [m for m, _ in found]),
                upsample=self.upsample,
            )
            yield (f"{file}-{number}.png" if len(parts) > 1 else f"{file}.png"), sheet

    def _scale(
        self, found: list[tuple[ModelMaps, PicturesByTitle]], label: str, *, low: float | None = None, top: float = 1.0,
        colours: str = "viridis",
    ) -> Scale | None:  # fmt: skip
        if not self.shared:
            return None
        pictures = [p for _, each in found for p in each.values()]
        return shared_scale(pictures, label, low=low, top=top, colours="magma" if colours == "magma" else "viridis")

    def _cut(self, pictures: np.ndarray) -> np.ndarray:
        if self.mass is None:
            return pictures
        return np.where(mass_mask(torch.from_numpy(pictures), self.mass).numpy(), pictures, 0.0)

    def _columns(self, made: ModelMaps, pictures: PicturesByTitle, *, heading: bool, with_input: bool) -> list[Column]:
        group = f"{made.model}\n{_block(made)}" if heading else ""
        columns = [Column(title=title, group=group, cells=list(cells)) for title, cells in pictures.items()]
        if with_input:
            columns.insert(0, Column(title="input", group=group, cells=list(made.inputs)))
        return columns

    def _caption(self, caption: str, scale: Scale | None, made: Sequence[ModelMaps]) -> str:
        sizes = dict.fromkeys(f"{m.image_size[0]}x{m.image_size[1]} px, {m.grid[0]}x{m.grid[1]} patches" for m in made)
        lines = [caption, f"Input {' / '.join(sizes)} (height x width). Blocks count from 0."]
        if scale is not None:
            many = len({(m.model, m.layer) for m in made}) > 1
            lines.append(f"One colour scale for all {'models, blocks and images' if many else 'images'}.")
        elif "colour" not in caption:
            lines.append("Every map has its own colour scale, from its minimum to its maximum: do not compare values.")
        if scale is not None and scale.clipped in ("max", "both"):
            lines.append(f"Values above {scale.high:.3g} have the colour of {scale.high:.3g}.")
        return " ".join(lines)


def _attention(layout: _Layout) -> Iterator[Paged]:
    found = [
        (m, {t: p for t, p in m.attention.items() if t.startswith("CLS")})
        for m in layout.maps
        if any(t.startswith("CLS") for t in m.attention)
    ]
    yield from layout.attention("Attention of CLS", "attention", found, "Mean over heads.")


def _registers(layout: _Layout) -> Iterator[Paged]:
    found = [(m, m.attention) for m in layout.maps if any(t.startswith("register") for t in m.attention)]
    yield from layout.attention("Attention of CLS and registers", "registers", found, "Mean over heads.")


def _heads(layout: _Layout) -> Iterator[Paged]:
    several = len({(m.model, m.layer) for m in layout.maps}) > 1
    models = list(dict.fromkeys(m.model for m in layout.maps))
    for made in layout.maps:
        for query, cells in made.heads.items():
            place = f"{models.index(made.model) + 1}-{_slug(made.model)}-block-{made.layer:02}-" if several else ""
            pictures = {f"head {h}": cells[:, h] for h in range(cells.shape[1])}
            title = f"Attention of {query}, every head"
            yield from layout.attention(title, f"heads-{place}{_slug(query)}", [(made, pictures)], "Heads apart.")


def _pca(layout: _Layout) -> Iterator[Paged]:
    found = [(m, {"first component": m.pca}) for m in layout.maps if m.pca is not None]
    if not found:
        return
    values = np.concatenate([p.ravel() for _, each in found for p in each.values()])
    under, over = bool((values < -3).any()), bool((values > 3).any())
    clipped = "both" if under and over else "min" if under else "max" if over else "neither"
    scale = Scale(low=-3, high=3, label="first component, standard deviations", clipped=clipped)
    caption = (
        f"Block output before the final norm; {found[0][0].components}, whitened. The sign is arbitrary: the border "
        "of the images was made negative."
    )
    # The range is fixed, as in the paper, whatever scale was requested.
    yield from layout.pages("First principal component of the patches", "pca", found, scale, "viridis", caption)


def _rgb(layout: _Layout) -> Iterator[Paged]:
    found = [(m, {"components 1-3": m.rgb}) for m in layout.maps if m.rgb is not None]
    if not found:
        return
    caption = (
        f"Block output before the final norm; {found[0][0].components}, tokens far from the rest left out of the fit. "
        "Each component divided by its standard deviation: -3 is colour 0, +3 is colour 1. Colours of two models do "
        "not correspond."
    )
    yield from layout.pages("Principal components 1, 2, 3 as red, green, blue", "rgb", found, None, "viridis", caption)


def _norm(layout: _Layout) -> Iterator[Paged]:
    found = [(m, {"norm": m.norm}) for m in layout.maps if m.norm is not None]
    scale = layout._scale(found, "L2 norm of the token", colours="magma")
    caption = "Block output before the final norm."
    yield from layout.pages("Norm of the patch tokens", "norm", found, scale, "magma", caption)


_KINDS: dict[str, Callable[[_Layout], Iterator[Paged]]] = {
    "attention": _attention,
    "heads": _heads,
    "registers": _registers,
    "pca": _pca,
    "rgb": _rgb,
    "norm": _norm,
}


def _block(made: ModelMaps) -> str:
    return f"block {made.layer}" + (" (last)" if made.layer == made.depth - 1 else f" of 0-{made.depth - 1}")


def _same_inputs(one: ModelMaps, other: ModelMaps) -> bool:
    """Whether two models saw the same crops, up to rounding; then one input column is enough."""
    if one.inputs.shape != other.inputs.shape:
        return False
    return bool((np.abs(one.inputs.astype(np.int16) - other.inputs.astype(np.int16)) <= 2).all())


def _packed(groups: list[list[Column]]) -> Iterator[list[Column]]:
    """Fill sheets with whole groups, up to COLUMNS; a wider group stands alone."""
    page: list[Column] = []
    for group in groups:
        if page and len(page) + len(group) > COLUMNS:
            yield page
            page = []
        page = page + group
    yield page


def _slices(images: int) -> list[slice]:
    return [slice(start, min(start + ROWS, images)) for start in range(0, images, ROWS)]


def _short(name: str) -> str:
    return re.split(r"[/\\]", name)[-1] or name


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.").lower() or "model"
