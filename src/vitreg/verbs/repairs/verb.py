"""`repairs`: fits every repair to every model, and measures gain, damage and cost on the same held-out images.

A row that is finished is on disk at once, so that a stopped command goes on from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from torch import nn

from vitreg.analysis.paired import RESAMPLES
from vitreg.backbones import Backbone
from vitreg.backbones.loading.load import opened
from vitreg.data.boxes.coco import coco_boxes
from vitreg.data.boxes.truth import BoxSet
from vitreg.data.boxes.voc import voc_boxes
from vitreg.errors import UserError
from vitreg.machine.runtime import provenance
from vitreg.passes import ahead
from vitreg.passes.drawing import as_written, noted
from vitreg.passes.given import Images
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.passes.progress import Advance, progress
from vitreg.passes.view import shown_stretched, view_of
from vitreg.quantities import there_are
from vitreg.records import Skipped
from vitreg.repair.asked import NONE, Wanted
from vitreg.repair.columns.answers.zeroshot import sentences_on
from vitreg.repair.columns.boxes import truth_on
from vitreg.repair.columns.data import HeldOut, labels_of, read_labels
from vitreg.repair.columns.masks import masks_on
from vitreg.repair.fitting import subject_of
from vitreg.repair.settings import FitOptions
from vitreg.repair.subject import Subject
from vitreg.repair.table.measure import COLUMNS, SHOWN, column_records
from vitreg.repair.table.rows import TWIN, Asked, Rows, twin_row
from vitreg.report import Attempts
from vitreg.report.attempts import reason_of
from vitreg.report.repairs.page import draw_repairs
from vitreg.report.repairs.sheets import Photograph, sheets_of
from vitreg.report.sheets.kept import as_kept
from vitreg.results import RepairRow, RepairsResult
from vitreg.verbs.repairs.options import RepairsOptions, methods_of
from vitreg.writing.files import printable, results_folder, write_text
from vitreg.writing.outputs import RECORD, Outputs

Model = str | nn.Module | Backbone
FEWEST = 5  # images: two to fit on, one to choose with, two to judge


@takes(RepairsOptions, ModelOptions)
def repairs(
    models: Model | Sequence[Model],
    images: Images,
    *,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    options: RepairsOptions | None = None,
    quiet: bool = True,
    ended: Callable[[RepairRow], object] = lambda row: None,
    **keywords: Any,
) -> RepairsResult:
    """Compare repairs of several models on the same images.

    Args:
        models: specs, modules or loaded backbones.
        images: as `vitreg.scan` takes them.
        out: folder for result.json, report.html, table.csv, the maps and finished rows; nothing is written without it.
        weights: a checkpoint; for a single model.
        options: see `RepairsOptions`; keywords override them.
        ended: called with each finished row.
        keywords: fields of `RepairsOptions` and of `ModelOptions`.
    Returns:
        the record that result.json holds. A row that could not be measured says why.
    Raises:
        UserError: for a method or setting that does not exist, images, labels, boxes or masks that cannot be read, or if no
            row has a number.
    """
    options, loading = split(RepairsOptions, options, keywords, "repairs")
    several = cast("list[Model]", list(models) if isinstance(models, list | tuple) else [models])
    if not several or (weights is not None and len(several) > 1):
        raise UserError("name at least one model, and weights from a file for one model only.")
    run = _Run(images, methods_of(options.methods), options, loading, quiet, ended)
    ahead.refuse_absent_inputs(images, files=[weights])
    ahead.refuse_absent_truth(boxes=options.boxes, masks=options.masks, labels=options.labels, names=options.names)
    started = datetime.now(UTC)
    with results_folder(out) as folder:
        run.outputs = (
            None
            if folder is None
            else ahead.repairs_outputs(
                folder, images, options.boxes, options.masks, options.labels, options.names, weights
            )
        )
        if run.outputs is not None:
            run.outputs.check()
        for model in several:
            run.of_model(model, weights)
        result = run.result(started)
        if run.outputs is None:
            return result
        run.outputs.publish(lambda place: run.write(place, result), more=True)
        return _draw(run, run.outputs, result)


@dataclass
class _Run:
    """One call of the verb: what it was asked, and the rows so far."""

    images: Images
    methods: list[Wanted]
    options: RepairsOptions
    loading: dict[str, Any]
    quiet: bool
    ended: Callable[[RepairRow], object]
    outputs: Outputs | None = None
    rows: dict[str, RepairRow] = field(default_factory=dict)  # by key
    photographs: list[list[Photograph]] = field(default_factory=list)  # of each model
    seen: tuple[int, int] = (0, 0)  # images, held out
    skipped: list[Skipped] = field(default_factory=list)
    last: Backbone | None = None
    notes: list[str] = field(default_factory=list)

    def of_model(self, model: Model, weights: str | Path | None) -> None:
        """Measure all rows of one model."""
        try:
            backbone = opened(model, weights, self.loading, size=self.options.pixels)
        except UserError as error:
            spec = model if isinstance(model, str) else type(model).__name__
            self._take(spec, RepairRow(model=printable(spec), method=NONE, failed=error.sentence))
            self.photographs.append([])
            return
        self.last = backbone
        with self._subject(backbone) as subject:
            if len(subject.images) < FEWEST:
                raise UserError(
                    f"repairs are compared on at least {FEWEST} images, and {there_are(len(subject.images))}."
                )
            held_out = self._held_out(subject)
            self.seen = (len(subject.images), subject.images.count("held_out"))
            self.skipped = subject.images.skipped
            self.photographs.append(_photographs(subject))
            rows = Rows(
                subject, held_out, self.methods, self.options.controls, reason=lambda error: f"{reason_of(error)}."
            )
            asked = rows.asked()
            total = len(asked) + (self.options.twin is not None)
            with progress(f"repairs of {backbone.spec}", total, unit="rows", show=not self.quiet) as advance:
                self._measure(rows, asked, advance)
                if self.options.twin is not None:
                    self._twin(backbone.spec, rows.key(Asked(None, f"{TWIN} {self.options.twin}")))
                    advance(1)

    def _subject(self, backbone: Backbone) -> Subject:
        own = self.options
        return subject_of(
            backbone, self.images,
            FitOptions(
                size=own.size, fit=own.fit, limit=own.limit, batch_size=own.batch_size, workers=own.workers, seed=own.seed,
                force=own.force,
            ),
        )  # fmt: skip

    def _measure(self, rows: Rows, asked: Sequence[Asked], advance: Advance) -> None:
        for each in asked:
            key = rows.key(each)
            self._take(key, self._kept(key) or rows.measure(each))
            advance(1, str(each))

    def _twin(self, model: str, key: str) -> None:
        assert self.options.twin is not None
        found = self._kept(key)
        if found is None:
            try:
                backbone = opened(self.options.twin, None, self.loading, size=self.options.pixels)
                with self._subject(backbone) as subject:
                    found = twin_row(model, subject, self._held_out(subject))
            except UserError as error:
                found = RepairRow(model=model, method=NONE, control=TWIN, failed=error.sentence)
        self._take(key, found)

    def _held_out(self, subject: Subject) -> HeldOut:
        """Read the labels, names of classes, boxes and masks of the images."""
        names, own = subject.images.names_of("held_out"), self.options
        labels = None if own.labels is None else labels_of(names, read_labels(own.labels))
        words = None
        if labels is not None and own.names is not None:
            words = sentences_on(subject.backbone, labels, own.names.expanduser(), own.templates)
        if own.boxes is None and own.masks is None:
            return HeldOut(names, labels, sentences=words)
        view, fitted = view_of(subject.backbone, size=own.pixels, policy=own.fit), subject.images.names_of("fit")
        truth = None if own.boxes is None else truth_on(view, names, _boxes(own.boxes.expanduser()))
        masks = None if own.masks is None else masks_on(view, fitted, names, own.masks.expanduser(), own.ignore)
        return HeldOut(names, labels, truth, masks=masks, sentences=words)

    def _kept(self, key: str) -> RepairRow | None:
        """Return a row that an earlier run finished."""
        if self.outputs is None:
            return None
        with suppress(OSError, ValidationError):
            text = (self.outputs.folder / "rows" / f"{key}.json").read_bytes()
            return RepairRow.model_validate_json(text).model_copy(update={"kept": True})
        return None

    def _take(self, key: str, row: RepairRow) -> None:
        self.rows[key] = row
        if self.outputs is not None and not row.kept and not row.failed:
            with self.outputs.adding() as place:
                _write_row(place, key, row)
        self.ended(row)

    def result(self, started: datetime) -> RepairsResult:
        """Return the record. Raises UserError if no row has a number."""
        rows = list(self.rows.values())
        if all(row.failed for row in rows) or self.last is None:
            raise UserError(rows[0].failed)
        used = {name for row in rows for name in (*row.cells, *row.lacking)}
        backbone = self.last
        return RepairsResult(
            data=_name(self.images),
            images=self.seen[0],
            held_out=self.seen[1],
            shown=[each.name for each in next((found for found in self.photographs if found), [])],
            skipped=self.skipped,
            columns=[column for column in column_records() if column.name in used],
            rows=rows,
            resamples=RESAMPLES,
            notes=_not_given(self.options),
            provenance=provenance(
                started=started, device=backbone.device, precision=str(backbone.dtype).removeprefix("torch."),
                choice=backbone.precision_choice, processes=1, seed=self.options.seed,
            ),
        )  # fmt: skip

    def write(self, place: Path, result: RepairsResult) -> None:
        """Write the record and all its rows."""
        write_text(place / RECORD, result.model_dump_json(indent=1))
        for key, row in self.rows.items():
            if not row.failed:
                _write_row(place, key, row)


def _write_row(place: Path, key: str, row: RepairRow) -> None:
    (place / "rows").mkdir(exist_ok=True)
    write_text(place / "rows" / f"{key}.json", row.model_copy(update={"kept": False}).model_dump_json())


def _draw(run: _Run, outputs: Outputs, result: RepairsResult) -> RepairsResult:
    """Draw the page, with the pictures of the photographs."""
    attempts, read = Attempts(), as_written(result)
    with outputs.adding() as place:
        draw_repairs(read, as_kept(sheets_of(read, run.photographs), place, "sheets.npz", attempts), place, attempts)
        return noted(result, place / RECORD, attempts)


def _not_given(options: RepairsOptions) -> list[str]:
    """Say which numbers need what was not given."""
    flags = {"boxes": options.boxes, "masks": options.masks, "labels": options.labels, "names": options.names}
    return [
        f"Not measured without --{name}: {', '.join(titles)}."
        for name, value in flags.items()
        if value is None and (titles := [column.title for column in COLUMNS if column.needs == name])
    ]


def _boxes(path: Path) -> BoxSet:
    return voc_boxes(path) if path.is_dir() else coco_boxes(path)


def _name(images: Images) -> str:
    paths = ahead.paths_of(images)
    return printable(
        "pictures" if not paths else paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    )


def _photographs(subject: Subject) -> list[Photograph]:
    """Return the first held-out images as the model sees them."""
    backbone, names = subject.backbone, subject.images.names_of("held_out")
    pixels = next(subject.batches("held_out"), None)
    if pixels is None:
        return []
    rows, cols = backbone.covered(subject.size)
    pixels = pixels[:SHOWN, :, :rows, :cols]
    found = (
        shown_stretched(pixels)
        if backbone.preprocess is None
        else [backbone.preprocess.unnormalise(each) for each in pixels]
    )
    return [
        Photograph(name=re.split(r"[/\\]", name)[-1], pixels=each) for name, each in zip(names, found, strict=False)
    ]
