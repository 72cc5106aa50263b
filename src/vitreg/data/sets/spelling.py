"""How sets of a year are written: voc2007:ROOT and voc2012:ROOT, in every verb. Older spellings go on working. No torch here."""

from __future__ import annotations

_OLD = {"voc07": "voc2007", "voc12": "voc2012"}


def spelled(data: str, *, voc: str | None = None) -> str:
    """Write NAME:ROOT as it is written today; anything else stays as it is.

    Args:
        voc: the set that "voc" without a year means; none if None.
    """
    name, colon, root = data.partition(":")
    old = _OLD if voc is None else {**_OLD, "voc": voc}
    return f"{old[name]}:{root}" if colon and name in old else data


def meant(task: str, data: str) -> str:
    """Write the data of a task of `eval` as they are written today: "voc" alone is 2012 for masks and 2007 for classes."""
    return spelled(data, voc="voc2012" if task == "segmentation" else "voc2007")
