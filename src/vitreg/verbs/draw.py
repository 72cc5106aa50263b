"""`draw`: redraws pages, sheets and charts from the records in a verb's folder. No model, no images, no torch.

A folder's record says which verb wrote it. Records are not changed, except for their list of failed drawings.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from vitreg.documents import parse_json
from vitreg.errors import UserError
from vitreg.notebook import Shown
from vitreg.passes.ahead import EXPLORED, EXPLORER, explore_outputs, names_a_file
from vitreg.passes.options import takes
from vitreg.records import Curves, Record, ScanResult, Undrawn
from vitreg.records.explore import ExploreResult
from vitreg.records.lab import LabReport
from vitreg.records.reproduction import Reproduction
from vitreg.records.zoo import Board
from vitreg.report import Attempts, draw_curves, draw_scan, write_curves
from vitreg.report.evaluation.page import SHEETS, draw_evaluation
from vitreg.report.evaluation.table import CSV as TABLE
from vitreg.report.evaluation.table import draw_evaluations
from vitreg.report.explore.page import folder_page, kept_parts, single_page
from vitreg.report.lab.figures import FIGURES as LAB_FIGURES
from vitreg.report.lab.page import CSV as EFFECTS
from vitreg.report.lab.page import RUNS, draw_lab
from vitreg.report.repairs.page import CSV as REPAIRS
from vitreg.report.repairs.page import draw_repairs
from vitreg.report.repairs.sheets import MAPS
from vitreg.report.reproduction.page import FIGURES, TABLES
from vitreg.report.scan.kept import FILE_NAME as EXAMPLES
from vitreg.report.scan.kept import read_examples
from vitreg.report.sheets.kept import Named, read_sheets
from vitreg.report.sheets.sheet import save_all
from vitreg.report.zoo.page import CSV as BOARD
from vitreg.report.zoo.page import draw_board
from vitreg.results import DiscoverResult, EvalResult, Evaluations, RepairsResult
from vitreg.training.history import read_run
from vitreg.verbs.compare import RECORD as COMPARED
from vitreg.verbs.compare import Comparison, draw_comparison
from vitreg.writing.files import missing, output_folder, write_text
from vitreg.writing.ledger import LEDGER, read_ledger
from vitreg.writing.outputs import Outputs

PICTURES = ("segmentation.png", "depth.png")  # of eval, drawn from its sheets
PAGE, RESULT = "report.html", "result.json"
NOT_AGAIN = ("maps of the images", "pictures")  # made only while measuring
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """What can be drawn in a folder.

    Args:
        verb: the verb that measured, and owns the files.
        names: the files to write; a folder ends with a slash.
        draw: writes the files into a folder.
        reads: the files it draws from, which the verb wrote together.
        opens: the file to open first.
        record: the file that lists failed drawings; empty if there is none.
        undrawn: the failed drawings listed so far.
        lacking: why some drawings cannot be redrawn; empty if all can.
        spoils: whether redrawing the rest would delete a drawing that exists.
    """

    verb: str
    names: tuple[str, ...]
    draw: Callable[[Path, Attempts], object]
    opens: str
    reads: tuple[str, ...] = ()
    record: str = ""
    undrawn: list[Undrawn] = field(default_factory=list)
    lacking: str = ""
    spoils: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn(Shown):
    """The drawings: the files to open first, and sentences on drawings that failed."""

    paths: tuple[Path, ...]
    notes: tuple[str, ...]


@takes()
def draw(folder: str | Path, *, out: str | Path | None = None) -> Drawn:
    """Redraw the pages, sheets and charts in a folder of scan, compare, maps, discover, eval, repairs, curves, train, zoo, reproduce,
    lab or explore.

    Args:
        folder: the folder the verb wrote.
        out: another folder for the drawings, or for those of explore a name that ends with .html, which becomes one page;
            the records stay where they are.
    Raises:
        UserError: for any other folder, a record that cannot be read, pictures that were not kept, records or pictures that
            the verb did not write there, or files in the way that vitreg did not write.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise missing(folder, "folder") if not folder.exists() else UserError(f"{folder} is a file; name its folder.")
    drawings = list(_drawings(folder))
    if not drawings:
        inside = sorted(path.parent.name for name in (RESULT, "curves.json") for path in folder.glob(f"*/{name}"))
        hint = f" Try {folder / inside[0]}." if inside else ""
        raise UserError(
            f"{folder} holds nothing to draw: no record of scan, compare, maps, discover, eval, repairs, curves, train, zoo, "
            f"reproduce, lab or explore.{hint}"
        )
    unproven = _refuse_foreign(folder, drawings)
    for each in drawings:
        if each.lacking and (not each.names or (each.spoils and out is None)):
            elsewhere = "; the rest can be drawn elsewhere with --out" if each.names else ""
            raise UserError(f"{each.lacking}; run vitreg {each.verb} again{elsewhere}.")
    if out is not None and names_a_file(Path(out)):
        return _one_page(folder, Path(out))
    place = folder if out is None else output_folder(Path(out))
    if place.resolve() != folder.resolve() and any(
        (place / name).exists() for name in (RESULT, "curves.json", "config.json")
    ):
        raise UserError(
            f"{place} holds a record of its own, and its page would be that of {folder}; name another folder."
        )
    outputs = [Outputs(place, each.verb, each.names) for each in drawings]
    for each in outputs:
        each.check()
    notes = unproven + [f"{each.lacking}." for each in drawings if each.lacking]
    for each, to in zip(drawings, outputs, strict=True):
        notes += [failed.sentence for failed in _drawn(each, folder, to)]
    return Drawn(paths=tuple(place / each.opens for each in drawings), notes=tuple(notes))


