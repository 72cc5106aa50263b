"""What a look says of one model: one sentence."""

from __future__ import annotations

from vitreg.analysis.verdict.decide import GONE
from vitreg.quantities import percent, short
from vitreg.records import LayerRecord, VerdictRecord

CAUTION = "One photo establishes nothing: vitreg scan measures a model on many."


def sentence_of(verdict: VerdictRecord, layers: list[LayerRecord], marked: int, patches: int, place: str) -> str:
    """Say whether there is a second group of patch norms: how many patches, how large, where, from which block.

    Args:
        marked: patches of the group after its peak block.
        patches: of the photo.
        place: where they lie, see `place_of`.
    """
    if verdict.first_layer is None or verdict.peak_layer is None or verdict.ratio is None:
        return f"none of the {len(layers)} blocks shows a second group of patch norms."
    low = layers[verdict.peak_layer].side == "low"
    size = f"{short(1 / verdict.ratio if low else verdict.ratio, 2)} times"
    last = "" if layers[-1].outlier_fraction > 0 else f"; {_at_the_end(layers[-1], low=low)}"
    after = f"after block {verdict.first_layer}"
    if verdict.peak_layer == verdict.first_layer:
        blocks = f"{after} of 0 to {len(layers) - 1}, where it is clearest"
    else:
        blocks = f"{after} and is clearest after block {verdict.peak_layer} of 0 to {len(layers) - 1}"
    return (
        f"{percent(verdict.outlier_fraction)} of the patch tokens ({marked:,} of {patches:,}) form a second group with {size} "
        f"the norm of the others, {place}; it appears {blocks}{last}."
    )


def _at_the_end(last: LayerRecord, *, low: bool) -> str:
    """Say what the patches of the group are after the last block, which shows no group of its own."""
    if last.followed is None:
        return "after the last block these patches are gone"
    ratio = last.followed.ratio
    if ratio < GONE:
        return "the last block no longer shows it"
    size = short(1 / ratio if low else ratio, 2)
    return f"after the last block the same patches have {size} times the norm of the others, and form no group of their own"
