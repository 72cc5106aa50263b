"""Whatever form images are given in, the model gets the same pixels as through files."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import vitreg
from vitreg.backbones import Backbone
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.models.vit import VisionTransformer
from vitreg.passes.batches import batches_of

SIDE, MODES = 32, ("RGB", "L", "RGBA", "RGB", "P", "RGB", "RGB")
TURNED = 3  # by its EXIF orientation


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    model = VisionTransformer(SIDE, 8, 32, 2, 2, registers=1)
    return Backbone(model, preprocess=Preprocess((SIDE, SIDE), (SIDE, SIDE), IMAGENET.mean, IMAGENET.std))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number, mode in enumerate(MODES):
        pixels = draw.integers(0, 256, (40 + number, 50, 4), dtype=np.uint8)
        image = Image.fromarray(pixels).convert(mode)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == TURNED else 1
        image.save(folder / f"{number}.png", exif=exif)
    return sorted(folder.glob("*.png"))


class Labelled(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if self.items[index] is None:
            raise OSError("truncated")
        return self.items[index], index


class Flowing(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def pixels_of(images, backbone, **options):
    batches = list(batches_of(images, backbone, Processes(), **options))
    assert torch.cat([each.indices for each in batches]).tolist() == list(range(sum(len(b.pixels) for b in batches)))
    return torch.cat([each.pixels for each in batches])


PICTURES = {
    "PIL": lambda files: [Image.open(file) for file in files],
    "arrays": lambda files: [np.asarray(Image.open(file).convert("RGB")) for file in files],
    "bytes of tensors": lambda files: [
        torch.from_numpy(np.array(Image.open(f).convert("RGB"))).movedim(2, 0) for f in files
    ],
    "a dataset with labels": lambda files: Labelled([Image.open(file) for file in files]),
}


@pytest.mark.parametrize("form", PICTURES)
def test_pictures_give_what_their_files_give(form, files, backbone):
    if form in ("arrays", "bytes of tensors"):  # which have neither transparency nor an orientation
        files = [file for number, file in enumerate(files) if MODES[number] in ("RGB", "L") and number != TURNED]
    through_files = pixels_of(files, backbone, batch_size=3)
    assert torch.equal(pixels_of(PICTURES[form](files), backbone, batch_size=3), through_files)
    assert torch.equal(
        pixels_of(PICTURES[form](files), backbone, size=64, limit=2), pixels_of(files[:2], backbone, size=64)
    )


PREPARED = {
    "a list": list,
    "a dataset": lambda x: TensorDataset(x, torch.arange(len(x))),
    "a dataset of dictionaries": lambda x: [{"pixel_values": each} for each in x],
    "an iterable dataset": Flowing,
    "a loader": lambda x: DataLoader(TensorDataset(x), batch_size=4),
    "a loader with labels": lambda x: DataLoader(TensorDataset(x, torch.arange(len(x))), batch_size=2),
}


@pytest.mark.parametrize("form", PREPARED)
@pytest.mark.parametrize("limit", [None, 5])
def test_prepared_images_give_what_their_tensor_gives(form, limit, files, backbone):
    whole = pixels_of(files, backbone)
    assert torch.equal(pixels_of(PREPARED[form](whole), backbone, limit=limit), whole[:limit])


def test_processes_take_a_share_each_of_a_loader_and_of_a_tensor(files, backbone):
    whole = pixels_of(files, backbone)
    for images in (whole, DataLoader(TensorDataset(whole), batch_size=3)):
        seen = {}
        for rank in range(2):
            for batch in batches_of(images, backbone, Processes(rank=rank, world=2), batch_size=2):
                seen |= dict(zip(batch.indices.tolist(), batch.pixels, strict=True))
        assert sorted(seen) == list(range(len(whole)))
        assert all(torch.equal(seen[index], whole[index]) for index in seen)


@pytest.mark.usefixtures("few_resamples")
def test_a_scan_says_the_same_of_files_and_of_pictures(files, backbone):
    through_files, pictures = vitreg.scan(backbone, files), vitreg.scan(backbone, [Image.open(file) for file in files])
    assert through_files.layers == pictures.layers
    assert through_files.verdict == pictures.verdict
    assert pictures.images.seen == len(files)


def test_maps_and_discover_take_pictures_and_maps_a_loader(files, backbone):
    pictures = [Image.open(file) for file in files]
    whole = pixels_of(files, backbone)
    ways = (files, pictures, DataLoader(TensorDataset(whole), batch_size=2))
    norms = [vitreg.maps(backbone, way, what="norm", limit=3).maps[0].norm for way in ways]
    assert all(np.array_equal(each, norms[0]) for each in norms)
    found = [vitreg.discover(backbone, way, limit=3) for way in ways[:2]]
    assert (found[0].found, found[0].setting) == (found[1].found, found[1].setting)


def test_features_of_pictures_are_those_of_their_files_and_are_kept_by_their_pixels(files, backbone, tmp_path):
    def features(images):
        store = vitreg.extract(backbone, images, out=tmp_path, cls=-1, workers=0)
        return store.folder, np.asarray(store["cls/1"][:])

    pictures = [Image.open(file) for file in files]
    folder, kept = features(pictures)
    assert np.array_equal(kept, features(files)[1])
    assert features(pictures)[0] == folder
    changed = np.asarray(pictures[5]).copy()
    changed[0, 0] ^= 1
    other, _ = features([*pictures[:5], changed, *pictures[6:]])
    assert other != folder


def test_what_a_dataset_fails_to_give_is_listed(files, backbone):
    whole = [Image.open(files[0]), None, Image.open(files[1])]
    batches = batches_of(Labelled(whole), backbone, Processes())
    assert [len(each.pixels) for each in batches] == [2]
    assert [(each.name, each.reason) for each in batches.skipped] == [("image 1", "OSError: truncated")]


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (3, "not int"),
        ({"a": 1}, "not dict"),
        ([1, 2], "not a list with int"),
        ([__file__, np.zeros((4, 4, 3), np.uint8)], "not a list with str"),
        (np.zeros((4, 4, 3)), r"not a list with ndarray float64 \[4, 4, 3\]"),
    ],
)
def test_what_is_no_images_is_one_sentence(images, named, backbone):
    with pytest.raises(UserError, match=rf"images are paths, PIL pictures, .*, {named}"):
        vitreg.scan(backbone, images)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([], "no images given"),
        (DataLoader(TensorDataset(torch.zeros(0, 3, 8, 8))), "there are no images"),
        (DataLoader(TensorDataset(torch.zeros(2, 4))), r"images must be a floating point tensor \[n, 3, H, W\]"),
        (
            DataLoader(TensorDataset(torch.arange(4))),
            "a loader gives floating point tensors .*, not Tensor torch.int64",
        ),
        ([torch.zeros(3, 32, 32), torch.zeros(3, 40, 40)], "prepared images have one size"),
    ],
)
def test_images_that_cannot_be_used_are_one_sentence(images, sentence, backbone):
    with pytest.raises(UserError, match=sentence):
        vitreg.scan(backbone, images)


def test_a_size_for_what_is_prepared_is_refused(backbone):
    with pytest.raises(UserError, match="a tensor is scanned at its own size"):
        vitreg.scan(backbone, DataLoader(TensorDataset(torch.zeros(2, 3, 32, 32))), size=64)


@pytest.mark.parametrize("verb", ["discover", "extract"])
def test_a_verb_that_prepares_pictures_itself_refuses_tensors(verb, backbone, tmp_path):
    with pytest.raises(UserError, match=f"{verb} takes images as paths or pictures"):
        getattr(vitreg, verb)(backbone, torch.zeros(2, 3, 32, 32), out=tmp_path)