def _refuse_foreign(folder: Path, drawings: list[Drawing]) -> list[str]:
    """Refuse what the folder's list does not prove to be of its verb, such as pictures copied in from another result.

    Returns:
        a sentence where there is no list, as beside results of vitreg 0.1.0.
    Raises:
        UserError: naming the file, and what is wrong with it.
    """
    ledger, reads = read_ledger(folder), [(each.verb, name) for each in drawings for name in each.reads]
    if not ledger.files:
        return [f"no {LEDGER} in {folder} proves that what is drawn belongs together."] if reads else []
    for verb, name in reads:
        why = ledger.why_foreign(name, verb) if os.path.lexists(folder / name) else None
        if why is not None:
            raise UserError(f"{why}, so it is not drawn as a result of vitreg {verb}; run vitreg {verb} again.")
    return []


def _drawn(drawing: Drawing, folder: Path, outputs: Outputs) -> list[Undrawn]:
    """Draw, and list failed drawings in the record. Returns them."""
    again = [each for each in drawing.undrawn if each.name not in NOT_AGAIN and not each.name.endswith(".npz")]
    before = [each for each in drawing.undrawn if each not in again]
    attempts = Attempts()

    attempts.failed[:] = before
    with outputs.adding() as place:
        drawing.draw(place, attempts)
        if drawing.record and outputs.folder == folder and attempts.failed != drawing.undrawn:
            held = parse_json((folder / drawing.record).read_bytes())
            held["undrawn"] = [each.model_dump() for each in attempts.failed]
            write_text(place / drawing.record, json.dumps(held, indent=1, ensure_ascii=False))
    return attempts.failed


def _drawings(folder: Path) -> Iterator[Drawing]:
    if (folder / RESULT).is_file():
        schema = _schema(folder / RESULT)
        if schema not in _RESULTS:
            raise UserError(f"{folder / RESULT} is {_kind(schema)}, and no record that vitreg draw knows.")
        yield _RESULTS[schema](folder)
    if (folder / "curves.json").is_file():
        yield _curves(folder)
    if (folder / "config.json").is_file() and (folder / "metrics.jsonl").is_file():
        yield _run(folder)
    if (folder / EXPLORED).is_file():
        yield _explorer(folder)
    yield from _maps(folder)
    compared = [path for path in sorted(folder.glob(f"*.htm*{COMPARED}")) if _schema(path) == "vitreg.compare/1"]
    yield from map(_comparison, compared)


