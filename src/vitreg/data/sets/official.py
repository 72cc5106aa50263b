"""Readers of evaluation sets in the layout in which their authors publish them: root -> sides.

torchvision knows the layout of most. Sides are those of the authors, else the customary split. A reader raises OSError,
RuntimeError, ValueError, KeyError or UserError if something is missing; `catalog` adds what helps.
"""

from __future__ import annotations

import csv
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from vitreg.data.sets.example import TrainingSet
from vitreg.data.sets.listed import ArraySet, ListedSet, MultiLabelSet
from vitreg.documents import read_lines, read_xml

Opened = Mapping[str, TrainingSet]  # "train", "test" and perhaps "val"

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
CALTECH_TRAIN = 30  # images of each class, as in SimCLR; the others are for testing


def torchvision_sets() -> Any:
    """Return the module of torchvision's sets. Imported when asked: it brings PyTorch's compiler, two seconds of a start."""
    from torchvision import datasets

    return datasets


def _of_torchvision(data: Any) -> ListedSet:
    """Extract the lists of images and labels from a torchvision set."""
    paths = data._images if isinstance(data, torchvision_sets().OxfordIIITPet) else data._image_files
    return ListedSet(paths, data._labels, data.classes)


def aircraft(root: Path) -> Opened:
    """FGVC-Aircraft, 100 variants: train, val and test."""
    return {
        side: _of_torchvision(torchvision_sets().FGVCAircraft(os.fspath(root), split=side))
        for side in ("train", "val", "test")
    }


def dtd(root: Path) -> Opened:
    """Describable textures, 47 classes, the first of ten partitions."""
    return {side: _of_torchvision(torchvision_sets().DTD(root, split=side)) for side in ("train", "val", "test")}


def food(root: Path) -> Opened:
    """Food-101."""
    return {side: _of_torchvision(torchvision_sets().Food101(root, split=side)) for side in ("train", "test")}


def pets(root: Path) -> Opened:
    """Oxford-IIIT pets, 37 breeds."""
    sides = {"train": "trainval", "test": "test"}
    return {side: _of_torchvision(torchvision_sets().OxfordIIITPet(root, split=split)) for side, split in sides.items()}


def cars(root: Path) -> Opened:
    """Stanford cars, 196 models."""
    opened = {}
    for side in ("train", "test"):
        data: Any = torchvision_sets().StanfordCars(root, split=side)
        paths, labels = zip(*data._samples, strict=True)
        opened[side] = ListedSet(paths, [int(number) for number in labels], data.classes)
    return opened


def cifar10(root: Path) -> Opened:
    """CIFAR-10."""
    return {side: _cifar(torchvision_sets().CIFAR10(root, train=side == "train"), side) for side in ("train", "test")}


def cifar100(root: Path) -> Opened:
    """CIFAR-100, the fine labels."""
    return {side: _cifar(torchvision_sets().CIFAR100(root, train=side == "train"), side) for side in ("train", "test")}


def _cifar(data: Any, side: str) -> ArraySet:
    return ArraySet(f"{type(data).__name__}/{side}", data.data, data.targets, data.classes)


def flowers(root: Path) -> Opened:
    """Oxford flowers, 102 classes: 10 images of each to train, 10 to validate, the others to test."""
    base = root / "flowers-102"
    labels = np.atleast_1d(loadmat(base / "imagelabels.mat", squeeze_me=True)["labels"]) - 1
    split = loadmat(base / "setid.mat", squeeze_me=True)
    names = getattr(torchvision_sets().Flowers102, "classes", None) or [str(number) for number in range(102)]
    opened = {}
    for side, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        numbers = np.atleast_1d(split[key])
        paths = [base / "jpg" / f"image_{number:05d}.jpg" for number in numbers]
        opened[side] = ListedSet(paths, labels[numbers - 1].tolist(), names)
    return opened


def cub(root: Path) -> Opened:
    """Caltech-UCSD birds of 2011, 200 species."""
    base = next((folder for folder in (root / "CUB_200_2011", root) if (folder / "images.txt").is_file()), None)
    if base is None:
        raise FileNotFoundError(f"no CUB_200_2011/images.txt in {root}")
    names = [name for _, name in _pairs(base / "classes.txt")]
    numbers = {number: int(label) - 1 for number, label in _pairs(base / "image_class_labels.txt")}
    training = {number: int(flag) for number, flag in _pairs(base / "train_test_split.txt")}
    images = _pairs(base / "images.txt")
    opened = {}
    for side, flag in (("train", 1), ("test", 0)):
        own = [(number, path) for number, path in images if training[number] == flag]
        opened[side] = ListedSet(
            [base / "images" / path for _, path in own], [numbers[number] for number, _ in own], names
        )
    return opened


def _pairs(file: Path) -> list[tuple[str, str]]:
    """Read lines of two words, of which the second may have spaces."""
    pairs = (line.split(maxsplit=1) for line in read_lines(file))
    return [(first, second) for first, second in pairs]


