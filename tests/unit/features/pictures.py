"""Pictures in memory, a model with a value of its own in every parameter, and the bench that extracts its features."""

from pathlib import Path

import numpy as np
import torch

from vitreg.backbones import Backbone
from vitreg.data.sets.example import Example
from vitreg.data.sets.listed import ArraySet
from vitreg.data.sources.decode import Unreadable
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.features.extract import Wanted
from vitreg.models.vit import VisionTransformer
from vitreg.passes.bench import Bench

SIDE, IMAGES, PER_SHARD = 16, 22, 4
PLAIN = Preprocess((SIDE, SIDE), (SIDE, SIDE), IMAGENET.mean, IMAGENET.std, crop=False)
EVERYTHING = Wanted(cls=(0, -1), mean=(-1,), registers=(1,), patches=(0, -1), norms=(0, -1), mirrored=True)


def model(seed=0, **changes):
    torch.manual_seed(seed)
    network = VisionTransformer(
        **{"image_size": SIDE, "patch": 4, "width": 16, "depth": 2, "heads": 2, "registers": 2} | changes
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # so that no token equals another
    return Backbone(network, preprocess=PLAIN)


def pixels(count=IMAGES, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


class Pictures(ArraySet):
    """Images in memory, some of them unreadable; counts how often it is read."""

    def __init__(self, values=None, torn=()):
        values = pixels() if values is None else values
        super().__init__("toy", values, [0] * len(values), ["a"])
        self.torn, self.read_places = torn, []

    def read(self, index) -> Example:
        self.read_places.append(index)
        if index in self.torn:
            raise Unreadable("torn")
        return super().read(index)


def bench(folder, backbone=None, **settings):
    return Bench(
        backbone=backbone or model(), data="toy", features=Path(folder), **{"workers": 0, "batch_size": 2} | settings
    )


def shards_of(folder):
    [store] = Path(folder).iterdir()
    return {file.name: file.read_bytes() for file in sorted(store.iterdir()) if file.name[0] == "0"}