def _scan(folder: Path) -> Drawing:
    result, lacking, examples = _read(folder / RESULT, ScanResult), "", []
    try:
        examples = read_examples(folder)
    except ValueError as error:
        lacking = f"the photographs of {folder} cannot be drawn again: {error}"
    return Drawing(
        verb="scan", names=(PAGE, "figures/"), opens=PAGE, record=RESULT, undrawn=result.undrawn,
        reads=(RESULT, EXAMPLES), draw=lambda place, attempts: draw_scan(result, examples, place, attempts, keep=False),
        lacking=lacking, spoils=True,
    )  # fmt: skip


def _discover(folder: Path) -> Drawing:
    result = _read(folder / RESULT, DiscoverResult)
    try:
        sheets = read_sheets(folder / "pictures" / "sheets.npz")
    except ValueError as error:
        return Drawing(
            verb="discover", names=(), draw=_nothing, opens=RESULT,
            lacking=f"the pictures of {folder} cannot be drawn again: {error}",
        )  # fmt: skip
    return Drawing(
        verb="discover", names=("pictures/",), opens=f"pictures/{sheets[0][0]}" if sheets else RESULT, record=RESULT,
        undrawn=result.undrawn, reads=(RESULT, "pictures/sheets.npz"),
        draw=lambda place, attempts: save_all(sheets, place / "pictures", attempts),
    )  # fmt: skip


def _eval(folder: Path) -> Drawing:
    result, lacking, sheets = _read(folder / RESULT, EvalResult), "", []
    kept = {SHEETS, *PICTURES} & set(os.listdir(folder))
    try:
        sheets = read_sheets(folder / SHEETS) if kept else []
    except ValueError as error:
        lacking = f"{min(kept)} cannot be drawn again: {error}"
    names = [name for name, _ in sheets] + (["complexity.png"] if result.task == "complexity" else [])
    return Drawing(
        verb="eval", names=(PAGE, *names), opens=PAGE, record=RESULT, undrawn=result.undrawn,
        draw=partial(draw_evaluation, result, sheets), lacking=lacking, reads=(RESULT, SHEETS),
    )  # fmt: skip


def _evals(folder: Path) -> Drawing:
    result = _read(folder / RESULT, Evaluations)
    return Drawing(
        verb="eval", names=(TABLE, PAGE), opens=PAGE, record=RESULT, undrawn=result.undrawn,
        draw=partial(draw_evaluations, result), reads=(RESULT,),
    )  # fmt: skip


def _repairs(folder: Path) -> Drawing:
    result, lacking, sheets = _read(folder / RESULT, RepairsResult), "", []
    kept = sorted({SHEETS, MAPS} & set(os.listdir(folder)))
    try:
        sheets = read_sheets(folder / SHEETS) if kept else []
    except ValueError as error:
        lacking = f"{kept[0]} cannot be drawn again: {error}"
    return Drawing(
        verb="repairs", names=(REPAIRS, PAGE, *(name for name, _ in sheets)), opens=PAGE, reads=(RESULT, SHEETS), record=RESULT,
        undrawn=result.undrawn, draw=partial(draw_repairs, result, sheets), lacking=lacking,
    )  # fmt: skip


def _board(folder: Path) -> Drawing:
    board = _read(folder / RESULT, Board)
    return Drawing(
        verb="zoo", names=(PAGE, BOARD), opens=PAGE, reads=(RESULT,), record=RESULT, undrawn=board.undrawn,
        draw=partial(draw_board, board),
    )  # fmt: skip


def _reproduction(folder: Path) -> Drawing:
    from vitreg.experiments.drawn import draw_again

    result = _read(folder / RESULT, Reproduction)
    return Drawing(
        verb="reproduce", names=(PAGE, f"{FIGURES}/", f"{TABLES}/"), opens=PAGE, reads=(RESULT,), record=RESULT,
        undrawn=result.undrawn, draw=partial(draw_again, result, folder),
    )  # fmt: skip


def _design(folder: Path) -> Drawing:
    result = _read(folder / RESULT, LabReport)
    return Drawing(
        verb="lab", names=(PAGE, EFFECTS, RUNS, f"{LAB_FIGURES}/"), opens=PAGE, reads=(RESULT,), record=RESULT,
        undrawn=result.undrawn, draw=partial(draw_lab, result),
    )  # fmt: skip


