"""Synthetic scenes: the same in every process, what is said of a picture is true of it, and verbs read them like files."""

import hashlib
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from vitreg.data.boxes.named import is_named, named_set
from vitreg.data.sets.datasets import open_training_set
from vitreg.data.sets.pairs import open_depths, open_masks
from vitreg.data.sets.settings import DataConfig
from vitreg.data.sets.sides import open_sides, open_test
from vitreg.data.sets.synthetic import backgrounds
from vitreg.data.sets.synthetic.naming import Synthetic, named
from vitreg.data.sets.synthetic.scene import CLASSES, draw_scene, labels_of
from vitreg.data.sets.synthetic.shapes import COLOURS, TEXTURES
from vitreg.data.sources.images import ImageSource
from vitreg.errors import UserError
from vitreg.features.key import hash_of_data
from vitreg.passes.ahead import refuse_absent_data, refuse_absent_inputs

DIGEST = """
import hashlib, sys
from vitreg.data.sets.synthetic.scene import draw_scene
kept = hashlib.sha256()
for number in map(int, sys.argv[1:]):
    scene = draw_scene(7, number)
    for part in (scene.image.tobytes(), scene.instances.tobytes(), scene.depth.tobytes(), scene.caption.encode()):
        kept.update(part)
print(kept.hexdigest())
"""
NUMBERS = (*range(6), 41, 1 << 31)
SCENES = [draw_scene(3, number) for number in range(48)]


@pytest.fixture(params=["photographs", "textures"])
def behind(request, monkeypatch):
    if request.param == "textures":
        monkeypatch.setattr(backgrounds, "photographs", lambda: ())
    return request.param


def test_another_process_draws_the_same_bytes_in_any_order():
    words = [sys.executable, "-c", DIGEST]
    found = subprocess.run([*words, *map(str, NUMBERS)], check=True, capture_output=True, text=True).stdout.strip()
    drawn = {number: draw_scene(7, number) for number in reversed(NUMBERS)}  # also after others
    kept = hashlib.sha256()
    for scene in (drawn[number] for number in NUMBERS):
        for part in (scene.image.tobytes(), scene.instances.tobytes(), scene.depth.tobytes(), scene.caption.encode()):
            kept.update(part)
    assert kept.hexdigest() == found


def test_neither_their_number_nor_the_side_changes_what_a_scene_is():
    few, many = (ImageSource([f"synthetic:scenes@7:{count}"]) for count in (3, 5000))
    assert (len(few), len(many)) == (3, 5000)
    assert few[2].name == many[2].name
    assert few[2].open().tobytes() == many[2].open().tobytes()
    sides = open_sides("synthetic:scenes@7:20")
    assert (len(sides.train), len(sides.test)) == (20, 5)
    pixels = {side.read(i).image.tobytes() for side in (sides.train, sides.test) for i in range(5)}
    assert len(pixels) == 10
    assert draw_scene(7, 2).image.tobytes() != draw_scene(8, 2).image.tobytes()


def test_a_million_scenes_are_a_list_of_nothing():
    source = ImageSource(["synthetic:scenes:1000000"])
    assert source[999_999].open().size
    with pytest.raises(IndexError):
        source[1_000_000]
    assert [item.index for item in ImageSource(["synthetic:scenes:9"]).walk(1, 4)] == [1, 5]
    data = open_training_set(DataConfig(root="synthetic:scenes:1000000"), "train", captions=False)
    assert len(pickle.dumps(data)) < 9_000_000  # the classes


def test_sizes_differ_and_all_classes_and_looks_appear():
    assert len({scene.image.size for scene in SCENES}) > 10
    assert {len(scene.boxes) for scene in SCENES} == {1, 2, 3}
    words = {word for scene in SCENES for word in scene.caption.split()}
    assert words >= {*COLOURS, *TEXTURES}
    labels = labels_of(3, np.arange(8000))
    assert (labels.reshape(-1, 8).argsort(axis=1).argsort(axis=1) >= 0).all()
    assert {tuple(sorted(group)) for group in labels.reshape(-1, 8).tolist()} == {tuple(range(8))}
    assert np.abs(np.bincount(labels[::8], minlength=8) - 125).max() < 60  # every eighth image is of any class
    assert [scene.label for scene in SCENES] == labels[:48].tolist()


