"""The acts of `vitreg demo` on one page: of each pair the verdicts and the norm maps of the same images, and the way to all else."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitreg.records import Example, ScanResult
from vitreg.report import shell, words
from vitreg.report.attempts import Attempts
from vitreg.report.colours import palette
from vitreg.report.scan import payload
from vitreg.writing.files import output_folder

SIDE = 224  # pixels of a map, about; a whole number for each patch, so that patches are squares


@dataclass(frozen=True, slots=True)
class Shown:
    """A model of an act.

    Args:
        report: its page, relative to that of the acts.
    """

    name: str
    result: ScanResult
    report: str


@dataclass(frozen=True, slots=True)
class Act:
    """A pair of models, or a sentence on why there is none.

    Args:
        name: one word: born, natural or planted.
        note: where the models come from, before anything else is said of them.
        models: those of the pair, from left to right.
        pictures: (name, maps of the image by each model, in order).
        comparison: the page that compares them, relative to that of the acts.
    """

    name: str
    title: str
    note: str
    models: Sequence[Shown] = ()
    pictures: Sequence[tuple[str, Sequence[Example]]] = ()
    comparison: str = ""


def write_acts(acts: Sequence[Act], path: Path) -> Path:
    """Write one self-contained page, and return its path.

    Raises:
        UserError: if the folder cannot be written.
    """
    attempts = Attempts()
    page = shell.render(
        "demo.html.j2",
        title="Artifacts: born, natural, planted",
        acts=[_act(act, attempts) for act in acts],
        undrawn=attempts.failed,
        data=payload.empty_block(),
    )
    return shell.write(output_folder(path.parent) / path.name, page)


def _act(act: Act, attempts: Attempts) -> dict[str, Any]:
    """The page's entry for an act."""
    ranges = [_range(each) for _, examples in act.pictures for each in examples]
    scale = (min((low for low, _ in ranges), default=1.0), max((high for _, high in ranges), default=3.0))
    return {
        "name": act.name,
        "title": act.title,
        "note": act.note,
        "comparison": act.comparison,
        "columns": [_column(model) for model in act.models],
        "scale": scale,
        "pictures": [
            made
            for name, examples in act.pictures
            if (made := attempts(f"maps of {name}", lambda n=name, e=examples: _row(n, e, act.models, scale)))
        ],
    }


def _column(model: Shown) -> dict[str, Any]:
    result = model.result
    return {
        "name": model.name,
        "result": result,
        "report": model.report,
        "kind": words.kind(result.verdict),
        "tone": words.tone(result.verdict),
    }


def _row(name: str, examples: Sequence[Example], models: Sequence[Shown], scale: tuple[float, float]) -> dict[str, Any]:
    """The picture, as large as its maps, and the map of each model."""
    first = examples[0]
    rows, cols = first.norms.shape
    each = max(1, SIDE // max(rows, cols))
    size = (cols * each, rows * each)
    picture = Image.fromarray(np.ascontiguousarray(first.image))
    small = max(picture.size) < max(size)  # tiles of a few pixels keep their edges
    shown = picture.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    maps = [
        {
            "model": model.name,
            "block": example.layer,
            "outliers": int(example.outliers.sum()),
            "patches": rows * cols,
            "map": _uri(_map(example, scale).resize(size, Image.Resampling.NEAREST)),
        }
        for model, example in zip(models, examples, strict=True)
    ]
    return {"name": name, "picture": _uri(shown), "width": size[0], "height": size[1], "maps": maps}


def _multiples(example: Example) -> np.ndarray:
    """Norms as multiples of their median."""
    norms = np.asarray(example.norms, np.float64)
    median = float(np.nanmedian(norms))
    return norms / (median if median > 0 else 1.0)


def _range(example: Example) -> tuple[float, float]:
    """Least and largest multiple, at least 3, so that uniform maps look uniform."""
    found = _multiples(example)
    found = found[np.isfinite(found) & (found > 0)]
    return float(min(found, default=1.0)), max(3.0, float(max(found, default=1.0)))


def _map(example: Example, scale: tuple[float, float]) -> Image.Image:
    """Colour the multiples on a logarithmic scale; patches without a token are dark."""
    low, high = scale
    shares = np.log(np.clip(np.nan_to_num(_multiples(example), nan=low), low, high) / low) / np.log(high / low)
    table = palette("magma")
    return Image.fromarray(table[np.rint(shares * (len(table) - 1)).astype(int)])


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return payload.data_uri("png", buffer.getvalue())
