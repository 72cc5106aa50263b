"""The words of a chart that are the same for every scan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class About:
    """What a chart is called, and what its marks mean.

    Args:
        paper: the figure of the paper that shows the same; empty if there is none.
        legend: (class of the mark in `report.css`, words).
    """

    title: str
    paper: str = ""
    legend: tuple[tuple[str, str], ...] = ()
