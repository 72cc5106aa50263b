"""A badge and a section for the model card, from the record of one scan."""

from __future__ import annotations

from pathlib import Path

from vitreg.errors import UserError
from vitreg.passes import ahead
from vitreg.passes.options import takes
from vitreg.report.zoo.badge import badge_of
from vitreg.report.zoo.card import card_of
from vitreg.verbs.compare import read_scan
from vitreg.verbs.zoo.believable import damage
from vitreg.verbs.zoo.board import row_of
from vitreg.writing.files import output_folder, write_text


@takes()
def badge(record: str | Path, *, out: str | Path) -> Path:
    """Write badge.svg, and model-card.md with the numbers, the protocol and the command of a scan.

    Args:
        record: the folder of a scan, or its result.json.
        out: folder for the two files.
    Returns:
        path of the section for the model card.
    Raises:
        UserError: for a folder without a scan, a record whose numbers cannot be, or a folder that cannot be written.
    """
    home = Path(record).expanduser()
    result = read_scan(home.parent if home.name == "result.json" else home)
    row = row_of(result)
    if wrong := damage(result, row):
        raise UserError(f"{home} is damaged: {wrong}; scan into it again.")
    folder = output_folder(Path(out))
    outputs = ahead.badge_outputs(folder, record)
    outputs.check()

    def write(place: Path) -> None:
        write_text(place / ahead.BADGE, badge_of(row))
        write_text(place / ahead.MODEL_CARD, card_of(row, result))

    outputs.publish(write)
    return folder / ahead.MODEL_CARD
