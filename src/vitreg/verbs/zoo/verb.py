"""`zoo`: scan many models on the same images, one after another, and rank them on one board."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vitreg.backbones import load
from vitreg.errors import FROM_FILE, UserError
from vitreg.features.key import hash_of_data
from vitreg.machine.runtime import choose_device, provenance
from vitreg.passes import ahead
from vitreg.passes.drawing import noted
from vitreg.passes.jobs import HOW_FAST, Job, Jobs
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.records import ScanResult
from vitreg.records.zoo import Board, BoardRow
from vitreg.report.attempts import Attempts
from vitreg.specs import whole
from vitreg.verbs.compare import read_scan
from vitreg.verbs.scan.verb import scan
from vitreg.verbs.zoo.believable import damage, told_apart
from vitreg.verbs.zoo.board import ranked, row_of
from vitreg.verbs.zoo.named import asked_for, public, published
from vitreg.verbs.zoo.options import ZooOptions
from vitreg.writing.files import output_folder, printable, write_text
from vitreg.writing.outputs import RECORD, Outputs

READING = ("size", "fit", "limit", "detector", "seed")
A_SCAN = "name with -m the folder of a scan made with --weights FILE"


@takes(ZooOptions, ModelOptions)
def zoo(
    images: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path,
    options: ZooOptions | None = None,
    quiet: bool = True,
    started: Callable[[Job], object] = lambda job: None,
    waits: Callable[[Job], object] = lambda job: None,
    ended: Callable[[BoardRow, int, int], object] = lambda row, done, of: None,
    **keywords: Any,
) -> Board:
    """Scan many models on the same images, and rank them on one board.

    Args:
        images: paths, as `vitreg.scan` takes them; none where only records are shown.
        out: folder for result.json, report.html, board.csv, and jobs/ and runs/, from which an interrupted run goes on.
        quiet: without the progress of each scan.
        started, waits: called with a job that begins here, or that another process is doing.
        ended: called with the row of each model, how many are done, and how many there are.
        options: see `ZooOptions`; keywords override them: models, records, size, limit and so on.
    Returns:
        the board; a model that fails is a row with the reason.
    Raises:
        UserError: for an unknown group, absent images, models or records, or a folder that cannot be written.
    """
    options, loading = split(ZooOptions, options, keywords, "zoo")
    if loading.get("precision", "auto") == "auto":
        loading["precision"] = "fp32"  # a rank should not depend on what a machine is fast at
    begun, paths = datetime.now(UTC), [str(each) for each in ([images] if isinstance(images, str | Path) else images)]
    asked = asked_for(paths, options)
    ahead.refuse_absent_inputs(paths)
    folder = output_folder(Path(out))
    outputs = ahead.zoo_outputs(folder, *paths)
    outputs.check()
    rows = []
    with Jobs(folder, started, waits) as jobs:
        work = _Scans(jobs, paths, options, loading, quiet)
        for row in work.rows(asked.models):
            rows.append(row)
            ended(row, len(rows), len(asked.models))
        rows.sort(key=lambda row: asked.models.index(row.model))
        for record in asked.records:
            rows.append(_row_of(record, folder, origin="record", by_patches=options.patches is not None))
            ended(rows[-1], len(rows), len(asked.models) + len(asked.records))
        placed, protocol = ranked(told_apart(rows))
        made = provenance(
            started=begun, device=choose_device(loading.get("device")), precision=str(loading["precision"]), processes=1,
            seed=options.seed,
        )  # fmt: skip
        board = Board(
            images=printable(", ".join(paths)), protocol=protocol, rows=placed, published=published(), provenance=made
        )
        with jobs.alone():  # another process on this folder may end at the same moment
            return _written(outputs, board)


class _Scans:
    """The scans of a run, each a job."""

    def __init__(
        self, jobs: Jobs, images: Sequence[str], options: ZooOptions, loading: Mapping[str, Any], quiet: bool
    ) -> None:
        self.jobs, self.images, self.options, self.loading, self.quiet = jobs, list(images), options, loading, quiet

    def rows(self, models: Sequence[str]) -> Iterator[BoardRow]:
        """Yield the row of each model as it ends."""
        jobs = [self._job(model) for model in models]
        for row in self.jobs.each((job, self._work(str(job.settings["model"]))) for job in jobs):
            model = str(row.settings["model"])
            if row.failed:
                yield BoardRow(model=printable(model), origin="scan", failed=row.failed, **_listed(model))
                continue
            job = next(each for each in jobs if each.settings["model"] == model)
            home = self.jobs.files(job)
            found = _row_of(home, self.jobs.folder, origin="scan", by_patches=self.options.patches is not None)
            yield found.model_copy(update={"model": model})

    def _job(self, model: str) -> Job:
        given = {**{name: getattr(self.options, name) for name in (*READING, "patches")}, **self.loading}
        settings = {
            "verb": "scan", "images": [word for each in self.images for word in (each, hash_of_data(each))],
            "model": model, "weights": hash_of_data(whole(model).partition(":")[2]),
            "given": {name: str(value) for name, value in given.items()},
        }  # fmt: skip
        return Job(f"scan of {model}", settings)

    def _work(self, model: str) -> Callable[[Path], Mapping[str, Any]]:
        reading = {name: getattr(self.options, name) for name in (*READING, *HOW_FAST)}

        def work(folder: Path) -> Mapping[str, Any]:
            try:
                if self.options.patches is None:
                    found = scan(model, self.images, out=folder, quiet=self.quiet, **reading, **self.loading)
                else:
                    found = self._scan_by_patches(model, folder, reading)
            except UserError as error:
                raise UserError(error.sentence.replace(FROM_FILE, A_SCAN)) from error
            finally:
                gc.collect()  # one model at a time: what holds itself in a circle goes before the next is loaded
            if found.images.interrupted:  # the images seen are kept, and the next run goes on from them
                raise KeyboardInterrupt
            return {}

        return work

    def _scan_by_patches(self, model: str, folder: Path, reading: Mapping[str, Any]) -> ScanResult:
        """Scan at the size that gives the model as many patches as asked for."""
        backbone = load(model, **self.loading)
        (rows, cols), (height, width) = self.options.patches, backbone.anatomy.patch  # type: ignore[misc]
        size = (rows * height, cols * width)
        return scan(backbone, self.images, out=folder, quiet=self.quiet, **{**reading, "size": size})


def _listed(model: str) -> dict[str, Any]:
    """Return what the public list says of a model."""
    each = public().get(model)
    return {} if each is None else {"groups": list(each.groups), "license": each.license}


def _row_of(home: Path, board: Path, *, origin: str, by_patches: bool) -> BoardRow:
    """Return the row of a folder of a scan; one that cannot be read says why."""
    try:
        result = read_scan(home)
    except UserError as error:
        return BoardRow(model=printable(str(home)), origin="record", failed=error.sentence)
    row = row_of(result, by_patches=by_patches, origin=origin, **_listed(result.model.spec))
    if wrong := damage(result, row):
        reason = f"{home / RECORD} is damaged: {wrong}; scan into it again."
        return BoardRow(model=printable(result.model.spec), origin="record", failed=printable(reason))
    link = ""
    if (home / "report.html").is_file():
        with contextlib.suppress(ValueError):  # on another drive
            link = quote(os.fsencode(Path(os.path.relpath(home, board)).as_posix()))
    return row.model_copy(update={"folder": link})


def _written(outputs: Outputs, board: Board) -> Board:
    """Write the record, then the page and the CSV; what cannot be drawn is listed."""
    from vitreg.report.zoo.page import draw_board

    outputs.publish(lambda place: write_text(place / RECORD, board.model_dump_json(indent=1)), more=True)
    attempts = Attempts()
    with outputs.adding() as place:
        draw_board(board, place, attempts)
        return noted(board, place / RECORD, attempts)
