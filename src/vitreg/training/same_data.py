"""Records of a run's data and base weights, so that a resumed run uses the same samples in the same order.

A sample's position in a run depends on its index in the set, and a head's outputs on class numbers: other data would
silently change both.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitreg.data.sets.example import TrainingSet, some
from vitreg.errors import UserError

MOST_NAMES = 1_000_000  # hashed at most; of larger sets every k-th


def samples_record(data: TrainingSet) -> dict[str, Any]:
    """Return the entry of the training samples in config.json.

    Call it right after opening the set: names in shards change once these are fetched.

    Returns:
        {"samples": how many, "names": hash of their names in order}. Names are relative to the common folder, so the
        hash survives moving the data.
    """
    hashed = hashlib.sha256()
    shared = len(_shared_folder(data))
    for name in _names(data):
        hashed.update(name[shared:].encode("utf-8", "surrogatepass") + b"\0")
    return {"samples": len(data), "names": hashed.hexdigest()[:16]}


def check_same_data(record: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> str | None:
    """Make sure that a run is resumed on the data it began with.

    Args:
        record: config.json of the run.
        now: the current entries: "data" and, if any, "classes".
        folder: of the run.
    Returns:
        a sentence if the run, of an earlier version, has no record of its data.
    Raises:
        UserError: if classes, number or order of the samples differ.
    """
    data, then = now["data"], record.get("data")
    before, after = record.get("classes"), now.get("classes")
    wrong = None
    if before != after:
        wrong = _other_classes(before or [], after or [])
    elif then is None:
        return (
            f"the run in {folder} was begun by a version that did not write down what its samples were; "
            "taking these for the same."
        )
    elif then["samples"] != data["samples"]:
        wrong = f"began with {then['samples']} training samples, and these are {data['samples']}"
    elif then["names"] != data["names"]:
        wrong = f"began with {data['samples']} other training samples, or had them in another order"
    if wrong is not None:
        raise UserError(f"the run in {folder} {wrong}; {remedy(folder)}.")
    return None


def check_same_base(record: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Make sure that a run which trains a model of another library is resumed with the weights it began with.

    Args:
        record: config.json of the run.
        now: the current entries.
    Raises:
        UserError: if the base has other weights: untrained tensors come from it.
    """
    before, after = (held["model"].get("base_sha256") for held in (record, now))
    if before != after:
        raise UserError(
            f"the run in {folder} began with other weights of {now['model'].get('base')}; name those by --model.base-weights."
        )


def remedy(folder: Path) -> str:
    """Return advice for a run that cannot be resumed on the given data."""
    start = shlex.quote(f"run:{folder}")
    return f"name the data it began with (--data.root), or start a new run with --run.start-from {start}"


def _other_classes(before: list[str], after: list[str]) -> str:
    if len(before) != len(after):
        names = f" ({some(after, most=3)})" if after else ""
        return f"began with {len(before)} classes, and these data have {len(after)}{names}"
    number = next(i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new)
    return f"began with other classes: number {number} was {before[number]!r} and is {after[number]!r} in these data"


def _names(data: TrainingSet) -> Iterator[str]:
    step = -(-len(data) // MOST_NAMES)
    return (data.name(index) for index in range(0, len(data), step))


def _shared_folder(data: TrainingSet) -> str:
    """The longest common folder of all names, with its slash: that of the alphabetically first and last."""
    low = high = data.name(0)
    for name in _names(data):
        low, high = min(low, name), max(high, name)
    alike = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[: low.rfind("/", 0, alike) + 1]
