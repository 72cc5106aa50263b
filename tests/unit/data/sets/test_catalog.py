"""Evaluation sets by name, from tiny copies of the layouts in which their authors publish them."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image
from scipy.io import savemat

from vitreg.data.sets import catalog
from vitreg.data.sets.catalog import CATALOG
from vitreg.data.sets.official import CALTECH_TRAIN, VOC_CLASSES
from vitreg.data.sets.sides import open_sides, open_test
from vitreg.data.sources.decode import Unreadable
from vitreg.errors import UserError


def put(path: Path, level: int = 0) -> Path:
    """A small picture whose level says which one it is, unharmed by JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, level, level)).save(path)
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def level(data, index):
    return data.read(index).image.getpixel((0, 0))[0]


def aircraft(root):
    data = root / "fgvc-aircraft-2013b" / "data"
    write(data / "variants.txt", "A310\nBoeing 747-400\n")
    for side, number in (("train", 1), ("val", 2), ("test", 3)):
        write(data / f"images_variant_{side}.txt", f"000000{number} Boeing 747-400\n")
        put(data / "images" / f"000000{number}.jpg", number)


def dtd(root):
    for number, side in enumerate(("train", "val", "test"), 1):
        write(root / "dtd/dtd/labels" / f"{side}1.txt", f"banded/banded_{number}.jpg\nzigzagged/z_{number}.jpg\n")
        put(root / f"dtd/dtd/images/banded/banded_{number}.jpg", 9)
        put(root / f"dtd/dtd/images/zigzagged/z_{number}.jpg", number)


def food(root):
    for number, side in ((1, "train"), (3, "test")):
        write(root / "food-101/meta" / f"{side}.json", json.dumps({"apple_pie": [], "waffles": [f"waffles/{number}"]}))
        put(root / f"food-101/images/waffles/{number}.jpg", number)


def pets(root):
    folder = root / "oxford-iiit-pet"
    write(folder / "annotations/trainval.txt", "Abyssinian_100 1 1 1\ngreat_pyrenees_1 2 2 1\n")
    write(folder / "annotations/test.txt", "great_pyrenees_3 2 2 1\nAbyssinian_7 1 1 1\n")
    for name, number in (("Abyssinian_100", 9), ("great_pyrenees_1", 1), ("great_pyrenees_3", 3), ("Abyssinian_7", 9)):
        put(folder / "images" / f"{name}.jpg", number)


def cars(root):
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array(["AM General Hummer", "Acura RL"], object)})
    for side, file, number in (
        ("train", "devkit/cars_train_annos.mat", 1),
        ("test", "cars_test_annos_withlabels.mat", 3),
    ):
        rows = np.array([(f"{number:05d}.jpg", 2), ("00009.jpg", 1)], dtype=[("fname", object), ("class", np.uint8)])
        savemat(folder / file, {"annotations": rows})
        put(folder / f"cars_{side}" / f"{number:05d}.jpg", number)
        put(folder / f"cars_{side}" / "00009.jpg", 9)


def flowers(root):
    folder = root / "flowers-102"
    folder.mkdir(parents=True)
    savemat(folder / "imagelabels.mat", {"labels": np.array([2, 2, 2, 1])})
    savemat(folder / "setid.mat", {"trnid": np.array([1, 4]), "valid": np.array([2]), "tstid": np.array([3])})
    for number in (1, 2, 3, 4):
        put(folder / "jpg" / f"image_{number:05d}.jpg", number)


