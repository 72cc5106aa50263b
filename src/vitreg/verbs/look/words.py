"""What a look says of one model: one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from vitreg.analysis.tally import OWN_FACTOR
from vitreg.analysis.verdict.decide import GONE
from vitreg.quantities import none_of, percent, short
from vitreg.records import LayerRecord, VerdictRecord

CAUTION = "One photo establishes nothing: vitreg scan measures a model on many."


def following(before: Sequence[str], sentence: str) -> str:
    """Put a sentence behind those that there are before it: then it begins with a capital."""
    said = [each for each in before if each]
    return " ".join([*said, sentence[:1].upper() + sentence[1:] if said else sentence])


def sentence_of(
    verdict: VerdictRecord, layers: list[LayerRecord], marked: int, patches: int, place: str, single: int | None = None
) -> str:
    """Say whether there is a second group of patch norms: how many patches, how large, where, from which block.

    Args:
        marked: patches of the group after its peak block.
        patches: of the photo.
        place: where they lie, see `place_of`.
        single: the block from which on single patches of the group stand out, before a group is found; None if none does.
    """
    if verdict.first_layer is None or verdict.peak_layer is None or verdict.ratio is None:
        return f"{none_of(len(layers))} shows a second group of patch norms{_farthest(layers)}."
    low = layers[verdict.peak_layer].side == "low"
    size = f"{short(1 / verdict.ratio if low else verdict.ratio, 2)} times"
    last = "" if layers[-1].outlier_fraction > 0 else f"; {_at_the_end(layers[-1], low=low, one=marked == 1)}"
    after = f"after block {verdict.first_layer}"
    if verdict.peak_layer == verdict.first_layer:
        blocks = f"{after} of 0 to {len(layers) - 1}, where it is clearest"
    else:
        blocks = f"{after} and is clearest after block {verdict.peak_layer} of 0 to {len(layers) - 1}"
    if single is not None:
        bound = f"{short(OWN_FACTOR)} times the median norm or more"
        if low:
            bound = f"{short(1 / OWN_FACTOR)} times the median norm or less"
        blocks += f"; {'it has' if marked == 1 else 'single patches of it have'} {bound} from block {single} on"
    return (
        f"{percent(verdict.outlier_fraction)} of the patch tokens ({marked:,} of {patches:,}) "
        f"{'forms' if marked == 1 else 'form'} a second group with {size} "
        f"the norm of the others, {place}; the group is first found {blocks}{last}."
    )


def _farthest(layers: list[LayerRecord]) -> str:
    """Say how far the largest and the smallest patch stand out, where they do: few patches are not always found as a group."""
    said = ""
    largest, block = max((each.max_ratio or 0.0, each.index) for each in layers)
    if largest >= OWN_FACTOR:
        said += f"; the largest norm is {short(largest, 2)} times the median, after block {block}"
    smallest, block = min((each.min / each.median if each.median else 1.0, each.index) for each in layers)
    if smallest <= 1 / OWN_FACTOR:
        said += f"; the smallest norm is {short(smallest, 2)} times the median, after block {block}"
    return said


def _at_the_end(last: LayerRecord, *, low: bool, one: bool) -> str:
    """Say what the patches of the group are after the last block, which shows no group of its own.

    Args:
        one: whether the group is one patch.
    """
    if last.followed is None:
        return f"after the last block {'this patch is' if one else 'these patches are'} gone"
    ratio = last.followed.ratio
    if ratio < GONE:
        return "the last block no longer shows it"
    size = short(1 / ratio if low else ratio, 2)
    who = "patch has" if one else "patches have"
    alone = "forms no group of its own" if one else "form no group of their own"
    return f"after the last block the same {who} {size} times the norm of the others, and {alone}"
