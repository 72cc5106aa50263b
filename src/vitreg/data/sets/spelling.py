"""One spelling of sets with a year, voc2007:ROOT and voc2012:ROOT, in every verb. Older spellings still work. No torch
here."""

from __future__ import annotations

_OLD = {"voc07": "voc2007", "voc12": "voc2012"}


def spelled(data: str, *, voc: str | None = None) -> str:
    """Return NAME:ROOT in today's spelling; anything else is unchanged.

    Args:
        voc: the set that "voc" without a year means; none if None.
    """
    name, colon, root = data.partition(":")
    old = _OLD if voc is None else {**_OLD, "voc": voc}
    return f"{old[name]}:{root}" if colon and name in old else data


def meant(task: str, data: str) -> str:
    """Return the data argument of an `eval` task in today's spelling: plain "voc" is 2012 for masks and 2007 for
    classes."""
    return spelled(data, voc="voc2012" if task == "segmentation" else "voc2007")