def cub(root):
    folder = root / "CUB_200_2011"
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    write(folder / "classes.txt", "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    write(folder / "images.txt", f"1 {names[1]}/b 1.jpg\n2 {names[0]}/a.jpg\n3 {names[1]}/c.jpg\n")
    write(folder / "image_class_labels.txt", "1 2\n2 1\n3 2\n")
    write(folder / "train_test_split.txt", "1 1\n2 1\n3 0\n")
    put(folder / "images" / names[1] / "b 1.jpg", 1)
    put(folder / "images" / names[0] / "a.jpg", 9)
    put(folder / "images" / names[1] / "c.jpg", 3)


def sun397(root):
    write(root / "SUN397/ClassName.txt", "/a/abbey\n/a/apartment_building/outdoor\n")
    for side, number in (("Training", 1), ("Testing", 3)):
        write(root / "Partitions" / f"{side}_01.txt", f"/a/apartment_building/outdoor/sun_{number}.jpg\n")
        put(root / f"SUN397/a/apartment_building/outdoor/sun_{number}.jpg", number)


def places205(root):
    write(root / "train_places205.csv", "a/abbey/x.jpg 0\nb/bar/outdoor/1.jpg 1\n")
    write(root / "val_places205.csv", "b/bar/outdoor/3.jpg,1\n")
    for name, number in (("a/abbey/x", 9), ("b/bar/outdoor/1", 1), ("b/bar/outdoor/3", 3)):
        put(root / "data/vision/torralba/deeplearning/images256" / f"{name}.jpg", number)


def imagenet(root):
    for side, number in (("train", 1), ("val", 3)):
        put(root / side / "n01440764" / "a.JPEG", 9)
        put(root / side / "n02102040" / "b.JPEG", number)


# Each writes two classes, an image of the second with level 1 on the training side, 2 to tune and 3 to test.
LAYOUTS = {
    "aircraft": aircraft, "dtd": dtd, "food": food, "pets": pets, "cars": cars, "flowers": flowers, "cub": cub,
    "sun397": sun397, "places205": places205, "imagenet": imagenet,
}  # fmt: skip
HELD = {"aircraft", "dtd", "flowers"}
MEAN_PER_CLASS = {"aircraft", "pets", "caltech101", "flowers"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layout_of_the_authors_is_read(name, tmp_path):
    LAYOUTS[name](tmp_path)
    sides = open_sides(f"{name}:{tmp_path}")
    expected = {"train": (sides.train, 1), "test": (sides.test, 3)} | ({"val": (sides.val, 2)} if name in HELD else {})
    assert (sides.val is not None) == (name in HELD)
    for side, (data, number) in expected.items():
        assert data is not None
        assert data.labels is not None
        found = [level(data, i) for i in range(len(data)) if data.labels[i] == 1]
        assert found == [number], side
        assert data.read(len(data) - 1).target == data.labels[-1]
        assert data.classes == sides.train.classes
    assert sides.metric == ("mean_per_class" if name in MEAN_PER_CLASS else "top1")
    assert sides.ignored is None


def test_names_of_classes_are_those_of_the_authors(tmp_path):
    for name in ("cub", "sun397", "places205", "cars", "pets"):
        LAYOUTS[name](tmp_path / name)
    names = {
        name: open_sides(f"{name}:{tmp_path / name}").train.classes
        for name in ("cub", "sun397", "places205", "cars", "pets")
    }
    assert names == {
        "cub": ("001.Black_footed_Albatross", "002.Laysan_Albatross"),
        "sun397": ("abbey", "apartment_building/outdoor"),
        "places205": ("abbey", "bar/outdoor"),
        "cars": ("AM General Hummer", "Acura RL"),
        "pets": ("Abyssinian", "Great Pyrenees"),
    }


def test_all_sets_of_table_1_have_their_customary_metric():
    assert len(CATALOG) == 14
    assert {name for name, named in CATALOG.items() if named.metric == "mean_per_class"} == MEAN_PER_CLASS
    assert [name for name, named in CATALOG.items() if named.metric == "map"] == ["voc2007"]


@pytest.mark.parametrize(
    ("name", "folder", "key"),
    [("cifar10", "cifar-10-batches-py", "labels"), ("cifar100", "cifar-100-python", "fine_labels")],
)
def test_cifar_is_read_from_its_batches(name, folder, key, tmp_path, monkeypatch):
    kind = torchvision.datasets.CIFAR10 if name == "cifar10" else torchvision.datasets.CIFAR100
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)  # of the checksums of the true files
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    (tmp_path / folder).mkdir()
    for number, (file, _) in enumerate([*kind.train_list, *kind.test_list]):
        pixels = np.full((2, 3, 32, 32), number, np.uint8)
        pixels[1, 0] = 200  # red
        content = {"data": pixels.reshape(2, -1), key: [3, number % 10]}
        (tmp_path / folder / file).write_bytes(pickle.dumps(content))
    (tmp_path / folder / kind.meta["filename"]).write_bytes(
        pickle.dumps({kind.meta["key"]: [f"class{i}" for i in range(10)]})
    )
    sides = open_sides(f"{name}:{tmp_path}")
    assert len(sides.train) == 2 * len(kind.train_list)
    assert len(sides.test) == 2
    last = len(kind.train_list)
    assert sides.test.read(1).image.getpixel((5, 7)) == (200, last, last)
    assert sides.test.labels is not None
    assert sides.test.labels.tolist() == [3, last]
    assert sides.test.read(1).target == last
    assert sides.val is None


def test_caltech_is_split_by_thirty_the_same_way_each_time(tmp_path):
    folder = tmp_path / "caltech101/101_ObjectCategories"
    for name, count in (("BACKGROUND_Google", 33), ("ant", 31), ("bee", 40)):
        for i in range(count):
            put(folder / name / f"image_{i:04d}.jpg", i)
    sides = open_sides(f"caltech101:{tmp_path}")
    assert sides.train.labels is not None
    assert sides.test.labels is not None
    assert np.bincount(sides.train.labels).tolist() == [CALTECH_TRAIN] * 3
    assert np.bincount(sides.test.labels).tolist() == [3, 1, 10]
    names = [{data.name(i) for i in range(len(data))} for data in (sides.train, sides.test)]
    assert not names[0] & names[1]
    again = open_sides(f"caltech101:{tmp_path / 'caltech101'}")
    assert {again.train.name(i) for i in range(len(again.train))} == names[0]


def voc(root, images):
    """Write VOC2007: side -> name -> objects as (class, difficult)."""
    base = root / "VOCdevkit" / "VOC2007"
    for side, own in images.items():
        write(base / "ImageSets/Main" / f"{side}.txt", "".join(f"{name}\n" for name in own))
        for name, objects in own.items():
            boxes = "".join(f"<object><name>{c}</name><difficult>{d}</difficult></object>" for c, d in objects)
            write(base / "Annotations" / f"{name}.xml", f"<annotation>{boxes}</annotation>")
            put(base / "JPEGImages" / f"{name}.jpg", int(name))


def test_voc_has_a_matrix_of_labels_and_ignores_what_is_difficult(tmp_path):
    voc(
        tmp_path,
        {
            "train": {"000001": [("dog", 0), ("person", 0), ("person", 1)], "000002": [("cat", 1)]},
            "val": {"000003": [("tvmonitor", 0)]},
            "test": {str(i).zfill(6): [("aeroplane", 0)] for i in range(10, 14)} | {"000004": [("cat", 1), ("dog", 0)]},
        },
    )
    sides = open_sides(f"voc2007:{tmp_path}")
    assert (sides.metric, sides.multilabel, sides.train.classes) == ("map", True, VOC_CLASSES)
    labels = sides.train.labels
    assert labels is not None
    assert labels.dtype == np.float32
    assert [[VOC_CLASSES[c] for c in np.flatnonzero(row)] for row in labels] == [["dog", "person"], []]
    assert sides.ignored is not None
    assert [(int(r), VOC_CLASSES[c]) for r, c in np.argwhere(sides.ignored)] == [(4, "cat")]
    assert sides.train.read(1).target is None
    assert level(sides.test, 4) == 4
    assert sides.val is not None
    assert len(sides.val) == 1
    fewer = open_sides(f"voc07:{tmp_path}", limit=2)
    assert [level(fewer.test, i) for i in range(2)] == [10, 12]
    assert fewer.test.labels is not None
    assert fewer.ignored is not None
    assert fewer.test.labels.shape == fewer.ignored.shape == (2, 20)


@pytest.mark.parametrize("name", CATALOG)
def test_what_is_missing_is_said_with_the_layout_and_who_offers_it(name, tmp_path):
    with pytest.raises(UserError) as raised:
        open_sides(f"{name}:{tmp_path / 'nothing'}")
    sentence = str(raised.value)
    assert CATALOG[name].title in sentence
    assert CATALOG[name].layout in sentence
    assert CATALOG[name].where in sentence
    assert ("or pass download" in sentence) == (CATALOG[name].fetch is not None)
    assert "\n" not in sentence


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    asked = []
    for name, named in CATALOG.items():
        replaced = catalog.Named(named.title, named.layout, named.where, named.read, named.metric, asked.append)
        monkeypatch.setitem(CATALOG, name, replaced)
        with pytest.raises(UserError):
            open_sides(f"{name}:{tmp_path}")
    assert asked == []
    with pytest.raises(UserError):  # asked, but it brought nothing
        open_sides(f"cifar10:{tmp_path}", download=True)
    assert asked == [str(tmp_path)]


def test_a_failed_download_is_one_sentence(tmp_path, monkeypatch):
    def fail(_root):
        raise OSError("no route to host")

    monkeypatch.setitem(CATALOG, "food", catalog.Named("Food-101", "", "", None, "top1", fail))
    with pytest.raises(UserError, match=r"could not be downloaded .*no route to host"):
        open_sides(f"food:{tmp_path}", download=True)


def test_class_folders_are_taken_under_any_name(tmp_path):
    for side in ("train", "test"):
        for number, name in enumerate(("ant", "bee")):
            put(tmp_path / side / name / "0.png", number)
    sides = open_sides(f"flowers:{tmp_path}")
    assert sides.metric == "mean_per_class"
    assert sides.train.classes == sides.test.classes == ("ant", "bee")
    assert sides.val is None
    assert open_test(f"flowers:{tmp_path}")[1] == "mean_per_class"


def test_three_folders_are_three_sides(tmp_path):
    for number, side in enumerate(("train", "val", "test")):
        put(tmp_path / side / "ant" / "0.png", number)
        put(tmp_path / side / "bee" / "0.png", number)
    for name in (str(tmp_path), f"pets:{tmp_path}"):
        sides = open_sides(name)
        assert sides.val is not None
        assert [level(data, 0) for data in (sides.train, sides.val, sides.test)] == [0, 1, 2]
    (tmp_path / "test").rename(tmp_path / "other")
    sides = open_sides(str(tmp_path))
    assert level(sides.test, 0) == 1
    assert sides.val is None


def test_a_limit_keeps_all_classes(tmp_path):
    for side in ("train", "val", "test"):
        for name in ("ant", "bee"):
            for i in range(4):
                put(tmp_path / side / name / f"{i}.png", i)
    for name in (str(tmp_path), f"dtd:{tmp_path}"):
        sides = open_sides(name, limit=2)
        for data in (sides.train, sides.val, sides.test):
            assert data is not None
            assert data.labels is not None
            assert data.labels.tolist() == [0, 1]
    with pytest.raises(UserError, match="leaves no image"):
        open_sides(f"dtd:{tmp_path}", limit=0)


def test_one_side_is_enough_to_test_on_and_too_little_to_learn_from(tmp_path):
    put(tmp_path / "ant" / "0.png", 5)
    put(tmp_path / "bee" / "0.png", 6)
    data, metric = open_test(str(tmp_path))
    assert (len(data), metric) == (2, "top1")
    with pytest.raises(UserError, match="one side only"):
        open_sides(str(tmp_path))


def test_a_lone_side_is_judged_on_and_not_taken_for_a_class(tmp_path):
    put(tmp_path / "val" / "ant" / "0.png", 5)
    put(tmp_path / "val" / "bee" / "0.png", 6)
    data, _ = open_test(str(tmp_path))
    assert (len(data), list(data.classes)) == (2, ["ant", "bee"])


def test_captions_of_the_test_side_alone_are_enough_to_judge_on(tmp_path):
    put(tmp_path / "a.png", 5)
    rows = [{"image": "a.png", "caption": "a dark square", "split": "test"}]
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    data, _ = open_test(str(tmp_path / "captions.json"), captions=True)
    assert len(data) == 1


def test_a_missing_or_damaged_image_is_unreadable_when_it_is_read(tmp_path):
    aircraft(tmp_path)
    images = tmp_path / "fgvc-aircraft-2013b/data/images"
    (images / "0000001.jpg").unlink()
    (images / "0000003.jpg").write_bytes(b"no picture")
    sides = open_sides(f"aircraft:{tmp_path}")
    for data in (sides.train, sides.test):
        with pytest.raises(Unreadable):
            data.read(0)


def test_misspelt_names_are_recognised(tmp_path):
    with pytest.raises(UserError, match=r"Did you mean 'flowers:/data'"):
        open_sides("flower:/data")
    with pytest.raises(UserError, match="no file or folder"):
        open_sides(str(tmp_path / "nothing"))


@pytest.mark.parametrize(("folder", "name"), [("caltech101", "caltech101"), ("cub200", "cub"), ("dtd10", "dtd")])
def test_stand_ins_of_class_folders_are_read(folder, name, test_data):
    sides = open_sides(f"{name}:{test_data / 'transfer' / folder}", limit=40)
    assert (len(sides.train), len(sides.test)) == (40, 40)
    assert sides.train.read(0).image.mode == "RGB"
    assert sides.metric == CATALOG[name].metric