def test_the_truth_is_that_of_the_drawing(behind):
    for scene in [draw_scene(5, number) for number in range(16)]:
        width, height = scene.image.size
        assert scene.instances.shape == scene.depth.shape == (height, width)
        assert set(np.unique(scene.instances)) == set(range(len(scene.boxes) + 1))
        for number, (x0, y0, x1, y1) in enumerate(scene.boxes, start=1):
            rows, cols = np.nonzero(scene.instances == number)
            assert (x0, y0, x1, y1) == (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
            assert len(rows) > 200
        objects = scene.instances > 0
        assert scene.depth[objects].max() < scene.depth[~objects].min()
        assert (scene.classes == np.where(objects, 1 + scene.label, 0)).all()
        count = {"a": 1, "an": 1, "two": 2, "three": 3}[scene.caption.split()[0]]
        assert count == len(scene.boxes)
        assert CLASSES[scene.label] in scene.caption


def test_the_picture_shows_what_the_caption_says():
    hues = {name: np.array(colour) / np.linalg.norm(colour) for name, colour in COLOURS.items()}
    right = 0
    for scene in SCENES:
        pixels = np.asarray(scene.image)[scene.instances > 0].astype(float)
        chroma = pixels - pixels.min(axis=1, keepdims=True)
        mean = chroma[chroma.max(axis=1) > 60].mean(axis=0)
        wanted = {name: colour - colour.min() for name, colour in hues.items()}
        near = {name: mean @ each / np.linalg.norm(each) for name, each in wanted.items()}
        right += sorted(near, key=near.__getitem__)[-1] in scene.caption
        if len(scene.boxes) == 1:
            middle = [3 * (ends.min() + ends.max()) / 2 / side for ends, side in _extents(scene)]
            for words, place in zip((("upper", "top", "lower", "bottom"), ("left", "right")), middle, strict=True):
                half = len(words) // 2
                assert any(word in scene.caption.split() for word in words[:half]) == (place < 1)
                assert any(word in scene.caption.split() for word in words[half:]) == (place > 2)
    assert right > 0.85 * len(SCENES)


def _extents(scene):
    return zip(np.nonzero(scene.instances), scene.instances.shape, strict=True)


def test_outlines_are_what_they_are_called():
    """A crescent and a ring have a hollow; a disc fills pi / 4 of its box, a square half of it or more."""
    share, centre = {}, {}
    for scene in [draw_scene(11, number) for number in range(64)]:
        for x0, y0, x1, y1 in scene.boxes:
            inside = scene.instances[y0:y1, x0:x1] > 0
            share.setdefault(CLASSES[scene.label], []).append(inside.mean())
            centre.setdefault(CLASSES[scene.label], []).append(inside[(y1 - y0) // 2, (x1 - x0) // 2])
    assert set(share) == set(CLASSES)
    assert np.allclose(share["disc"], np.pi / 4, atol=0.03)
    assert 0.48 < min(share["square"]) < max(share["square"]) <= 1
    assert not any(centre["ring"])
    assert all(centre["star"] + centre["cross"] + centre["flower"] + centre["disc"])
    assert max(share["crescent"]) < min(share["disc"])


def test_without_scikit_image_the_truth_is_the_same_and_flat_regions_remain(monkeypatch):
    before = draw_scene(3, 4)
    monkeypatch.setattr(backgrounds, "photographs", lambda: ())
    after = draw_scene(3, 4)
    assert before.image.tobytes() != after.image.tobytes()
    assert replace(before, image=None, instances=None, depth=None) == replace(
        after, image=None, instances=None, depth=None
    )
    assert (before.instances == after.instances).all()
    rough = [np.asarray(draw_scene(3, i).image.convert("L"), float) for i in range(8)]
    flat = [[p[y : y + 16, x : x + 16].std() < 3 for y in range(0, 176, 16) for x in range(0, 176, 16)] for p in rough]
    assert 0.1 < np.mean(flat) < 0.9
    assert "textures" in open_training_set(DataConfig(root="synthetic:scenes:4"), "train", captions=False).notes[0]


def test_photographs_that_cannot_be_read_are_not_needed(monkeypatch):
    def gone(name):
        raise ImportError

    monkeypatch.setattr(backgrounds, "photograph", gone)
    backgrounds.photographs.cache_clear()
    assert backgrounds.photographs() == ()
    backgrounds.photographs.cache_clear()


def test_a_name_has_a_seed_and_a_number():
    assert named("synthetic:scenes") == Synthetic("scenes", 0, 400)
    assert named("synthetic:scenes@7:500") == Synthetic("scenes", 7, 500)
    assert named("synthetic:scenes:12") == Synthetic("scenes", 0, 12)
    assert named("voc2012:data") is named("photos/") is named("") is named("a:b") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("synthetic:scens", "no synthetic set 'scens'. Did you mean 'scenes'?"),
        ("synthetic:", "no synthetic set ''. Known: retrieval, scenes."),
        ("syntetic:scenes@7", "no data 'syntetic:scenes@7'. Did you mean 'synthetic:scenes@7'?"),
        ("synthetic:scenes@x", "the seed of a synthetic set is a whole number, not 'x'"),
        ("synthetic:scenes@", "the seed of a synthetic set is a whole number, not ''"),
        ("synthetic:scenes@7:many", "the number of images of a synthetic set is a whole number, not 'many'"),
        ("synthetic:scenes:0", "'synthetic:scenes:0' asks for 0 images"),
    ],
)
def test_a_mistake_is_refused_wherever_the_name_stands(text, message):
    for reads in (
        lambda: refuse_absent_data(text),
        lambda: refuse_absent_inputs([text]),
        lambda: ImageSource([text]),
        lambda: is_named([text]),
        lambda: open_sides(text),
        lambda: open_masks(text),
    ):
        with pytest.raises(UserError) as error:
            reads()
        assert error.value.sentence.startswith(message)


def test_a_misspelt_name_is_refused_without_torch():
    code = (
        "import sys\nfrom vitreg.passes.ahead import refuse_absent_data\n"
        "try:\n refuse_absent_data('synthetic:scens')\nexcept Exception as error:\n print(error, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found == "no synthetic set 'scens'. Did you mean 'scenes'? False\n"


def test_it_is_a_set_with_classes_captions_masks_depths_and_boxes():
    text = "synthetic:scenes@5:12"
    sides = open_sides(text, limit=8)
    assert sides.train.classes == sides.test.classes == CLASSES
    assert (len(sides.train), len(sides.test)) == (8, 3)
    example = sides.test.read(1)
    assert example.target == sides.test.labels[1] == draw_scene(5, (1 << 31) + 1).label
    told, _ = open_test(text, captions=True)
    assert told.read(1).target == [draw_scene(5, (1 << 31) + 1).caption]
    assert all("synthetic" in told.name(i) for i in range(3))
    masks, depths = open_masks(text, limit=6), open_depths(text)
    assert masks.names == ("background", *CLASSES)
    assert [masks.train.name(i)[-1] for i in range(6)] == [*"024680"]  # every second of 12
    assert (masks.train.map(1) == draw_scene(5, 2).classes).all()
    assert (depths.test.map(0) == draw_scene(5, 1 << 31).depth).all()
    found = named_set(text)
    source = ImageSource(found.images)
    assert len(found.boxes) == len(source) == 12
    for item in source:
        scene, boxes = draw_scene(5, item.index), found.boxes.find(item.name)
        assert boxes.boxes.tolist() == [list(map(float, box)) for box in scene.boxes]
        assert boxes.size == scene.instances.shape
    assert found.boxes.find("photo.jpg") is None
    with pytest.raises(UserError, match="only one image"):
        open_masks(text, limit=1)


def test_what_is_kept_of_them_is_known_by_what_they_show(monkeypatch):
    text = "synthetic:scenes@5:12"
    before = hash_of_data(text), ImageSource([text]).fingerprint()
    assert before == (hash_of_data(text), ImageSource([text]).fingerprint())
    assert before[0] != hash_of_data("synthetic:scenes@6:12")
    monkeypatch.setattr(backgrounds, "photographs", lambda: ())
    after = hash_of_data(text), ImageSource([text]).fingerprint()
    assert before[0] != after[0]
    assert before[1] != after[1]
