"""Our detectors keep what `check_detector` asks, and detectors with a planted fault are caught."""

from dataclasses import replace

import pytest

from vitreg.analysis.outliers import beyond, detector, mad
from vitreg.testing import check_detector


@pytest.mark.parametrize("name", ["mixture", "mad", "mad:6", "ratio", "ratio:4"])
def test_ours_pass(name):
    said = check_detector(detector(name))
    assert said["planted"].found


def test_a_cutoff_passes_but_for_scale():
    check_detector(detector("absolute:80"), relative=False)
    with pytest.raises(AssertionError, match="times the size"):
        check_detector(detector("absolute:80"))


def flipped(histogram, side):
    return mad(histogram, "low")


def blind(histogram, side):
    return replace(mad(histogram, side), found=False)


def credulous(histogram, side):
    return replace(mad(histogram, side), found=True)


def off(histogram, side):
    found = mad(histogram, side)
    return found if found.threshold is None else replace(found, threshold=found.threshold * 1.1)


def everything(histogram, side):
    return beyond(histogram, side, 1e-3)


@pytest.mark.parametrize(
    ("faulty", "promise"),
    [
        (flipped, "asked for the high side"),
        (blind, "are not found"),
        (credulous, "found in one mode|found without"),
        (off, "lie beyond the threshold"),
        (everything, "are not found|the share is"),
        (lambda *_: None, "instead of a Detection"),
    ],
)
def test_a_planted_fault_is_caught(faulty, promise):
    with pytest.raises(AssertionError, match=promise):
        check_detector(faulty)
