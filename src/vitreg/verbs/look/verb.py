"""`look`: single photos by any models, as a sentence and a picture, from one forward each."""

from __future__ import annotations

import base64
import html
import itertools
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vitreg import __version__
from vitreg.backbones import Backbone
from vitreg.data import ImageSource
from vitreg.data.sources.decode import Unreadable
from vitreg.errors import UserError
from vitreg.passes import ahead
from vitreg.passes.given import Images, source_of
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.passes.view import View
from vitreg.records import Heatmap, Skipped
from vitreg.records.look import BlockLook, LookResult, ModelLook, PhotoLook, Seconds
from vitreg.report.look.picture import PANEL, Row, as_png, draw_look
from vitreg.verbs.look.models import Looker, Model, lookers
from vitreg.verbs.look.options import LookOptions
from vitreg.verbs.look.places import place_of
from vitreg.verbs.look.words import CAUTION, sentence_of
from vitreg.verbs.scan.one import OneScan, scan_one
from vitreg.writing.files import output_folder, write_new

MIN_SIDE = 16  # pixels; the same for all models, so that all show the same photos
LONGEST_NAME = 200  # bytes; file systems take 255


@dataclass(frozen=True, slots=True)
class Look:
    """What `vitreg.look` returns: the record, and one PNG for each photo, which a notebook shows.

    Args:
        pictures: the bytes of PNG files.
    """

    record: LookResult
    pictures: tuple[bytes, ...]

    def __str__(self) -> str:
        return "\n".join(each.sentence for photo in self.record.photos for each in photo.models)

    def _repr_html_(self) -> str:
        shown = zip(self.record.photos, self.pictures, strict=True)
        return "".join(
            f"<p>{html.escape(' '.join(f'{each.name}: {each.sentence}' for each in photo.models))}</p>"
            f'<img alt="{html.escape(photo.photo)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            for photo, png in shown
        )


@takes(LookOptions, ModelOptions)
def look(
    images: Images | Sequence[Any],
    models: Model | Sequence[Model] = (),
    *,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    options: LookOptions | None = None,
    looked: Callable[[PhotoLook], object] = lambda photo: None,
    **keywords: Any,
) -> Look:
    """Look at single photos through one or several models.

    Args:
        images: photos: paths, globs, folders or pictures; for many, `vitreg.scan` is the verb.
        models: specs, modules or loaded backbones; without any, one known for artifacts whose weights lie in a local cache,
            else a model with planted artifacts and its clean twin.
        out: a folder for the pictures, or a name that ends with .png; nothing is written without it, and nothing is replaced.
        weights: a checkpoint for the one model named.
        options: see `LookOptions`; keywords override them.
        looked: called with each photo as it is done.
        keywords: fields of `LookOptions`, such as size and repair, and of `ModelOptions`, such as device and precision.
    Raises:
        UserError: for a model that cannot be loaded, photos none of which can be read, or a place that cannot be written.
    """
    options, loading = split(LookOptions, options, keywords, "look")
    named = [models] if isinstance(models, Model) else list(models)
    ahead.refuse_weights(weights, len(named))
    skipped: list[Skipped] = []
    sources = _sources(images)
    readable = _readable(sources, options.limit, skipped)
    first = next(readable, None)  # before models are loaded
    if first is None:
        raise UserError(
            f"none of the {len(skipped)} photos could be read; the first, {skipped[0].name}: {skipped[0].reason}."
            if len(skipped) > 1
            else f"{skipped[0].name} could not be read: {skipped[0].reason}."
        )
    started = time.perf_counter()
    subjects, chosen = lookers(named, weights, options, loading)
    spent = {"load": time.perf_counter() - started, "forward": 0.0, "drawing": 0.0}
    records, pictures = [], []
    for name, picture in itertools.chain([first], readable):
        record, png = _look_at(name, picture, subjects, out, spent)
        records.append(record)
        pictures.append(png)
        looked(record)
    lengths = [source.length for source in sources]
    record = LookResult(
        photos=records, skipped=skipped, there=None if None in lengths else sum(each or 0 for each in lengths),
        chosen=chosen, caution=CAUTION, seconds=Seconds(**{k: round(v, 3) for k, v in spent.items()}), vitreg=__version__,
    )  # fmt: skip
    return Look(record, tuple(pictures))


def _look_at(
    name: str, picture: Image.Image, subjects: Sequence[Looker], out: str | Path | None, spent: dict[str, float]
) -> tuple[PhotoLook, bytes]:
    """Look at one photo through all models, and write its picture."""
    start = time.perf_counter()
    scans, found, rows = [], [], []
    for looker in subjects:
        pixels = looker.view.fit(looker.view.pictures(picture)[None])
        scans.append(_scanned(looker.backbone, pixels))
        # Where a repair leaves no group, its norms are shown after the block where the model's own stand apart.
        base = scans[-1] if looker.base is None or scans[-1].verdict.peak_layer is not None else scans[looker.base]
        one, row = _of_model(looker, scans[-1], base.peak, pixels, picture)
        found.append(one)
        rows.append(row)
    forward = time.perf_counter()
    page = as_png(draw_look(name, rows, CAUTION), f"{name} by {', '.join(each.name for each in subjects)}")
    path = None if out is None else write_new(_place(Path(out).expanduser(), name), page)
    spent["forward"] += forward - start
    spent["drawing"] += time.perf_counter() - forward
    return PhotoLook(photo=name, picture=None if path is None else str(path), models=found), page


