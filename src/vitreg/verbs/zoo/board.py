"""From scans to rows of a board: the numbers of each, and ranks where the protocol is equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vitreg.analysis.intervals import share_of_outliers
from vitreg.quantities import percent, short
from vitreg.records import ScanResult, VerdictRecord, reading_block
from vitreg.records.zoo import BoardRow, Protocol
from vitreg.report import words

PARTS = {
    "images": "images", "resolution": "resolution", "fit": "fit", "precision": "precision", "detector": "detector",
    "vitreg": "version of vitreg",
}  # fmt: skip
"""Parts of a protocol, and their names for people."""
PLANTED = "PLANTED: the artifacts were written into the weights; nothing was trained"
CLEAN = "clean twin of the planted models: the same weights with nothing planted"


def protocol_of(result: ScanResult, *, by_patches: bool) -> Protocol:
    """Return the protocol of a scan.

    Args:
        by_patches: whether models that see as many patches have the same resolution, whatever the size of a patch.
    """
    model, grid = result.model, "x".join(map(str, result.model.grid))
    size = "x".join(map(str, model.image_size))
    return Protocol(
        images=result.images.sha256,
        seen=result.images.seen,
        resolution=f"{grid} patches" if by_patches else f"{size} pixels in {grid} patches",
        fit=str(result.settings.get("fit", "")),
        precision=result.provenance.precision,
        detector=str(result.settings.get("detector", "")),
        vitreg=result.provenance.vitreg,
    )


def row_of(result: ScanResult, *, by_patches: bool = False, **about: object) -> BoardRow:
    """Return the numbers of a scan as a row without a rank.

    Args:
        about: further fields of the row.
    """
    verdict, model = result.verdict, result.model
    low, high = _interval(result)
    attention, of = _attention(result)
    last = result.layers[-1] if result.layers else None
    peak = next((layer for layer in result.layers if layer.index == verdict.peak_layer), None)
    note = "" if not model.spec.startswith("planted:") else CLEAN if model.spec.startswith("planted:clean") else PLANTED
    held = {
        "model": model.spec, "note": note, "protocol": protocol_of(result, by_patches=by_patches),
        "verdict": words.kind(verdict), "kind": verdict.kind, "strength": verdict.strength,
        "share": verdict.outlier_fraction, "low": low, "high": high,
        "ratio_peak": peak.ratio if peak else None,
        "ratio_output": last.followed.ratio if last and last.followed else None,
        "first_block": verdict.first_layer, "peak_block": verdict.peak_layer, "blocks": model.blocks,
        "attention": attention, "attention_of": of,
        "registers": model.tokens.get("registers", 0), "patch": model.patch, "image_size": model.image_size,
        "parameters": model.parameters, "weights_sha256": model.weights_sha256,
        "could": could_have_shown(verdict), "unranked": _unrankable(verdict),
    }  # fmt: skip
    return BoardRow.model_validate({"origin": "record", **held, **about})


def could_have_shown(verdict: VerdictRecord) -> str:
    """Say which outliers these images would have shown, for a verdict "none"; empty for any other."""
    if verdict.kind != "none":
        return ""
    if verdict.power is None:
        return "" if verdict.undecided else "The record does not say what its images could have shown."
    found = []
    for side, edges in (("above", verdict.power.detectable), ("below", verdict.power.below)):
        shares: dict[float, float] = {}  # a stronger effect is found wherever a weaker one is
        for each in edges:
            if each.share is not None:
                shares.setdefault(each.share, each.ratio)
        if shares:
            listed = ", ".join(f"{percent(share)} at {short(ratio)} times" for share, ratio in shares.items())
            found.append(f"{side} the median {listed}")
        elif edges:
            found.append(f"{side} the median nothing")
    return f"These images would have shown: {'; '.join(found)}." if found else "These images could have shown nothing."


def ranked(rows: Sequence[BoardRow]) -> tuple[list[BoardRow], Protocol | None]:
    """Rank the rows of the protocol that most of them share, and name for the others which parts differ.

    Rows scanned by this command decide which protocol that is, where there are any; among equally many the first does.

    Returns:
        ranked rows by share, largest first; then unranked ones of that protocol; then the others; then those that failed.
    """
    measured = [row for row in rows if row.protocol is not None]
    own = [row for row in measured if row.origin == "scan"] or measured
    counted = Counter(_key(row) for row in own if row.protocol and row.protocol.images)
    if not counted:
        told = [row.model_copy(update={"differs": _lacking(row)}) for row in measured]
        return [*told, *(row for row in rows if row.protocol is None)], None
    main = counted.most_common(1)[0][0]
    protocol = next(row.protocol for row in own if _key(row) == main)
    inside = sorted((row for row in measured if _key(row) == main), key=lambda row: -(row.share or 0.0))
    placed = [row for row in inside if not row.unranked]
    spans = {id(row): (row.low or 0.0, row.high or 0.0) for row in placed}

    def places(row: BoardRow) -> tuple[int, int]:
        low, high = spans[id(row)]
        above = sum(other[0] > high for other in spans.values())
        below = sum(other[1] < low for other in spans.values())
        return above + 1, len(spans) - below

    assert protocol is not None
    outside = [
        row.model_copy(update={"differs": differing(row.protocol, protocol), "unranked": ""})
        for row in measured
        if _key(row) != main and row.protocol
    ]
    first = [row.model_copy(update={"rank": places(row)}) for row in placed]
    return [
        *first, *(row for row in inside if row.unranked), *outside, *(row for row in rows if row.protocol is None),
    ], protocol  # fmt: skip


def differing(one: Protocol, other: Protocol) -> list[str]:
    """Say, a sentence each, in which parts a protocol is not that of the ranked rows."""
    said = []
    for part, name in PARTS.items():
        own, theirs = getattr(one, part), getattr(other, part)
        if part == "images" and own is None:
            said.append("the record does not say which images it saw")
        elif part == "images" and own != theirs:
            said.append(f"other images ({one.seen}, not these {other.seen})")
        elif own != theirs:
            said.append(f"{name} {own}, not {theirs}")
    return said


def _key(row: BoardRow) -> tuple[object, ...]:
    return tuple(getattr(row.protocol, part) for part in PARTS)


def _lacking(row: BoardRow) -> list[str]:
    return ["the record does not say which images it saw"] if row.protocol and row.protocol.images is None else []


def _unrankable(verdict: VerdictRecord) -> str:
    """Say why a row has no rank: a share of 0 counts as one only if the images would have shown more."""
    if verdict.kind != "none":
        return ""
    if verdict.undecided:
        return "Artifacts are neither established nor excluded."
    if verdict.power is None or not verdict.power.excludes("mild"):
        return "None were seen, but these images do not exclude mild artifacts."
    return ""


def _interval(result: ScanResult) -> tuple[float, float] | tuple[None, None]:
    """Return the interval of the share: over images, or for "none" from 0 to what mild outliers could not have exceeded."""
    verdict = result.verdict
    if verdict.kind == "none":
        if _unrankable(verdict) or verdict.power is None:
            return None, None
        sides = [side[0].share for side in (verdict.power.detectable, verdict.power.below) if side]
        return 0.0, max(share for share in sides if share is not None)
    return share_of_outliers(result.per_image, verdict.outlier_fraction)


def _attention(result: ScanResult) -> tuple[float | None, str]:
    """Return the share of attention that outliers take in the block that reads them most, and of which tokens."""
    block = reading_block(result.layers)
    layer = next((each for each in result.layers if each.index + 1 == block), None)
    if layer is None:
        return None, ""
    for value, of in ((layer.cls_attention, "CLS"), (layer.received_share, "all tokens")):
        if value is not None:
            return value, of
    return None, ""
