"""Sets of a year have one spelling; older ones mean what they meant."""

import pytest

from vitreg.data.sets.spelling import meant, spelled


@pytest.mark.parametrize(
    ("task", "old", "today"),
    [
        ("segmentation", "voc:VOCdevkit/VOC2012", "voc2012:VOCdevkit/VOC2012"),
        ("linear", "voc:data", "voc2007:data"),
        ("linear", "voc07:data", "voc2007:data"),
        ("segmentation", "voc12:data", "voc2012:data"),
        ("linear", "voc2007:data", "voc2007:data"),
        ("knn", "cifar10:data", "cifar10:data"),
        ("knn", "voc", "voc"),  # a folder of that name
    ],
)
def test_an_older_spelling_means_what_it_meant(task, old, today):
    assert meant(task, old) == today


def test_voc_without_a_year_is_no_set_where_nobody_called_one_so():
    assert spelled("voc:data") == "voc:data"
