"""Looks at a run in training: its norms, attention and values at a step, and when artifacts appeared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vitreg.records.base import Histogram, Record

VerdictKind = Literal["none", "high-norm", "low-norm", "position-locked"]
TokenKind = Literal["background", "marked", "unmarked", "patch", "register", "cls"]
"""Kinds of tokens; a patch is no more than a patch where the data do not say what it is."""
Strength = Literal["none", "mild", "moderate", "strong"]


class ByToken(Record):
    """One number for each kind of tokens in one block; null where there are none, or attention cannot be read."""

    outliers: float | None = Field(default=None, description="those of the peak layer; null for a verdict none")
    background: float | None = Field(default=None, description="patches that the data call background")
    registers: float | None = None


class ByRegister(Record):
    """What each register takes and holds in one block, in their order; means over images."""

    attention: list[float | None] = Field(description="share of an average patch's attention")
    values: list[float | None] = Field(
        description="norm of the value / mean norm of all values of the head, mean over heads"
    )
    norms: list[float | None] = Field(
        description="norm after the block / median norm of the image's patches, median over images"
    )
    number: float | None = Field(
        description="effective number of registers of a head in an image: exp of the entropy of their shares; mean over both"
    )


class Attended(Record):
    """The one token of each image that takes most of an average patch's attention in one block."""

    attention: float = Field(description="its share, mean over images")
    values: float | None = Field(
        description="norm of its value / mean norm of all values of the head, mean over heads and images"
    )
    norm: float | None = Field(
        description="its norm after the block / median norm of the image's patches, median over images"
    )
    kinds: dict[TokenKind, float] = Field(description="in which share of the images it is of each kind")


class LayerMoment(Record):
    """Patch-token norms of one block's output at one step of a run, pooled over the probe images; attention in this block."""

    median: float
    p99: float
    max: float
    ratio: float | None = Field(description="median norm of outliers / of the rest; null without outliers")
    outlier_fraction: float
    image_ratio: float | None = Field(
        default=None, description="largest norm of an image / its median, median over images; null in older runs"
    )
    attention: ByToken | None = Field(
        default=None, description="share of an average patch's attention that goes to them; null in older runs"
    )
    values: ByToken | None = Field(
        default=None,
        description="norm of their values / mean norm of all values of the head, mean over heads; null in older runs",
    )
    norms: ByToken | None = Field(
        default=None,
        description="their mean norm after the block / median norm of the image's patches, median over images; null in older runs",
    )
    each_register: ByRegister | None = Field(default=None, description="null without registers, and in older runs")
    most: Attended | None = Field(
        default=None,
        description="of all patches, registers and CLS; null in older runs, and where attention cannot be read",
    )
    foreground: Attended | None = Field(
        default=None,
        description="the same of patches that are not background; null where the data do not say, and in older runs",
    )
    sinks: float | None = Field(
        default=None,
        description="share of heads, over images, in which one token takes at least 0.3 of an average patch's attention; "
        "null in older runs",
    )


class NormsMoment(Record):
    """One look at the probe images while a run trains: a small scan."""

    step: int = Field(description="optimiser steps done")
    verdict: VerdictKind
    strength: Strength
    first_layer: int | None
    peak_layer: int | None
    outlier_fraction: float = Field(description="share of the patch tokens at the peak layer")
    layers: list[LayerMoment]
    histogram: Histogram = Field(description="of the norms after the last block, logarithmic edges")
    maps: list[list[list[float]]] = Field(
        default=[],
        description="norms after each block of the first probe images [block][image][patch]; empty where not kept",
    )


class Watch(Record):
    """The norms of fixed probe images over a run (Sec. 2.1, Fig. 4b)."""

    onset: int | None = Field(description="step from which on every look shows artifacts; null if the last shows none")
    sentence: str = Field(description="when artifacts appeared, for a non-specialist")
    moments: list[NormsMoment]
