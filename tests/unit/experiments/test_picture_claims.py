"""Claims about pictures on numbers that are known: each can hold, fail, and be untestable."""

import numpy as np
import pytest
from PIL import Image

from vitreg.experiments.maps.objects import _inside
from vitreg.experiments.maps.seen import representative, spread
from vitreg.experiments.pictures import fig01, fig02, fig09, fig13, fig14, fig15, fig16
from vitreg.records.reproduction import Measured

MODEL = {
    "outliers": 1.0,
    "could_see": 0.0,
    "cls": 1.0,
    "attention": 1.0,
    "registers": 0.0,
    "width": 384.0,
    "blocks": 12.0,
}
CLEAN = {"outliers": 0.0, "could_see": 1.0, "sees_mild": 0.001}


def around(mean, count=30):
    """Values of that mean that differ a little."""
    return list(mean * (1 + 0.05 * np.linspace(-1, 1, count)))


def outcomes(experiment, *measured):
    return [(claim.id, claim.subject, claim.outcome) for claim in experiment.EXPERIMENT.claims(measured)]


def one(experiment, series, claim=0, **numbers):
    return outcomes(experiment, Measured(subject="a", numbers={**MODEL, **numbers}, series=series))[claim][2]


WITH_OUTLIERS = [(fig02, "times", 10.0, 1.5), (fig13, "marked", 0.9, 0.7), (fig15, "marked", 0.9, 0.7)]


@pytest.mark.parametrize(("experiment", "name", "like_the_paper", "otherwise"), WITH_OUTLIERS)
def test_claims_about_outliers(experiment, name, like_the_paper, otherwise):
    more = {"share": 0.3}
    assert one(experiment, {name: around(like_the_paper)}, **more) == "held"
    assert one(experiment, {name: around(otherwise)}, **more) == "not held"
    assert one(experiment, {name: [like_the_paper] * 4 + [-1.0] * 90}, **more) == "not testable here"  # four images
    assert one(experiment, {name: []}, **more, **CLEAN) == "not held"
    assert one(experiment, {name: []}, **more, outliers=0.0) == "not testable here"
    assert one(experiment, {name: around(like_the_paper)}, **more, registers=4.0) == "not testable here"


TWINS = [(fig13, "roughness", 1), (fig14, "on_peaks", 0), (fig15, "roughness", 1)]


@pytest.mark.parametrize(("experiment", "name", "claim"), TWINS)
def test_claims_about_twins_compare_the_same_images(experiment, name, claim):
    def pair(theirs, ours, twin=None, **numbers):
        first = Measured(subject="without", numbers={**MODEL, **(twin or {})}, series={name: theirs, "marked": []})
        with_some = {**MODEL, "registers": 4.0, **numbers}
        second = Measured(subject="with", numbers=with_some, series={name: ours, "marked": []})
        return outcomes(experiment, first, second)[2 * claim + 1][2]

    assert pair(around(0.6), around(0.3)) == "held"
    assert pair(around(0.3), around(0.6)) == "not held"
    assert pair(around(0.3), around(0.3)) == "not held"
    assert pair(around(0.849), around(0.8486)) == "not held"  # smaller on every image, by what is nothing
    assert pair(around(0.3), around(0.3), **CLEAN) == "not held"
    assert pair(around(0.6), around(0.3), twin=CLEAN) == "not testable here"  # it had nothing to be cured of
    assert pair(around(0.6), around(0.3, 20)) == "not testable here"  # other images
    assert pair(around(0.6), around(0.3), width=768.0) == "not testable here"
    rough = np.random.default_rng(0).uniform(0.1, 0.9, 30)
    assert pair(list(rough), list(rough - 0.02)) == "held"  # images differ far more than the two models on each


def test_attention_that_can_be_read():
    assert one(fig01, {"on_peaks": around(0.02)}, registers=4.0) == "not testable here"  # who says that it had any
    assert one(fig01, {"on_peaks": around(0.2)}, registers=4.0) == "not held"
    peaky, even = (
        Measured(subject="without", numbers=MODEL, series={"on_peaks": around(each)}) for each in (0.2, 0.01)
    )
    with_some = Measured(subject="with", numbers={**MODEL, "registers": 4.0}, series={"on_peaks": around(0.02)})
    assert outcomes(fig01, peaky, with_some)[1] == ("readable", "with", "held")
    assert outcomes(fig01, even, with_some)[1] == ("readable", "with", "not testable here")
    assert one(fig01, {"on_peaks": around(0.02)}) == "not testable here"
    claims = [
        fig01.EXPERIMENT.claims(
            [Measured(subject="a", numbers={**MODEL, "registers": 4.0, "attention": 0.0, "cls": cls})]
        )[0]
        for cls in (0.0, 1.0)
    ]
    assert [claim.reason for claim in claims] == ["It has no class token.", "Its attention cannot be read."]