def caltech101(root: Path) -> Opened:
    """Caltech-101 with its background class: 30 images of each class to train, chosen by the checksum of their names."""
    places = (root / "caltech101" / "101_ObjectCategories", root / "101_ObjectCategories")
    base = next((folder for folder in places if folder.is_dir()), None)
    if base is None:
        raise FileNotFoundError(f"no 101_ObjectCategories in {root}")
    classes = sorted(folder.name for folder in base.iterdir() if folder.is_dir())
    sides: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
    for number, name in enumerate(classes):
        files = sorted((base / name).glob("*.jpg"))
        drawn = set(
            sorted(files, key=lambda file: zlib.crc32(f"{file.parent.name}/{file.name}".encode()))[:CALTECH_TRAIN]
        )
        for file in files:
            sides["train" if file in drawn else "test"].append((file, number))
    return {
        side: ListedSet([file for file, _ in own], [number for _, number in own], classes)
        for side, own in sides.items()
    }


def sun397(root: Path) -> Opened:
    """SUN397, the first of ten partitions: 50 images of each class to train and 50 to test."""
    base = next((folder for folder in (root / "SUN397", root) if (folder / "ClassName.txt").is_file()), None)
    if base is None:
        raise FileNotFoundError(f"no SUN397/ClassName.txt in {root}")
    classes = read_lines(base / "ClassName.txt")  # /a/abbey
    numbers = {name: number for number, name in enumerate(classes)}
    lists = next((folder for folder in (root / "Partitions", base) if (folder / "Training_01.txt").is_file()), None)
    if lists is None:
        raise FileNotFoundError(f"no Partitions/Training_01.txt in {root}")
    opened = {}
    for side, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        names = read_lines(lists / file)  # /a/abbey/sun_....jpg
        opened[side] = ListedSet(
            [base / name.lstrip("/") for name in names],
            [numbers[name.rpartition("/")[0]] for name in names],
            [name.split("/", 2)[2] for name in classes],
        )
    return opened


def places205(root: Path) -> Opened:
    """Places205, its training and validation images."""
    places = (root / "data/vision/torralba/deeplearning/images256", root / "images256", root)
    opened = {}
    rows = {side: _labelled(root, f"{side}_places205.csv") for side in ("train", "val")}
    first = rows["train"][0][0]
    base = next((folder for folder in places if (folder / first).is_file()), places[-1])
    names = dict(sorted({number: path.rpartition("/")[0].split("/", 1)[-1] for path, number in rows["train"]}.items()))
    for side, split in (("train", "train"), ("test", "val")):
        opened[side] = ListedSet(
            [base / path for path, _ in rows[split]], [number for _, number in rows[split]], list(names.values())
        )
    return opened


def _labelled(root: Path, name: str) -> list[tuple[str, int]]:
    """Read rows of a path and a class number, apart by a space or a comma."""
    folder = next((f for f in (root, root / "trainvalsplit_places205") if (f / name).is_file()), None)
    if folder is None:
        raise FileNotFoundError(f"no {name} in {root}")
    rows = []
    for line in read_lines(folder / name):
        path, number = next(csv.reader([line])) if "," in line else line.rsplit(maxsplit=1)
        rows.append((path.strip().lstrip("/"), int(number)))
    if not rows:
        raise ValueError(f"{name} is empty")
    return rows


def voc07(root: Path) -> Opened:
    """PASCAL VOC 2007 as a task of 20 labels: train, val and test."""
    base = next(
        (f for f in (root / "VOCdevkit" / "VOC2007", root / "VOC2007", root) if (f / "ImageSets").is_dir()), None
    )
    if base is None:
        raise FileNotFoundError(f"no VOCdevkit/VOC2007/ImageSets in {root}")
    return {side: _voc_side(base, side) for side in ("train", "val", "test")}


def _voc_side(base: Path, side: str) -> MultiLabelSet:
    names = [line.split()[0] for line in read_lines(base / "ImageSets" / "Main" / f"{side}.txt")]
    labels = np.zeros((len(names), len(VOC_CLASSES)), np.float32)
    ignored = np.zeros(labels.shape, bool)
    for row, name in enumerate(names):
        clear, all_of_it = _voc_objects(base / "Annotations" / f"{name}.xml")
        for column, title in enumerate(VOC_CLASSES):
            labels[row, column] = title in clear
            ignored[row, column] = title in all_of_it and title not in clear
    return MultiLabelSet([base / "JPEGImages" / f"{name}.jpg" for name in names], labels, ignored, VOC_CLASSES)


def _voc_objects(file: Path) -> tuple[set[str], set[str]]:
    """Return the classes of the objects that are not difficult, and those of all objects."""
    clear, everything = set(), set()
    for found in read_xml(file).iter("object"):
        name = (found.findtext("name") or "").strip()
        everything.add(name)
        if (found.findtext("difficult") or "0").strip() == "0":
            clear.add(name)
    return clear, everything
