"""What classes are called in sentences."""

import pytest

from vitreg.errors import UserError
from vitreg.passes.clip.class_names import words_for


def test_folders_become_words():
    words, _ = words_for(["001.Black_footed_Albatross", "apple_pie", "apartment_building/outdoor", "747-400", "T. rex"])
    assert words == ["Black footed Albatross", "apple pie", "apartment building outdoor", "747-400", "T. rex"]


def test_wordnet_ids_have_the_names_of_imagenet():
    pytest.importorskip("open_clip")
    words, origin = words_for(["n01440764", "n02979186", "n03888257"])  # of imagenette
    assert words == ["tench", "cassette player", "parachute"]
    assert "ImageNet" in origin
    with pytest.raises(UserError, match=r"'n99999999' are no classes of ImageNet-1k.*names"):
        words_for(["n01440764", "n99999999"])


def test_a_file_names_classes_in_order_or_by_class(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("a fish\n\na bird\n")
    assert words_for(["n01440764", "x"], file)[0] == ["a fish", "a bird"]
    file.write_text("x\ta bird\nn01440764\ta fish\n")
    assert words_for(["n01440764", "x"], file)[0] == ["a fish", "a bird"]
    with pytest.raises(UserError, match="does not name 'y'"):
        words_for(["x", "y"], file)
    file.write_text("one\n")
    with pytest.raises(UserError, match="1 lines for 2 classes"):
        words_for(["x", "y"], file)
    with pytest.raises(UserError, match="cannot read"):
        words_for(["x", "y"], tmp_path / "none.txt")
