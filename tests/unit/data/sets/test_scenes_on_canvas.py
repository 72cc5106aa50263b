"""Scenes on a canvas: the scene stands in it as it was, what is true of it moves along, and the rest holds nothing."""

import numpy as np
import pytest

from vitreg import UserError
from vitreg.data.sets.synthetic.naming import named
from vitreg.data.sets.synthetic.scenes import Scenes


@pytest.mark.parametrize("canvas", ["letterbox", "flat", "blurred"])
def test_a_scene_moves_as_a_whole_onto_its_canvas(canvas):
    plain, framed = (Scenes(named(f"synthetic:scenes@3:4{words}"), "train") for words in ("", f",canvas={canvas}"))
    for number in range(3):
        one, two = plain[number], framed[number]
        height, width = one.instances.shape
        top, left = (side // 2 for side in np.subtract(two.instances.shape, one.instances.shape))
        inside = np.zeros(two.instances.shape, bool)
        inside[top : top + height, left : left + width] = True
        assert (left == 0) == (canvas == "letterbox")
        assert 0.35 < 1 - inside.mean() < 0.6
        for name in ("instances", "depth", "classes"):
            np.testing.assert_array_equal(getattr(two, name)[inside].reshape(height, width), getattr(one, name))
        pixels = np.asarray(two.image)
        np.testing.assert_array_equal(pixels[inside].reshape(height, width, 3), np.asarray(one.image))
        assert not two.instances[~inside].any()
        assert (two.depth[~inside] == 9).all()
        assert (two.label, two.caption) == (one.label, one.caption)
        for x0, y0, x1, y1 in two.boxes:
            assert two.instances[y0:y1, x0:x1].any()
        spread = pixels[~inside].astype(float).std(0).max()
        assert (spread == 0) == (canvas != "blurred")
        if canvas == "blurred":  # no two neighbours differ as those of the scene do
            steps = np.abs(np.diff(pixels.astype(int), axis=1)).max(-1)
            assert steps[: top - 1].max() < np.abs(np.diff(np.asarray(one.image).astype(int), axis=1)).max() / 2
    assert framed.name(1) == f"synthetic:scenes@3,canvas={canvas}:train-00001"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("canvas=leterbox", "no canvas 'leterbox' in synthetic:scenes. Did you mean 'letterbox'"),
        ("canvas=", "no canvas ''"),
    ],
)
def test_an_unknown_canvas_is_one_sentence(text, said):
    with pytest.raises(UserError) as error:
        named(f"synthetic:scenes,{text}")
    assert said in error.value.sentence
