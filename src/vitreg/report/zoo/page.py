"""The board as one page and as CSV: ranked rows, rows of another protocol, what others published, what failed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vitreg.quantities import short
from vitreg.records.zoo import Board, BoardRow, PublishedRow
from vitreg.report import shell
from vitreg.report.attempts import Attempts
from vitreg.report.scan import payload
from vitreg.report.words import count, number, percent, spaced
from vitreg.report.zoo import words
from vitreg.report.zoo.card import said
from vitreg.writing.files import output_folder, write_text

PAGE, CSV = "report.html", "board.csv"
COLUMNS = (
    *("model", "origin", "rank_first", "rank_last", "verdict", "kind", "strength", "share", "low", "high"),
    *("ratio_peak", "ratio_output", "first_block", "peak_block", "blocks", "attention", "attention_of", "registers"),
    *(
        "patch",
        "image_size",
        "parameters",
        "could",
        "unranked",
        "differs",
        "disagrees",
        "images",
        "seen",
        "resolution",
        "fit",
        "precision",
    ),
    *("detector", "vitreg", "weights_sha256", "license", "note", "folder", "failed"),
)
OF_PROTOCOL = ("images", "seen", "resolution", "fit", "precision", "detector", "vitreg")
MILLION = 1e6


def draw_board(board: Board, directory: Path, attempts: Attempts) -> None:
    """Write the CSV file and the page into a folder.

    Raises:
        UserError: if the folder cannot be written.
    """
    folder = output_folder(Path(directory))
    attempts(CSV, lambda: write_text(folder / CSV, as_csv(board)))
    attempts(PAGE, lambda: shell.write(folder / PAGE, render(board, attempts)))


def as_csv(board: Board) -> str:
    """Return CSV: a header, then one line for each row; what a row lacks is empty. Rows of others are not in it."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in board.rows:
        held: dict[str, Any] = {name: getattr(row, name) for name in COLUMNS if name in type(row).model_fields}
        held |= {name: getattr(row.protocol, name) for name in OF_PROTOCOL if row.protocol}
        held["rank_first"], held["rank_last"] = row.rank or (None, None)
        held |= {name: "x".join(map(str, held[name])) for name in ("patch", "image_size") if held[name]}
        held["differs"] = "; ".join(row.differs)
        table.writerow([held.get(name) for name in COLUMNS])
    return text.getvalue()


def render(board: Board, attempts: Attempts | None = None) -> str:
    """Return the page as text."""
    measured = [row for row in board.rows if not row.failed]
    main = [row for row in measured if not row.differs]
    failed = [row for row in board.rows if row.failed]
    return shell.render(
        "zoo.html.j2",
        board=board,
        several=count(len(board.rows), "model"),
        sentence=sentence(board),
        main=[_row(row) for row in main],
        others=[_row(row) for row in measured if row.differs],
        failed=failed,
        protocol=said(board.protocol) if board.protocol else "",
        notes=_notes(measured),
        published=[_published(row) for row in board.published],
        sources=_sources(board.published),
        undrawn=[] if attempts is None else attempts.failed,
        data=payload.empty_block(),
    )


def sentence(board: Board) -> str:
    """Say how many models show artifacts, and which has most."""
    inside = [row for row in board.rows if not row.failed and not row.differs]
    found = [row for row in inside if row.kind != "none"]
    failed = sum(bool(row.failed) for row in board.rows)
    end = f" {count(failed, 'model')} failed." if failed else ""
    if not inside:
        return f"No model could be ranked.{end}"
    if not found:
        who = "The model shows" if len(inside) == 1 else f"None of {len(inside)} models shows"
        return f"{who} {'no artifacts' if len(inside) == 1 else 'artifacts'} in these images.{end}"
    first = found[0]
    most = f"{first.model} has most: {percent(first.share)} of its patches"
    level = [row for row in inside if row.rank and row.rank[0] == 1]
    shared = f"; {count(len(level) - 1, 'model')} cannot be told apart from it" if len(level) > 1 else ""
    return f"{len(found)} of {count(len(inside), 'model')} {'shows' if len(found) == 1 else 'show'} artifacts. {most}{shared}.{end}"


def _row(row: BoardRow) -> dict[str, Any]:
    patch = (
        "" if row.patch is None else str(row.patch[0]) if len(set(row.patch)) == 1 else "x".join(map(str, row.patch))
    )
    return {
        "model": row.model,
        "link": f"{row.folder}/report.html" if row.folder else "",
        "record": row.origin == "record",
        "planted": row.note.partition(":")[0].partition(" of ")[0].lower(),
        "license": row.license or "",
        "rank": words.rank(row),
        "place": row.rank[0] if row.rank else None,
        "why": row.unranked,
        "differs": row.differs,
        "disagrees": row.disagrees,
        "verdict": row.verdict,
        "strength": "" if row.kind == "none" else row.strength,
        "tone": ("open" if row.unranked else "clear") if row.kind == "none" else row.strength,
        "could": row.could,
        "share": percent(row.share) if row.kind != "none" else "none seen",
        "share_value": row.share,
        "interval": spaced(words.interval(row).strip("()")),
        "peak": number(row.ratio_peak),
        "peak_value": row.ratio_peak,
        "output": number(row.ratio_output),
        "output_value": row.ratio_output,
        "first": "–" if row.first_block is None or row.blocks is None else f"{row.first_block} of {row.blocks - 1}",
        "first_value": None if row.first_block is None or not row.blocks else row.first_block / row.blocks,
        "attention": "–" if row.attention is None else percent(row.attention),
        "attention_of": row.attention_of,
        "attention_value": row.attention,
        "registers": row.registers,
        "patch": patch,
        "patch_value": row.patch[0] if row.patch else None,
        "resolution": row.protocol.resolution if row.protocol else "",
        "params": "–" if row.parameters is None else f"{number(row.parameters / MILLION)} M",
        "params_value": row.parameters,
    }


def _notes(rows: Iterable[BoardRow]) -> list[tuple[str, list[str]]]:
    """Return each note with the models it is about."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            found.setdefault(row.note[:1].upper() + row.note[1:], []).append(row.model)
    return list(found.items())


def _published(row: PublishedRow) -> tuple[str, str]:
    if row.low is None or row.high is None:
        return row.model, f"“{row.says}”"
    return row.model, f"{short(100 * row.low)} to {short(100 * row.high)} %"


def _sources(rows: Sequence[PublishedRow]) -> Iterable[tuple[str, str]]:
    return dict.fromkeys((row.source, row.protocol) for row in rows)
