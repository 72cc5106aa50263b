"""Evaluation sets by name, `cifar10:FOLDER`: the 14 of the paper's Table 1, each with its sides and customary metric.

Any of them may be a folder ROOT/{train,test}/<class>/ (or val/ for test/), else it has the authors' layout. Downloads
happen only on request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vitreg.data.sets import official
from vitreg.data.sets.example import TrainingSet
from vitreg.data.sets.folders import VALIDATION, FolderSet, inside
from vitreg.data.sets.spelling import spelled
from vitreg.errors import UserError

Metric = Literal["top1", "mean_per_class", "map"]
_ALSO = {"in1k": "imagenet", "cf10": "cifar10", "cf100": "cifar100", "sun": "sun397"}


@dataclass(frozen=True, slots=True)
class Named:
    """A set of the catalogue.

    Args:
        title: for people.
        layout: required content of the folder.
        where: who offers it.
        read: folder -> sides in the authors' layout; None where that is class folders.
        metric: mean_per_class and map as in SimCLR's transfer protocol, else top-1.
        fetch: downloads it into a folder; None if that is not possible or not allowed.
    """

    title: str
    layout: str
    where: str
    read: Callable[[Path], official.Opened] | None = None
    metric: Metric = "top1"
    fetch: Callable[[str], Any] | None = None


def _fetched(name: str) -> Callable[[str], Any]:
    return lambda root: getattr(official.torchvision_sets(), name)(root, download=True)


def _voc(root: str) -> None:
    for side in ("trainval", "test"):
        official.torchvision_sets().VOCDetection(root, year="2007", image_set=side, download=True)


CATALOG = {
    "imagenet": Named(
        "ImageNet-1k", "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG", "https://image-net.org (ILSVRC 2012, with a login)"
    ),
    "places205": Named(
        "Places205",
        "train_places205.csv, val_places205.csv and the images they name",
        "http://places.csail.mit.edu",
        official.places205,
    ),
    "aircraft": Named(
        "FGVC-Aircraft",
        "fgvc-aircraft-2013b/data",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
        official.aircraft,
        "mean_per_class",
        _fetched("FGVCAircraft"),
    ),
    "cifar10": Named(
        "CIFAR-10",
        "cifar-10-batches-py",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        official.cifar10,
        fetch=_fetched("CIFAR10"),
    ),
    "cifar100": Named(
        "CIFAR-100",
        "cifar-100-python",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        official.cifar100,
        fetch=_fetched("CIFAR100"),
    ),
    "cub": Named(
        "CUB-200-2011",
        "CUB_200_2011/{images/, images.txt, classes.txt, image_class_labels.txt, train_test_split.txt}",
        "https://www.vision.caltech.edu/datasets/cub_200_2011",
        official.cub,
    ),
    "caltech101": Named(
        "Caltech-101",
        "caltech101/101_ObjectCategories/<class>/*.jpg",
        "https://data.caltech.edu/records/mzrjq-6wc02",
        official.caltech101,
        "mean_per_class",
        _fetched("Caltech101"),
    ),
    "cars": Named(
        "Stanford cars",
        "stanford_cars/{cars_train/, cars_test/, cars_test_annos_withlabels.mat, "
        "devkit/{cars_meta.mat, cars_train_annos.mat}}",
        "copies of it on Kaggle and the Hugging Face hub (the authors' page is gone)",
        official.cars,
    ),
    "dtd": Named(
        "DTD",
        "dtd/dtd/{images/, labels/}",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd",
        official.dtd,
        fetch=_fetched("DTD"),
    ),
    "flowers": Named(
        "Oxford flowers-102",
        "flowers-102/{jpg/, imagelabels.mat, setid.mat}",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        official.flowers,
        "mean_per_class",
        _fetched("Flowers102"),
    ),
    "food": Named(
        "Food-101",
        "food-101/{images/, meta/}",
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        official.food,
        fetch=_fetched("Food101"),
    ),
    "pets": Named(
        "Oxford-IIIT pets",
        "oxford-iiit-pet/{images/, annotations/}",
        "https://www.robots.ox.ac.uk/~vgg/data/pets",
        official.pets,
        "mean_per_class",
        _fetched("OxfordIIITPet"),
    ),
    "sun397": Named(
        "SUN397",
        "SUN397/ with its ClassName.txt, and Partitions/{Training_01.txt, Testing_01.txt}",
        "https://vision.princeton.edu/projects/2010/SUN (SUN397.tar.gz and Partitions.zip)",
        official.sun397,
    ),
    "voc2007": Named(
        "PASCAL VOC 2007",
        "VOCdevkit/VOC2007/{ImageSets/Main, Annotations, JPEGImages}, trainval and test in one",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007",
        official.voc07,
        "map",
        _voc,
    ),
}


def find_named(data: str) -> tuple[Named, Path] | None:
    """Split NAME:FOLDER; None if NAME is not in the catalogue."""
    name, colon, folder = spelled(data, voc="voc2007").partition(":")
    name = _ALSO.get(name, name)
    if not colon or name not in CATALOG:
        return None
    return CATALOG[name], Path(folder or "data").expanduser()


def open_named(named: Named, root: Path, *, download: bool = False) -> dict[str, TrainingSet]:
    """Open the sides of a set: train, test, and val where its authors give one.

    Raises:
        UserError: if files are missing, saying which layout is wanted and who offers it.
    """
    if download and named.fetch is not None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            named.fetch(str(root))
        except Exception as error:  # of the network, of checksums, of full disks
            raise UserError(f"{named.title} could not be downloaded to '{root}' ({_short(error)}).") from error
    found = folders(root)
    try:
        if found:
            train = FolderSet(str(found["train"]))
            sides: dict[str, TrainingSet] = {"train": train}
            sides |= {s: FolderSet(str(f), train.classes) for s, f in found.items() if s != "train"}
        elif named.read is not None:
            sides = _read(named.read, root)
        else:
            raise FileNotFoundError("no train/ and val/ in it")
        empty = [side for side, data in sides.items() if not len(data) or data.labels is None]
        if empty:
            raise ValueError(f"no images with classes on the side {empty[0]}")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        fetch = "" if named.fetch is None else ", or pass --download"
        raise UserError(
            f"'{root}' does not hold {named.title} ({_short(error)}); put there {named.layout}, "
            f"or train/<class>/ and test/<class>/, from {named.where}{fetch}."
        ) from error
    return sides


def folders(root: Path) -> dict[str, Path]:
    """Find train/, val/ and test/ in a folder; val/ is the side to judge on where there is no test/.

    Returns:
        side -> folder with "train" and "test" and perhaps "val"; empty where there are not two sides.
    """
    found = {name: Path(path) for name in ("train", *VALIDATION) if (path := inside(str(root), (name,)))}
    val = next((found[name] for name in VALIDATION[:-1] if name in found), None)
    if "train" not in found or (val is None and "test" not in found):
        return {}
    if "test" not in found:
        assert val is not None
        return {"train": found["train"], "test": val}
    return {"train": found["train"], "test": found["test"]} | ({} if val is None else {"val": val})


def _read(reader: Callable[[Path], Mapping[str, TrainingSet]], root: Path) -> dict[str, TrainingSet]:
    """Read a set; an error in one of its files becomes part of the message about the folder."""
    try:
        return dict(reader(root))
    except UserError as error:
        raise ValueError(f"{error}") from error


def _short(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"no {error.filename}"
    return " ".join(str(error).split()).rstrip(".")[:160] or type(error).__name__