def _scanned(backbone: Backbone, pixels: Any) -> OneScan:
    try:
        return scan_one(backbone, pixels)
    except FloatingPointError as error:
        full = backbone.dtype == torch.float32
        remedy = "its weights hold NaN or infinite values" if full else "try --precision fp32"
        raise UserError(f"{error} in {backbone.spec} at {backbone.dtype}; {remedy}.") from error


def _of_model(looker: Looker, scan: OneScan, block: int, pixels: Any, picture: Image.Image) -> tuple[ModelLook, Row]:
    """Return what one model shows, as a record and as a row of the picture; norms after `block`."""
    example = scan.draw("", looker.view.shown(pixels)[0], block)
    verdict, layer = scan.verdict, scan.layers[block]
    patches = [(int(row), int(col)) for row, col in np.argwhere(example.outliers)]
    place = place_of(example.outliers)
    there = int((~np.isnan(example.norms)).sum())
    said = sentence_of(verdict, scan.layers, len(patches), there, place)
    if looker.backbone.untrained:
        said = f"{looker.backbone.untrained} {said}"
    missing = _missing(scan)
    rows, cols = example.norms.shape
    values = [[float(f"{value:.6g}") for value in row] for row in np.nan_to_num(example.norms).tolist()]
    record = ModelLook(
        name=looker.name, model=scan.model, found=verdict.peak_layer is not None, side=layer.side,
        share=layer.outlier_fraction, ratio=layer.ratio, first=verdict.first_layer, peak=block, threshold=layer.threshold,
        patches=patches, place=place, norms=Heatmap(rows=rows, cols=cols, values=values),
        blocks=[
            BlockLook(index=each.index, median=each.median, max=each.max, ratio=each.ratio, share=each.outlier_fraction)
            for each in scan.layers
        ],
        attention_block=example.attention_layer, missing=missing, sentence=said,
    )  # fmt: skip
    photo = _photo(looker.view, picture, example.image)
    return record, Row(
        name=looker.name, sentence=said[0].upper() + said[1:], example=example, photo=photo, median=layer.median,
        missing=missing,
    )  # fmt: skip


def _missing(scan: OneScan) -> dict[str, str]:
    """Return which maps there are not, and why."""
    if scan.unread:
        return {"cls": scan.unread, "registers": scan.unread}
    tokens = scan.model.tokens
    without = {"cls": "no class token", "registers": "no registers"}
    return {role: f"this model has {why}" for role, why in without.items() if not tokens[role]}


def _photo(view: View, picture: Image.Image, shown: np.ndarray) -> np.ndarray:
    """Return the area that the patches cover, in the resolution of the page where the photo has it."""
    preprocess, (height, width) = view.pictures, view.size
    times = math.ceil(PANEL / max(height, width))
    if times < 2 or preprocess.size != view.size or shown.shape[:2] != view.size:
        return shown
    large = preprocess.with_size((height * times, width * times))
    return np.asarray(large.unnormalise(large(picture)))


def _sources(images: Any) -> list[ImageSource]:
    """Sort what was given: pictures together, each path alone."""
    several = list(images) if isinstance(images, list | tuple) else [images]
    if not several:
        raise UserError("no photos given; name a file, a folder or a picture.")
    if not any(isinstance(each, str | Path) for each in several):
        return [source_of(images, "look")]
    return [source_of(each, "look") for each in several]


def _readable(sources: Sequence[ImageSource], limit: int, skipped: list[Skipped]) -> Iterator[tuple[str, Image.Image]]:
    """Open the first photos one by one; those that cannot be read are listed in `skipped`."""
    for item in itertools.islice(itertools.chain.from_iterable(sources), limit):
        try:
            picture = item.open(MIN_SIDE)
        except Unreadable as error:
            skipped.append(Skipped(name=item.name, reason=error.reason))
            continue
        yield re.split(r"[/\\]", item.name)[-1] or item.name, picture


def _place(out: Path, name: str) -> Path:
    """Return the file of a photo's picture: `out` itself if it ends with .png, else one in this folder."""
    if out.suffix.lower() == ".png" and not out.is_dir():
        output_folder(out.parent)
        return out
    stem = re.sub(r"\.\w{1,5}$", "", name).encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore")
    return output_folder(out) / f"{stem.strip(' .') or 'photo'}-look.png"
