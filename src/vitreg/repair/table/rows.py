"""The rows of one model in the table of repairs: the model as it is, every method, and the controls of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import vitreg
from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.repair.asked import NONE, Wanted
from vitreg.repair.columns import cost
from vitreg.repair.columns.data import HeldOut
from vitreg.repair.columns.reading import Gathered, Reader
from vitreg.repair.fitting import fit_subject
from vitreg.repair.methods import method_named
from vitreg.repair.outliers import NothingToRepairError, Outliers
from vitreg.repair.repair import Repair, weights_hash
from vitreg.repair.subject import Subject
from vitreg.repair.table.controls import zero_strength
from vitreg.repair.table.measure import COLUMNS, measured
from vitreg.repair.table.on_planted import clean_twin
from vitreg.results import RepairRow

RANDOM, ZERO, CLEAN, TWIN = "random", "zero strength", "clean twin", "twin"


@dataclass(frozen=True)
class Asked:
    """A row that is wanted.

    Args:
        repair: None for the model as it is.
    """

    repair: Wanted | None = None
    control: str = ""

    @property
    def method(self) -> str:
        """The repair and its settings, or none."""
        return NONE if self.repair is None else str(self.repair)

    def __str__(self) -> str:
        return f"{self.method} ({self.control})" if self.control else self.method


@dataclass
class Rows:
    """The rows of one model.

    Args:
        subject: the model and its images.
        held_out: what is known of the images that judge.
        methods: repairs; the model as it is comes before them.
        controls: measure every method's controls too.
        reason: an exception -> the sentence why a row has no numbers.
    """

    subject: Subject
    held_out: HeldOut
    methods: Sequence[Wanted]
    controls: bool
    reason: Callable[[Exception], str]
    _fitted: dict[str, Repair] = field(default_factory=dict)

    @cached_property
    def outliers(self) -> Outliers | None:
        """The outliers of the model; None if it has none and is not forced."""
        try:
            return self.subject.outliers
        except NothingToRepairError:
            return None

    @cached_property
    def clean(self) -> Backbone | None:
        """The clean twin of a planted model."""
        return clean_twin(self.subject.backbone)

    @cached_property
    def reader(self) -> Reader:
        """The model as it is."""
        return Reader(self.subject.backbone, self.subject, self.outliers, replace(self.held_out, clean=self.clean))

    @cached_property
    def base(self) -> Gathered:
        """What stays of the pass of the model as it is."""
        return self._base[1].gathered

    @cached_property
    def _base(self) -> tuple[Reader, Any]:
        return self.reader, measured(self.reader)

    def asked(self) -> list[Asked]:
        """Return the rows wanted: of a model without outliers only the first."""
        rows = [Asked()]
        if self.outliers is None:
            return rows
        rows += [Asked(None, CLEAN)] if self.clean is not None and self.controls else []
        for each in self.methods:
            rows += [Asked(each), *([Asked(each, RANDOM), Asked(each, ZERO)] if self.controls else [])]
        return rows

    def key(self, asked: Asked) -> str:
        """Return what identifies a row: model, images, method, and all that makes its numbers."""
        backbone, subject, truth = self.subject.backbone, self.subject, self.held_out.truth
        masks, words = self.held_out.masks, self.held_out.sentences
        settings = None if asked.repair is None else asdict(asked.repair.settings)
        words = [
            vitreg.__version__, backbone.spec, weights_hash(backbone), backbone.edits_identity, str(backbone.dtype),
            subject.images.sha256, subject.size, subject.seed, subject.force, str(asked), settings,
            [] if asked.repair is None else [_content(each) for each in asked.repair.settings.files],
            [column.name for column in COLUMNS], None if self.held_out.labels is None else self.held_out.labels.tolist(),
            None if truth is None else [each.tolist() for each in truth.boxes],
            None if masks is None else masks.sha256, None if words is None else words.sha256,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(words, default=str).encode()).hexdigest()[:20]

    def measure(self, asked: Asked) -> RepairRow:
        """Measure a row; one that cannot be measured says why."""
        try:
            return self._row(asked)
        except UserError as error:
            failed = error.sentence
        except (RuntimeError, ValueError, TypeError, AssertionError, LookupError) as error:
            failed = self.reason(error)
        return self._named(asked, failed=failed)

    def _row(self, asked: Asked) -> RepairRow:
        if asked == Asked():
            found = self._base[1]
            notes = [] if self.outliers is not None else ["It has no outliers on these images, so nothing is repaired."]
            return self._named(
                asked,
                cells=found.cells,
                lacking=found.lacking,
                identical=True,
                unneeded=self.outliers is None,
                notes=notes,
                maps=_maps(found.gathered),
            )
        backbone = self.subject.backbone
        if asked.control == CLEAN:
            assert self.clean is not None
            return self._compared(asked, None, self.clean)
        assert asked.repair is not None
        if asked.control == RANDOM:
            repair = self._fit(asked.repair, random=True)
        else:
            repair = self._fitted[asked.method] if asked.method in self._fitted else self._fit(asked.repair)
            self._fitted[asked.method] = repair
        return self._compared(
            asked, repair, zero_strength(repair, backbone) if asked.control == ZERO else repair.apply(backbone)
        )

    def _fit(self, wanted: Wanted, *, random: bool = False) -> Repair:
        subject = replace(self.subject, random=random)
        if self.outliers is not None:
            subject.__dict__["outliers"] = self.outliers  # found once for all
        return fit_subject(subject, method_named(wanted.name), wanted.settings)

    def _compared(self, asked: Asked, repair: Repair | None, fixed: Backbone) -> RepairRow:
        found = measured(replace(self.reader, backbone=fixed), self.reader, self.base)
        images = next(self.subject.batches("held_out"))
        zero = asked.control == ZERO
        cells = {**found.cells, **cost.costs(None if zero else repair, self.subject.backbone, fixed, images)}
        notes = [] if repair is None else list(repair.record.notes)
        if zero and not found.gathered.identical:
            notes = [
                "WARNING: at strength zero the tokens are not those of the model as it is: editing alone changes them."
            ]
        return self._named(
            asked, cells=cells, lacking=found.lacking, identical=found.gathered.identical, notes=notes,
            maps=_maps(found.gathered), settings={} if repair is None else repair.record.settings,
        )  # fmt: skip

    def _named(self, asked: Asked, **words: Any) -> RepairRow:
        forced = self.outliers is not None and self.outliers.record.forced
        return RepairRow(
            model=self.subject.backbone.spec, method=asked.method, control=asked.control, forced=forced, **words
        )


def _content(file: Path) -> str:
    place = file.expanduser()
    return hashlib.sha256(place.read_bytes()).hexdigest() if place.is_file() else ""


def twin_row(model: str, subject: Subject, held_out: HeldOut) -> RepairRow:
    """Measure another model in the place of the repaired one; what compares tokens has no number.

    Args:
        model: the model it is beside.
        subject: the twin, with the same images.
    """
    try:
        outliers = subject.outliers
    except NothingToRepairError:
        outliers = None
    reader = Reader(subject.backbone, subject, outliers, held_out)
    found = measured(reader, alone=True)
    cells = {
        name: cell.model_copy(update=dict.fromkeys(("change", "change_low", "change_high")))
        for name, cell in found.cells.items()
    }
    return RepairRow(
        model=model, method=NONE, control=TWIN, cells=cells, lacking=found.lacking, notes=[f"The twin is {subject.backbone.spec}."],
        maps=_maps(found.gathered),
    )  # fmt: skip


def _maps(gathered: Gathered) -> list[list[list[float | None]]]:
    return [
        [[None if torch.isnan(value) else round(float(value), 4) for value in row] for row in each]
        for each in gathered.maps
    ]
