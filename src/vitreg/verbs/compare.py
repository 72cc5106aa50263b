"""`compare`: finished scans side by side on one page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from pydantic import Field, ValidationError

from vitreg.documents import parse_json
from vitreg.errors import UserError
from vitreg.passes.options import takes
from vitreg.records import Example, Record, ScanResult
from vitreg.report import write_comparison
from vitreg.report.scan.kept import read_examples
from vitreg.report.words import relative
from vitreg.writing.files import printable, write_text
from vitreg.writing.outputs import Outputs

MOST_SCANS = 8
SHOWN = 3  # photographs
RECORD = ".json"  # suffix to the page's name: the list of scans it compares
Shared = tuple[list[tuple[str, list[Example]]], str]  # (photograph, maps of each scan), and why there are none


class Comparison(Record):
    """The record beside a comparison page, from which `vitreg draw` redraws it."""

    schema_: Literal["vitreg.compare/1"] = Field(default="vitreg.compare/1", alias="schema")
    names: list[str]
    scans: list[str] = Field(description="their folders as links from the page")


@takes()
def compare(scans: Sequence[str | Path], *, out: str | Path) -> Path:
    """Draw scans side by side: verdicts, norms along the depth on a shared scale, links to the reports.

    Args:
        scans: folders that `vitreg scan` wrote.
        out: the page, an HTML file.
    Returns:
        path of the page.
    Raises:
        UserError: for a folder that holds no scan, fewer than 2 or more than 8 of them, or an unwritable page.
    """
    scans = [scans] if isinstance(scans, str | Path) else scans
    if not 2 <= len(scans) <= MOST_SCANS:
        raise UserError(f"2 to {MOST_SCANS} scans are compared, not {len(scans)}.")
    page, folders = Path(out), [Path(scan) for scan in scans]
    if page.is_dir() or page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {page} is the page itself; name a file such as {page.with_suffix('.html').name}.")
    results = [read_scan(folder) for folder in folders]
    outputs = Outputs(page.parent, "compare", [page.name, page.name + RECORD])
    outputs.check()
    links = [quote(os.fsencode(Path(os.path.relpath(folder, page.parent)).as_posix())) for folder in folders]
    record = Comparison(names=[printable(name) for name in _names(folders)], scans=links)
    pictures = shared_pictures(folders)

    def write(place: Path) -> None:
        _write(record, results, pictures, place / page.name)
        write_text(place / (page.name + RECORD), record.model_dump_json(indent=1))

    outputs.publish(write)
    return page


def draw_comparison(record: Comparison, home: Path, page: Path) -> None:
    """Redraw a comparison from the current results of its scans.

    Args:
        home: the folder that the scans' names are relative to.
        page: the file to write.
    Raises:
        UserError: if a scan is no longer there, or the page cannot be written.
    """
    folders = [home / os.fsdecode(unquote_to_bytes(link)) for link in record.scans]
    _write(record, [read_scan(folder) for folder in folders], shared_pictures(folders), page)


def _write(record: Comparison, results: Sequence[ScanResult], pictures: Shared, page: Path) -> None:
    columns, note = list(zip(record.names, results, record.scans, strict=True)), " ".join(differences(results))
    title = f"{len(results)} scans side by side"
    write_comparison(
        columns, page, title=title, note=note, pictures=pictures[0], no_pictures=pictures[1], attention=True
    )


def read_scan(folder: Path) -> ScanResult:
    """Read what `vitreg scan` wrote into a folder.

    Raises:
        UserError: if it holds no scan, or one of an unknown version.
    """
    try:
        text = (folder / "result.json").read_bytes()
    except OSError as error:
        raise UserError(
            f"{folder} holds no scan: its result.json cannot be read ({error.strerror or error})."
        ) from error
    try:
        return ScanResult.model_validate_json(text)
    except ValidationError as error:
        found = _schema(text)
        what = (
            f"is of the schema {found}" if found not in (None, "vitreg.scan/1") else "is damaged or of another version"
        )
        raise UserError(
            f"{folder / 'result.json'} {what}, and no scan that can be read; scan into it again."
        ) from error


def shared_pictures(folders: Sequence[Path]) -> Shared:
    """The images that all scans keep, most outliers first, as (name, maps of each scan); and why if there are none."""
    kept: list[dict[str, Example]] = []
    for folder in folders:
        try:
            kept.append({example.name: example for example in read_examples(folder)})
        except ValueError as error:
            return (
                [],
                f"The photographs of {folder} cannot be shown: {error}. Scan into that folder again to see them here.",
            )
    if not all(kept):
        return [], "No photographs can be shown: a scan kept none of its images."
    same = [[each[name] for each in kept] for name in kept[0] if all(name in each for each in kept)]
    if not same:
        return (
            [],
            "No photographs can be shown: the scans kept no image of the same name. Scan the same images with every model.",
        )
    same.sort(key=lambda examples: -max(int(each.outliers.sum()) for each in examples))
    _, short = relative([examples[0].name for examples in same])
    return [(short[examples[0].name], examples) for examples in same[:SHOWN]], ""


def _schema(text: bytes) -> str | None:
    try:
        return parse_json(text).get("schema")
    except (ValueError, AttributeError):
        return None


def _names(folders: Sequence[Path]) -> list[str]:
    """Name each scan by its folder, or by its full path where two folders have the same name."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def differences(results: Sequence[ScanResult]) -> list[str]:
    """Say, a sentence each, what differs between the scans: images, sizes, detectors, interruptions."""
    told = {
        "They saw different numbers of images": [str(r.images.seen) for r in results],
        "They saw images of different size": ["x".join(map(str, r.model.image_size)) for r in results],
        "They used different detectors": [str(r.settings.get("detector")) for r in results],
    }
    notes = [f"{what}: {', '.join(values)}." for what, values in told.items() if len(set(values)) > 1]
    if any(r.images.interrupted for r in results):
        notes.append("Some were interrupted.")
    return notes
