"""Whose photographs the runs of a design see, and which of its blocks they are not enough for. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vitreg.data.sets.synthetic.parameters import SHIPPED
from vitreg.errors import UserError

NAMES = ("photos", "retrieval.photos")


def with_photographs(data: Mapping[str, Any], photos: str | None, where: str) -> tuple[dict[str, Any], list[str]]:
    """Return what the file of a design holds with other photographs, without the blocks whose photographs have no masks.

    Args:
        photos: a folder, or scikit-image; None keeps what the design says.
    Returns:
        the design, and a sentence for each block that is left out.
    Raises:
        UserError: if the design has no photographs, or photos is neither.
    """
    found = dict(data)
    given = data.get("base")
    base: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    key = next((name for name in NAMES if name in base), None)
    if photos is not None:
        if key is None:
            raise UserError(
                f"{where} says nothing of photographs in its base, so --photos changes nothing; leave it out."
            )
        if photos != SHIPPED and not os.path.isdir(photos):
            raise UserError(f"--photos is {SHIPPED} or a folder of photographs; there is no folder '{photos}'.")
        found["base"] = {**base, key: photos if photos == SHIPPED else os.path.abspath(photos)}
    used = str(found["base"][key]) if key else ""
    blocks = found.get("block")
    if not isinstance(blocks, list) or not any(isinstance(each, dict) and each.get("masks") for each in blocks):
        return found, []
    if used not in ("", SHIPPED) and _has_masks(used):
        return found, []
    found["block"] = [each for each in blocks if not (isinstance(each, dict) and each.get("masks"))]
    return found, [
        f"Block '{each.get('name', 'without a name')}' is left out: the photographs of {used or 'this design'} have no masks. "
        "--photos FOLDER brings it in, where FOLDER holds JPEGImages and SegmentationClass as VOC does, or images and masks."
        for each in blocks
        if isinstance(each, dict) and each.get("masks")
    ]


def _has_masks(folder: str) -> bool:
    from vitreg.data.sets.synthetic.segments import has_masks

    return has_masks(folder)
