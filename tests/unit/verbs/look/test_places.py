"""Places on a photo in words."""

import numpy as np
import pytest

from vitreg.verbs.look.places import place_of


@pytest.mark.parametrize(
    ("patches", "words"),
    [
        ([], ""),
        ([(0, 0)], "in the upper left corner"),
        ([(10, 1), (11, 2), (9, 0), (0, 11)], "in the lower left corner"),
        ([(5, 5), (6, 6)], "in the centre"),
        ([(5, 0), (6, 1)], "at the left"),
        ([(0, 5), (1, 6)], "at the top"),
        ([(0, 3), (11, 7), (4, 0), (6, 11)], "along the edge of the photo"),
        ([(1, 1), (2, 5), (1, 10)], "in the upper third"),
        ([(1, 10), (5, 9), (10, 10)], "in the right third"),
        ([(1, 1), (5, 5), (10, 10), (2, 9)], "spread over the photo"),
    ],
)
def test_the_smallest_part_that_holds_most_is_named(patches, words):
    mask = np.zeros((12, 12), bool)
    for place in patches:
        mask[place] = True
    assert place_of(mask) == words
