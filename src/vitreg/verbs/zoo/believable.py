"""What a record of a scan must fulfil to be on a board: damaged and altered ones are named, and rows that contradict one another."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vitreg.analysis.intervals import mean_of_images
from vitreg.quantities import number, percent
from vitreg.records import ScanResult
from vitreg.records.zoo import BoardRow

CLOSE = 1e-3  # of a share: less is rounding


def damage(result: ScanResult, row: BoardRow) -> str:
    """Say what in a record cannot be, such as a share above 1; empty where nothing is."""
    shares = {"share of outliers": row.share, "share of attention": row.attention}
    numbers = {
        **shares,
        "lower end": row.low,
        "upper end": row.high,
        "ratio": row.ratio_peak,
        "ratio at the output": row.ratio_output,
    }
    for name, value in numbers.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            return f"its {name} is {value}"
    for name, value in shares.items():
        if value is not None and value > 1 + CLOSE:
            return f"its {name} is {percent(value)}"
    if row.share is not None and row.low is not None and row.high is not None:
        inside = row.low <= row.share * (1 + CLOSE) and row.share <= row.high * (1 + CLOSE)
        if row.high > 1 + CLOSE or not inside:
            return (
                f"its interval, {percent(row.low)} to {percent(row.high)}, is none of a share of {percent(row.share)}"
            )
    return _contradiction(result, row)


def _contradiction(result: ScanResult, row: BoardRow) -> str:
    """Compare the share with the numbers of outliers in single images, and these with the number of images."""
    counted = mean_of_images(result.per_image)
    patches = math.prod(result.model.grid)
    if counted is None or row.kind == "none" or row.share is None or not patches:
        return ""
    held = counted[0] / patches  # patches that a layout leaves out make it less than the share
    drops = result.model.tokens.get("patches", patches) < patches
    if held > row.share * (1 + CLOSE) or (not drops and held < row.share * (1 - CLOSE)):
        return f"its images hold {number(counted[0])} outliers of {patches} patches each, and not {percent(row.share)}"
    return ""


def told_apart(rows: Sequence[BoardRow]) -> list[BoardRow]:
    """Return rows, of which those of the same weights, protocol and images that differ as printed say so."""
    groups: dict[tuple[object, ...], list[BoardRow]] = {}
    for row in rows:
        if row.weights_sha256 and row.protocol is not None and row.protocol.images:
            groups.setdefault((row.weights_sha256, row.protocol), []).append(row)
    said = {}
    for group in groups.values():
        found = [(row.kind, percent(row.share), number(row.ratio_peak)) for row in group]
        if len(set(found)) > 1:
            for row, own in zip(group, found, strict=True):
                others = [other.model for other, theirs in zip(group, found, strict=True) if theirs != own]
                said[id(row)] = (
                    f"The same weights gave other numbers on these images in another record ({', '.join(others)})."
                )
    return [row.model_copy(update={"disagrees": said[id(row)]}) if id(row) in said else row for row in rows]
