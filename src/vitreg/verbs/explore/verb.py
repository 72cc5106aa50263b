"""`explore`: photos by models as a page on which one points at a patch, measured beforehand."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vitreg import __version__
from vitreg.errors import UserError
from vitreg.notebook import Row, Tabled
from vitreg.passes import ahead
from vitreg.passes.given import Images
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.records.explore import ExploreResult, ShownDocument, ShownModel
from vitreg.report.explore.document import Document, Part, first_parts
from vitreg.report.explore.page import DATA, folder_page, kept_parts, script_of, single_page
from vitreg.verbs.explore.attended import Attended
from vitreg.verbs.explore.measure import EVERYTHING, attended, document_of
from vitreg.verbs.explore.options import ExploreOptions
from vitreg.verbs.look.models import Looker, Model, lookers
from vitreg.verbs.look.one import see
from vitreg.verbs.look.photos import Photos
from vitreg.verbs.look.words import CAUTION
from vitreg.writing.files import write_text

LARGEST = 300 * 2**20  # characters of one file: browsers take more, people don't wait for it
Measured = Callable[[str, ShownModel, ShownDocument], object]


@dataclass(frozen=True, slots=True)
class Exploration(Tabled):
    """What `vitreg.explore` returns: the record, and the page, which a notebook shows.

    Args:
        path: the page; None if none was written.
        parts: the measured parts by name, as JSON; empty if they lie beside the page.
    """

    record: ExploreResult
    path: Path | None
    parts: dict[str, str] = field(repr=False)

    def __str__(self) -> str:
        record = self.record
        said = [
            f"{record.photos[each.photo]}, {record.models[each.model].name}: {each.sentence}"
            for each in record.documents
        ]
        left = [each.sentence for each in record.skipped]
        return "\n".join([*said, *left, *([record.chosen] if record.chosen else []), record.caution])

    @property
    def page(self) -> str:
        """The whole page as one text that needs nothing else."""
        if self.path is None or self.parts:
            return single_page(self.record, self.parts)
        if self.path.name != ahead.EXPLORER:
            return self.path.read_text(encoding="utf-8")
        return single_page(self.record, dict(kept_parts(self.path.parent)))

    def _rows(self) -> list[Row]:
        return self.record._rows()

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="vitreg explore" width="100%" height="900" style="border:0" srcdoc="{html.escape(self.page)}">'
            "</iframe>"
        )


@takes(ExploreOptions, ModelOptions)
def explore(
    models: Model | Sequence[Model],
    images: Images | Sequence[Any],
    *,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    options: ExploreOptions | None = None,
    measured: Measured = lambda photo, model, document: None,
    **keywords: Any,
) -> Exploration:
    """Make a page of photos on which one points at a patch and sees what models do with it.

    Args:
        models: specs, modules or loaded backbones; without any (an empty list), those that `vitreg.look` takes.
        images: photos: paths, globs, folders or pictures.
        out: a folder for the page, or a name that ends with .html for one file; nothing is written without it.
        weights: a checkpoint for the one model named.
        options: see `ExploreOptions`; keywords override them.
        measured: called with each photo, model and what it shows, as it is measured.
        keywords: fields of `ExploreOptions`, such as size and repair, and of `ModelOptions`, such as device and precision.
    Raises:
        UserError: for a model that cannot be loaded, photos none of which can be read, a block that there is not, a place
            that cannot be written, or one file that would be too large.
    """
    options, loading = split(ExploreOptions, options, keywords, "explore")
    named = [models] if isinstance(models, Model) else list(models)
    ahead.refuse_weights(weights, len(named))
    place = None if out is None else _Place(Path(out).expanduser(), images, weights)
    photos = Photos(images, options.limit, "explore")
    photos.refuse_none()  # before models are loaded
    subjects, chosen = lookers(named, weights, options, loading)
    blocks = [options.of(each.backbone.depth, each.name) for each in subjects]
    models_shown = [shown_model(each) for each in subjects]
    with _Store(place) as store:
        documents, names = [], []
        for photo, (name, picture) in enumerate(photos):
            names.append(name)
            for model, (document, attention) in enumerate(_documents(picture, subjects, blocks)):
                found = ShownDocument(
                    name=f"p{photo}m{model}", photo=photo, model=model, found=document.record.found,
                    sentence=document.record.sentence,
                )  # fmt: skip
                documents.append(found)
                for part in _parts(document, attention, found.name):
                    store.add(*part)
                measured(name, models_shown[model], found)
        record = ExploreResult(
            photos=names, models=models_shown, documents=documents, skipped=photos.skipped, there=photos.there,
            chosen=chosen, caution=CAUTION, vitreg=__version__,
        )  # fmt: skip
        return Exploration(record, store.publish(record), store.parts)


def shown_model(looker: Looker) -> ShownModel:
    """Return what a page says of a model."""
    registers = len(looker.view.layout.registers)
    return ShownModel(name=looker.name, spec=looker.backbone.spec, registers=registers, base=looker.base)


def _documents(
    picture: Image.Image, subjects: Sequence[Looker], blocks: Sequence[list[int]]
) -> Iterator[tuple[Document, Attended | None]]:
    """Measure one photo by one model after another."""
    for looker, seen, own in zip(subjects, see(picture, subjects, EVERYTHING), blocks, strict=True):
        yield document_of(looker.backbone, seen), attended(looker.backbone, seen, own)


def _parts(document: Document, attention: Attended | None, name: str) -> Iterator[tuple[str, Part]]:
    yield from first_parts(document, name)
    if attention is not None:
        yield from attention.parts(name)


class _Place:
    """Where a page goes: a folder, or one file.

    Raises:
        UserError: if anything is in the way.
    """

    def __init__(self, path: Path, *inputs: object) -> None:
        self.outputs = ahead.explore_outputs(path, *inputs)
        self.outputs.check()
        self.one = ahead.is_one_page(path)
        self.name = path.name if self.one else ahead.EXPLORER


class _Store:
    """The parts that were measured: as scripts in a staging folder, or in memory for one file and for notebooks."""

    def __init__(self, place: _Place | None) -> None:
        self._place, self._size = place, 0
        self._stage = place.outputs.stage() if place is not None and not place.one else None
        self.parts: dict[str, str] = {}

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._stage is not None:
            self._stage.close()

    def add(self, part: str, content: Part) -> None:
        """Keep a part. Raises UserError where one file would be too large."""
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))
        if self._stage is not None:
            folder = self._stage.path / DATA
            folder.mkdir(exist_ok=True)
            (folder / f"{part}.js").write_text(script_of(part, text), encoding="utf-8")
            return
        self.parts[part] = text
        self._size += len(text)
        if self._size > LARGEST:
            raise UserError(
                f"one file would hold more than {LARGEST >> 20} MB; name a folder with --out, or fewer blocks with --blocks."
            )

    def publish(self, record: ExploreResult) -> Path | None:
        """Move the page with its parts into place, and return the page; None where no place was named."""
        if self._place is None:
            return None
        self._place.outputs.publish(lambda folder: self._write(record, folder), stage=self._stage)
        return self._place.outputs.folder / self._place.name

    def _write(self, record: ExploreResult, folder: Path) -> None:
        if self._stage is None:
            write_text(folder / self._name, single_page(record, self.parts))
            return
        if not (folder / DATA).is_dir():
            raise UserError("what was measured was deleted meanwhile.")
        write_text(folder / self._name, folder_page(record))
        write_text(folder / ahead.EXPLORED, record.model_dump_json(indent=1))

    @property
    def _name(self) -> str:
        assert self._place is not None, "there is a place to write to"
        return self._place.name
