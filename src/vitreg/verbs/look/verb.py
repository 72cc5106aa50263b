"""`look`: single photos by any models, as a sentence and a picture, from one forward each."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vitreg import __version__
from vitreg.errors import UserError
from vitreg.notebook import Row, Tabled, image
from vitreg.passes import ahead
from vitreg.passes.given import Images
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.records.look import LookResult, PhotoLook, Seconds
from vitreg.report.look.picture import as_png, draw_look
from vitreg.verbs.look.models import Looker, Model, lookers
from vitreg.verbs.look.one import see
from vitreg.verbs.look.options import LookOptions
from vitreg.verbs.look.photos import Photos
from vitreg.verbs.look.words import CAUTION
from vitreg.writing.files import output_folder, printable, write_new

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_NAME = 200  # bytes; file systems take 255


@dataclass(frozen=True, slots=True)
class Look(Tabled):
    """What `vitreg.look` returns: the record, and one PNG for each photo, which a notebook shows.

    Args:
        pictures: the bytes of PNG files.
    """

    record: LookResult
    pictures: tuple[bytes, ...] = field(repr=False)

    def __str__(self) -> str:
        said = [f"{photo.photo}, {each.name}: {each.sentence}" for photo in self.record.photos for each in photo.models]
        return "\n".join([*said, *_around(self.record)])

    def _repr_html_(self) -> str:
        shown = [
            f"<h4>{_said(photo.photo)}</h4>"
            + "".join(f"<p>{_said(f'{each.name}: {each.sentence}')}</p>" for each in photo.models)
            + image(png, photo.photo)
            for photo, png in zip(self.record.photos, self.pictures, strict=True)
        ]
        return "".join([*shown, *(f"<p>{_said(each)}</p>" for each in _around(self.record))])

    def _rows(self) -> list[Row]:
        return self.record._rows()

    def plot(self, photo: int = 0) -> Figure:
        """Return the picture of one photo as a figure; it belongs to no window and is not of pyplot.

        Raises:
            UserError: for a photo that there is not.
        """
        from vitreg.report.shown.figures import figure_of_picture

        if not -len(self.pictures) <= photo < len(self.pictures):
            raise UserError(f"there is no photo {photo}; there are {len(self.pictures)}, counted from 0.")
        return figure_of_picture(self.pictures[photo])


def _around(record: LookResult) -> list[str]:
    """Say which photos could not be read, how the models were chosen, and what one photo cannot show."""
    return [*(each.sentence for each in record.skipped), *([record.chosen] if record.chosen else []), record.caution]


def _said(text: str) -> str:
    return html.escape(printable(text))


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
    if out is not None:
        ahead.refuse_other_format(Path(out).expanduser())
    ahead.refuse_weights(weights, len(named))
    photos = Photos(images, options.limit, "look")
    photos.refuse_none()  # before models are loaded
    started = time.perf_counter()
    subjects, chosen = lookers(named, weights, options, loading)
    spent = {"load": time.perf_counter() - started, "forward": 0.0, "drawing": 0.0}
    records, pictures = [], []
    for name, picture in photos:
        record, png = _look_at(name, picture, subjects, out, spent)
        records.append(record)
        pictures.append(png)
        looked(record)
    record = LookResult(
        photos=records, skipped=photos.skipped, there=photos.there,
        chosen=chosen, caution=CAUTION, seconds=Seconds(**{k: round(v, 3) for k, v in spent.items()}), vitreg=__version__,
    )  # fmt: skip
    return Look(record, tuple(pictures))


def _look_at(
    name: str, picture: Image.Image, subjects: Sequence[Looker], out: str | Path | None, spent: dict[str, float]
) -> tuple[PhotoLook, bytes]:
    """Look at one photo through all models, and write its picture."""
    start = time.perf_counter()
    seen = list(see(picture, subjects))
    forward = time.perf_counter()
    drawn = draw_look(name, [each.row() for each in seen], CAUTION)
    page = as_png(drawn, f"{name} by {', '.join(each.name for each in subjects)}")
    path = None if out is None else write_new(_place(Path(out).expanduser(), name), page)
    spent["forward"] += forward - start
    spent["drawing"] += time.perf_counter() - forward
    found = [each.record for each in seen]
    return PhotoLook(photo=name, picture=None if path is None else str(path), models=found), page


def _place(out: Path, name: str) -> Path:
    """Return the file of a photo's picture: `out` itself if it ends with .png, else one in this folder."""
    if out.suffix.lower() == ".png" and not out.is_dir():
        output_folder(out.parent)
        return out
    last = re.sub(r'[<>:"|?*\x00-\x1f]', "-", re.split(r"[/\\]", name)[-1])  # Windows refuses these
    stem = (
        re.sub(r"\.\w{1,5}( \(\d+\))?$", "", last).encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore")
    )
    return output_folder(out) / f"{stem.strip(' .') or 'photo'}-look.png"
