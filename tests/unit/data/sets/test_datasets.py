"""Training sets from folders, tables and torchvision, their two sides, and what is said about them."""

from __future__ import annotations

import csv
import json
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitreg.data import ImageSource
from vitreg.data.sets.catalog import folders
from vitreg.data.sets.datasets import concerns, open_training_set
from vitreg.data.sets.example import Strings
from vitreg.data.sets.pairs import open_masks
from vitreg.data.sets.settings import DataConfig
from vitreg.data.sets.sides import open_sides
from vitreg.data.sources.decode import Unreadable
from vitreg.errors import UserError


def put(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, level, level)).save(path)
    return path


def classes(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            put(root / name / f"{i:03}.png", i)
    return root


def train(root: Path | str, captions: bool = False, **settings):
    return open_training_set(DataConfig(root=str(root), **settings), "train", captions=captions)


def val(root: Path | str, captions: bool = False, **settings):
    return open_training_set(DataConfig(root=str(root), **settings), "val", captions=captions)


def level(data, index: int) -> int:
    return data.read(index).image.getpixel((0, 0))[0]


def test_class_folders_are_numbered_by_name_and_searched_deep(tmp_path):
    classes(tmp_path, zebra=2, ant=3)
    put(tmp_path / "ant" / "more" / "deep.png", 77)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    put(tmp_path / ".hidden" / "x.png")
    data = train(tmp_path)
    assert data.classes == ("ant", "zebra")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert [data.read(i).target for i in range(6)] == [0, 0, 0, 0, 1, 1]
    assert level(data, 3) == 77
    assert data.name(3) == str(tmp_path / "ant" / "more" / "deep.png")


def test_sides_beside_each_other_are_found_and_share_their_numbers(tmp_path):
    classes(tmp_path / "train", ant=2, bee=2, cat=2)
    classes(tmp_path / "test", cat=1, bee=1)
    data, held = train(tmp_path), val(tmp_path)
    assert len(data) == 6
    assert held is not None
    assert held.classes == data.classes
    assert [held.read(i).target for i in range(2)] == [1, 2]
    assert val(tmp_path / "train") is None
    other = classes(tmp_path / "other", bee=3)
    assert val(tmp_path, val=str(other)).labels.tolist() == [1, 1, 1]


def test_a_class_that_training_does_not_know_is_refused(tmp_path):
    classes(tmp_path / "train", ant=1, bee=1)
    classes(tmp_path / "val", ant=1, wasp=1)
    with pytest.raises(UserError, match="classes that the training side has not: 'wasp'"):
        val(tmp_path)


def test_a_folder_without_classes_serves_self_supervision_only(tmp_path):
    for i in range(3):
        put(tmp_path / f"{i}.png", i)
    (tmp_path / "empty").mkdir()
    data = train(tmp_path)
    assert len(data) == 3
    assert data.classes is None
    assert data.labels is None
    assert data.read(1).target is None
    assert concerns(data, supervised=False) == []
    with pytest.raises(UserError, match="needs classes"):
        concerns(data, supervised=True)


def test_images_beside_the_classes_are_left_out_and_said(tmp_path):
    put(classes(tmp_path, a=1, b=1) / "stray.png")
    assert concerns(train(tmp_path), supervised=False) == [
        f"1 images lie directly in '{tmp_path}', beside the folders of classes, and are not used."
    ]


def test_concerns_name_empty_and_unequal_classes(tmp_path):
    data = train(classes(tmp_path, a=20, b=2, c=0, d=5))
    assert concerns(data, supervised=True) == [
        "1 of 4 classes has no image: 'c'.",
        "the classes are unequal: 'a' has 20 images, 'b' has 2.",
    ]
    assert concerns(data, supervised=False) == []
    assert concerns(train(classes(tmp_path / "fair", a=9, b=1)), supervised=True) == []


def test_one_class_is_an_error_with_labels_and_none_without(tmp_path):
    data = train(classes(tmp_path, only=3, empty=0))
    with pytest.raises(UserError, match="all 3 images are of one class, 'only'"):
        concerns(data, supervised=True)
    assert concerns(data, supervised=False) == []


def test_nothing_is_decoded_beforehand_and_a_broken_file_says_why(tmp_path):
    classes(tmp_path, a=1, b=1)
    (tmp_path / "a" / "000.png").write_bytes(b"no picture")
    data = train(tmp_path)
    with pytest.raises(Unreadable, match="not an image"):
        data.read(0)
    assert data.read(1).target == 1


def test_names_that_are_no_text_are_read(tmp_path):
    classes(tmp_path, a=1)
    os.rename(tmp_path / "a" / "000.png", os.fsencode(tmp_path / "a") + b"/\xff.png")
    data = train(tmp_path)
    assert level(data, 0) == 0
    data.name(0).encode("utf-8")


def test_a_limit_takes_images_of_all_classes(tmp_path):
    classes(tmp_path / "train", a=10, b=10)
    classes(tmp_path / "val", a=3, b=3)
    data = train(tmp_path, limit=4)
    assert len(data) == 4
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert [data.read(i).target for i in range(4)] == [0, 0, 1, 1]
    assert len(train(tmp_path, limit=100)) == 20
    assert len(val(tmp_path, limit=1, limit_val=2)) == 2
    with pytest.raises(UserError, match="limit 0"):
        train(tmp_path, limit=0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda root: "", "data.root"),
        (lambda root: root / "nothing", "no file or folder"),
        (lambda root: root, "is empty"),
        (lambda root: put(root / "one.png"), "no training set"),
        (lambda root: classes(root, a=0, b=0), "is empty"),
        (lambda root: "torchvision:CIFAR11", "Did you mean"),
        (lambda root: f"torchvision:CIFAR10:{root}", "data.download"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, make, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        train(make(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [lambda root: classes(root, a=1), lambda root: f"torchvision:MNIST:{root}"])
def test_what_has_no_captions_says_what_would(tmp_path, make):
    with pytest.raises(UserError, match=r"has no captions; name a \.json"):
        train(make(tmp_path), captions=True)


def table(root: Path, rows: list[dict], name: str = "captions.json") -> Path:
    for number, row in enumerate(rows):
        put(root / "images" / next(v for k, v in row.items() if k in ("file", "image", "filepath", "photo")), number)
    if name.endswith(".json"):
        (root / name).write_text(json.dumps(rows))
    else:
        with open(root / name, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
    return root / name


def test_a_json_with_sides_and_several_captions(tmp_path):
    table(
        tmp_path,
        [
            {"split": "train", "file": "0.png", "captions": ["a dog", " two dogs "]},
            {"split": "test", "file": "1.png", "captions": ["a cat"]},
            {"split": "train", "file": "2.png", "captions": ["", None]},
            {"split": "train", "file": "3.png", "captions": "one text"},
        ],
    )
    data, held = train(tmp_path, captions=True), val(tmp_path, captions=True)
    assert [data.read(i).target for i in range(len(data))] == [["a dog", "two dogs"], ["one text"]]
    assert level(data, 1) == 3
    assert held.read(0).target == ["a cat"]
    assert concerns(data, supervised=False) == [
        f"1 of 3 rows of '{tmp_path / 'captions.json'}' have no image or no caption and are not used."
    ]
    assert data.classes is None
    images = train(tmp_path / "captions.json", captions=False)  # of a table, for self-supervision
    assert len(images) == 3
    assert images.read(0).target is None


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.json"])
def test_columns_are_found_by_their_usual_names_or_named(tmp_path, name):
    path = table(tmp_path, [{"filepath": "0.png", "title": 'one, "two"'}, {"filepath": "1.png", "title": "b"}], name)
    assert train(path, captions=True).read(0).target == ['one, "two"']
    assert val(path, captions=True) is None
    path = table(tmp_path, [{"photo": "0.png", "words": "x"}], name)
    assert train(path, captions=True, image_key="photo", caption_key="words").read(0).target == ["x"]
    with pytest.raises(UserError, match=r"data\.image_key"):
        train(path, captions=True)
    with pytest.raises(UserError, match=r"no column 'foto'.*Did you mean 'photo'"):
        train(path, captions=True, image_key="foto")


def test_a_table_without_captions_or_images_is_refused(tmp_path):
    path = table(tmp_path, [{"file": "0.png", "caption": "  "}, {"file": "1.png", "caption": ""}])
    with pytest.raises(UserError, match="none of 2 rows"):
        train(path, captions=True)
    (tmp_path / "far.json").write_text(json.dumps([{"file": "gone.png", "caption": "x"}]))
    with pytest.raises(UserError, match="none of the first 1 images"):
        train(tmp_path / "far.json", captions=True)
    (tmp_path / "urls.json").write_text(json.dumps([{"file": "https://host/x.png", "caption": "x"}]))
    with pytest.raises(UserError, match="behind URLs"):
        train(tmp_path / "urls.json", captions=True)
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(UserError, match="no valid table"):
        train(tmp_path / "broken.json", captions=True)
    (tmp_path / "bytes.csv").write_bytes(b"filepath,title\n\xff\xfe,x\n")
    with pytest.raises(UserError, match="not UTF-8 text"):
        train(tmp_path / "bytes.csv", captions=True)


def test_torchvision_sets_are_read_by_name_from_where_they_lie(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pictures = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)
    for side, numbers in (("train", [5, 0, 4]), ("t10k", [7, 2, 1])):
        (raw / f"{side}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 3, 28, 28) + pictures.tobytes())
        (raw / f"{side}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 3) + bytes(numbers))
    data, held = train(f"torchvision:MNIST:{tmp_path}"), val(f"torchvision:MNIST:{tmp_path}")
    assert data.labels.tolist() == [5, 0, 4]
    assert held.labels.tolist() == [7, 2, 1]
    assert len(data.classes) == 10
    example = data.read(1)
    assert example.target == 0
    assert example.image.mode == "RGB"
    assert (np.asarray(example.image)[..., 0] == pictures[1]).all()


def test_a_torchvision_set_without_sides_has_no_validation(tmp_path):
    classes(tmp_path / "eurosat" / "2750", Forest=2, River=1)
    assert train(f"torchvision:EuroSAT:{tmp_path}").labels.tolist() == [0, 0, 1]
    assert val(f"torchvision:EuroSAT:{tmp_path}") is None


def test_real_sets(test_data):
    data, held = train(test_data / "imagenette-128"), val(test_data / "imagenette-128")
    assert (len(data), len(held), len(data.classes)) == (9469, 1500, 10)
    assert concerns(data, supervised=True) == []
    pairs = train(test_data / "flickr8k", captions=True)
    assert (len(pairs), len(val(test_data / "flickr8k", captions=True))) == (1000, 250)
    assert len(pairs.read(0).target) == 5


def test_strings_keep_any_text():
    texts = ["", "a", "ünï", os.fsdecode(b"\xff.png"), "\ud800", "line\nline"]
    strings = Strings(iter(texts))
    assert list(strings) == texts
    assert strings[1:3] == texts[1:3]
    assert len(Strings([])) == 0


@pytest.mark.parametrize(("first", "second"), [("Train", "Val"), ("TRAIN", "Test"), ("train", "Validation")])
def test_sides_are_found_in_capitals_too(tmp_path, first, second):
    classes(tmp_path / first, ant=2, bee=2)
    classes(tmp_path / second, ant=1, bee=1)
    assert (len(train(tmp_path)), len(val(tmp_path))) == (4, 2)
    sides = open_sides(str(tmp_path))
    assert (len(sides.train), len(sides.test), sides.train.classes) == (4, 2, ("ant", "bee"))
    assert set(folders(tmp_path)) == {"train", "test"}
    pairs = tmp_path / "pairs"
    for side in (first, second):
        for name in ("0", "1"):
            put(pairs / side / "Images" / f"{name}.png")
            put(pairs / side / "Masks" / f"{name}.png")
            Image.new("L", (8, 8), 1).save(pairs / side / "Masks" / f"{name}.png")
    masks = open_masks(str(pairs))
    assert (len(masks.train), len(masks.test)) == (2, 2)
    rows = [{"image": f"{first}/ant/000.png", "caption": "an ant", "split": side} for side in (first, second)]
    path = table(tmp_path, rows, "Captions.csv")
    assert (len(train(path, captions=True)), len(val(path, captions=True))) == (1, 1)


def test_the_very_name_of_a_side_comes_before_capitals(tmp_path):
    classes(tmp_path / "train", ant=1, bee=1)
    if (tmp_path / "TRAIN").exists():
        pytest.skip("this file system knows no capitals")
    classes(tmp_path / "TRAIN", ant=5, bee=5)
    assert len(train(tmp_path)) == 2


def test_one_archive_or_table_is_said_to_be_one_side(tmp_path):
    put(tmp_path / "0.png")
    with tarfile.open(tmp_path / "one.tar", "w") as archive:
        archive.add(tmp_path / "0.png", "0.png")
    with pytest.raises(UserError, match=r"one\.tar' is one side only; .* a folder of train-\*\.tar and val-\*\.tar"):
        open_sides(str(tmp_path / "one.tar"))
    path = table(tmp_path, [{"image": "0.png", "caption": "a"}], "one.csv")
    with pytest.raises(UserError, match=r"one side only; .* add a column 'split' with train and val"):
        open_sides(str(path), captions=True)
    with pytest.raises(UserError, match=r"one\.csv' is a table, and images are wanted here; name their folder"):
        ImageSource([path])