def test_peaks_that_are_norm_outliers():
    many = {"peaks": 100.0, "with_peaks": 50.0, "outlier_patches": 90.0, "patches": 9800.0}
    assert one(fig16, {}, **many, peaks_outliers=90.0) == "held"
    assert one(fig16, {}, **many, peaks_outliers=20.0) == "not held"
    assert one(fig16, {}, **many, peaks_outliers=50.0) == "not testable here"
    assert one(fig16, {}, **{**many, "peaks": 0.0, "with_peaks": 0.0}, peaks_outliers=0.0) == "not testable here"
    assert one(fig16, {}, **{**many, "with_peaks": 3.0}, peaks_outliers=100.0) == "not testable here"
    assert one(fig16, {}, **{**many, **CLEAN}, peaks_outliers=0.0) == "not held"


def test_registers_that_differ_and_attend_to_objects():
    like_the_paper = {
        "apart": around(0.5), "from_class_token": around(0.4), "on_objects": around(0.6), "objects_area": around(0.3),
    }  # fmt: skip
    identical = {**like_the_paper, "apart": [0.0] * 30}
    everywhere = {**like_the_paper, "on_objects": around(0.31)}
    assert [one(fig09, like_the_paper, claim, registers=4.0) for claim in range(3)] == ["held"] * 3
    assert one(fig09, identical, 0, registers=4.0) == "not held"
    assert one(fig09, everywhere, 2, registers=4.0) == "not held"
    assert one(fig09, {"from_class_token": around(0.4)}, 0, registers=1.0) == "not testable here"
    assert one(fig09, {"apart": around(0.4)}, 1, registers=4.0) == "not testable here"  # no class token
    assert one(fig09, {}, 0, registers=4.0) == "not testable here"
    alone = {"on_objects": around(0.5), "objects_area": [0.2] * 30}  # a single register, and no class token
    assert [one(fig09, alone, claim, registers=1.0, registers_read=1.0) for claim in range(3)] == [
        "not testable here"
    ] * 2 + ["held"]


def test_why_nothing_is_said_of_objects():
    for boxes, word in ((0.0, "name a set with --boxes"), (1.0, "the note above says why")):
        numbers = {**MODEL, "registers": 4.0, "boxes": boxes}
        found = Measured(subject="a", numbers=numbers, series={"apart": around(0.5), "from_class_token": around(0.5)})
        assert word in fig09.EXPERIMENT.claims([found])[2].reason


def test_a_register_is_chosen_on_other_images_than_it_is_judged_on():
    """Of many registers that look anywhere, the best of an image looks at objects; the best of other images does not."""
    share = np.random.default_rng(0).random((400, 16))
    assert share.max(1).mean() > 0.9
    assert fig09._chosen_blind(share).mean() == pytest.approx(0.5, abs=0.05)
    share[:, 5] += 1
    assert fig09._chosen_blind(share) == pytest.approx(share[:, 5])


def test_how_far_two_maps_lie_apart():
    first, second = np.zeros((2, 1, 2, 2))
    first[0, 0, 0], second[0, 1, 1] = 3.0, 0.2
    assert fig09._moved(fig09._whole(first), fig09._whole(second)) == pytest.approx([1.0])
    assert fig09._moved(fig09._whole(first), fig09._whole(7 * first)) == pytest.approx([0.0])


def test_which_patches_a_box_holds():
    mask = np.zeros((32, 48, 3), dtype=np.uint8)
    mask[:16, 24:] = 255
    assert _inside(mask, (2, 3)) == pytest.approx(np.array([[0, 0.5, 1], [0, 0, 0]]))


def test_boxes_are_drawn_half_open_and_pass_with_their_picture():
    from vitreg.experiments.maps.objects import pictures_with_boxes

    pictures, masks = pictures_with_boxes("synthetic:scenes@0:60", 3)
    assert len(pictures) == len(masks) == 3
    from vitreg.data.boxes.named import named_set

    boxes = named_set("synthetic:scenes@0:60").boxes
    from vitreg.data import ImageSource

    for mask, picture, item in zip(masks, pictures, ImageSource(["synthetic:scenes@0:60"]).walk(), strict=False):
        assert mask.size == picture.size
        (box,) = boxes.find(item.name).boxes[:1]
        white = np.asarray(mask)[..., 0] == 255
        x0, y0, x1, y1 = (round(float(side)) for side in box)
        assert white[y0:y1, x0:x1].all()
        if len(boxes.find(item.name).boxes) == 1:
            assert white.sum() == (y1 - y0) * (x1 - x0)
    assert isinstance(pictures[0], Image.Image)


def test_shown_photographs_are_spread_and_no_crops():
    names = [f"a/{each}.png" for each in ("cat", "cat-left", "cat-right", "dog", "dog-left", "z")]
    assert representative(names) == [0, 3, 5]
    assert len(representative([f"{n}.jpg" for n in range(100)])) == 8
    assert spread(3, 8) == [0, 1, 2]