def _curves(folder: Path) -> Drawing:
    record = _read(folder / "curves.json", Curves)
    return Drawing(
        verb="curves", names=(PAGE, "curves.png"), opens=PAGE, record="curves.json", undrawn=record.undrawn,
        draw=partial(draw_curves, record.runs), reads=("curves.json",),
    )  # fmt: skip


def _run(folder: Path) -> Drawing:
    run = read_run(folder)
    return Drawing(verb="curves", names=(PAGE,), opens=PAGE, draw=partial(write_curves, [run]))


def _maps(folder: Path) -> Iterator[Drawing]:
    """The sheets of `maps`. They are its only record: one file per kind of map."""
    sheets: list[Named] = []
    own, kinds = read_ledger(folder).of("maps"), set()
    for path in sorted(folder.glob("*.npz")):
        try:
            found = [] if path.name in ("sheets.npz", "examples.npz") else read_sheets(path)
        except ValueError as error:
            if path.name in own:
                raise UserError(
                    f"the sheets of {path.stem} cannot be drawn again: {error}; run vitreg maps again."
                ) from error
            continue
        sheets += found
        kinds |= {path.stem} if found else set()
    old = [name for name in own if name.endswith(".png") and name.removesuffix(".png").partition("-")[0] not in kinds]
    lacking = f"{folder / old[0]} cannot be drawn again: there is no {_kept(old[0])}" if old else ""
    if sheets or old:
        yield Drawing(
            verb="maps", names=tuple(name for name, _ in sheets), opens=sheets[0][0] if sheets else old[0],
            draw=lambda place, attempts: save_all(sheets, place, attempts), lacking=lacking,
            reads=tuple(f"{kind}.npz" for kind in sorted(kinds)),
        )  # fmt: skip


def _kept(sheet: str) -> str:
    return sheet.removesuffix(".png").partition("-")[0] + ".npz"


def _one_page(folder: Path, page: Path) -> Drawn:
    """Write the page of `explore` as one file. Raises UserError for a folder of another verb, whose drawings are many files."""
    if not (folder / EXPLORED).is_file():
        raise UserError(
            f"--out {page}: the drawings of {folder} are several files; name a folder. One page is made of what explore measured."
        )
    outputs = explore_outputs(page)
    outputs.check()
    record = _read(folder / EXPLORED, ExploreResult)
    outputs.publish(lambda place: write_text(place / page.name, single_page(record, dict(kept_parts(folder)))))
    return Drawn(paths=(page,), notes=())


def _explorer(folder: Path) -> Drawing:
    """The page of `explore`; elsewhere it becomes one file, for its parts lie beside the record."""
    record = _read(folder / EXPLORED, ExploreResult)

    def page(place: Path) -> str:
        beside = folder.resolve() in place.resolve().parents
        return folder_page(record) if beside else single_page(record, dict(kept_parts(folder)))

    return Drawing(
        verb="explore", names=(EXPLORER,), opens=EXPLORER, reads=(EXPLORED,),
        draw=lambda place, attempts: write_text(place / EXPLORER, page(place)),
    )  # fmt: skip


def _comparison(path: Path) -> Drawing:
    record = _read(path, Comparison)
    page = path.name.removesuffix(COMPARED)
    return Drawing(
        verb="compare", names=(page,), opens=page, reads=(path.name,),
        draw=lambda place, attempts: draw_comparison(record, path.parent, place / page),
    )  # fmt: skip


_RESULTS: dict[str | None, Callable[[Path], Drawing]] = {
    "vitreg.scan/1": _scan,
    "vitreg.discover/1": _discover,
    "vitreg.eval/1": _eval,
    "vitreg.evals/1": _evals,
    "vitreg.repairs/1": _repairs,
    "vitreg.reproduce/1": _reproduction,
    "vitreg.zoo/1": _board,
    "vitreg.lab-report/1": _design,
}


def _nothing(place: Path, attempts: Attempts) -> None:
    """Draw nothing."""


def _read(path: Path, kind: type[R]) -> R:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        raise UserError(f"{path} is damaged or of another version, and nothing can be drawn of it.") from error


def _schema(path: Path) -> str | None:
    try:
        return parse_json(path.read_bytes()).get("schema")
    except (OSError, ValueError, AttributeError):
        return None


def _kind(schema: str | None) -> str:
    return "no record of vitreg" if schema is None else f"of the schema {schema}"
