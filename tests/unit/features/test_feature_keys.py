"""What was computed is computed once, and features are stored under all that they depend on."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.unit.features.pictures import EVERYTHING, IMAGES, PLAIN, Pictures, bench, model, pixels

from vitreg.backbones import Backbone, Capture, Edit
from vitreg.data.sets.example import Portion
from vitreg.data.sets.folders import FolderSet
from vitreg.errors import UserError
from vitreg.features.extract import Wanted, extract
from vitreg.features.fields import FieldReader

pytestmark = pytest.mark.usefixtures("one_thread", "small_shards")


def test_a_second_time_nothing_is_computed(tmp_path, monkeypatch):
    backbone, data = model(), Pictures()
    first = extract(bench(tmp_path, backbone), data, EVERYTHING)
    data.read_places.clear()
    monkeypatch.setattr(FieldReader, "__call__", None)
    again = extract(bench(tmp_path, backbone), data, EVERYTHING)
    assert torch.equal(first["patches/0"][:], again["patches/0"][:])
    assert len(data.read_places) == 16  # looked at to know the set, which has no files
    assert again.notes == ()


def keys(folder):
    return {path.name for path in Path(folder).iterdir()}


def test_the_key_follows_from_weights_transform_wish_and_data(tmp_path):
    def kept(backbone=None, data=None, wanted=Wanted(), preprocess=None, **settings):  # noqa: B008
        on = bench(tmp_path, backbone, **settings)
        store = extract(on, data or Pictures(), wanted, on.view(preprocess=preprocess))
        return store.record.key

    base = kept()
    assert kept() == base
    assert kept(wanted=Wanted(cls=(1,))) == base  # block 1 is block -1
    assert kept(batch_size=3, workers=1) == base
    one_weight = model()
    with torch.no_grad():
        next(one_weight.module.parameters()).view(-1)[-1] += 1e-6
    unsaved = model()
    unsaved.module.register_buffer("unsaved", torch.ones(1), persistent=False)
    altered = pixels()
    altered[IMAGES // 2] ^= 1
    others = [
        kept(one_weight),
        kept(unsaved),
        kept(Backbone(model().module.half(), preprocess=PLAIN)),
        kept(size=(20, 20)),
        kept(size=(18, 18)),
        kept(size=(18, 18), policy="pad"),
        kept(preprocess=replace(PLAIN, interpolation="bilinear")),
        kept(preprocess=replace(PLAIN, mean=(0.5, 0.5, 0.5))),
        kept(wanted=Wanted(cls=(0,))),
        kept(wanted=Wanted(mean=(-1,))),
        kept(wanted=Wanted(dtype="float16")),
        kept(wanted=Wanted(final_norm=False)),
        kept(wanted=Wanted(mirrored=True)),
        kept(data=Portion(Pictures(), 10)),
        kept(data=Pictures(pixels(seed=1))),
    ]
    assert len({base, *others}) == 1 + len(others)
    assert {base, *others} == keys(tmp_path)


@dataclass(frozen=True)
class Scaled:
    by: float

    def __call__(self, hidden, _place):
        return hidden * self.by


def test_features_of_an_edited_model_are_its_own_and_those_without_identity_are_never_kept(tmp_path):
    data, plain = Pictures(), model()
    backbones = {"plain": plain} | {
        f"scaled by {by}": plain.edited([Edit("block", 0, Scaled(by)), Edit("block", 0, Shifted())], "edited")
        for by in (0.5, 2.0)
    }
    images = torch.stack([PLAIN(data.read(i).image) for i in range(IMAGES)])
    keys = {}
    for name, backbone in backbones.items():
        for _ in range(2):  # the second time it is read
            store = extract(bench(tmp_path, backbone, batch_size=IMAGES), data, Wanted(cls=(0,)))
            with torch.no_grad():
                truth = backbone.anatomy.final_norm(backbone.trace(images, Capture(hidden=[0])).hidden(0))[:, 0]
            torch.testing.assert_close(store["cls/0"][:], truth, rtol=1e-5, atol=1e-6)
        keys[name] = store.record.key
    assert len(set(keys.values())) == 3
    nameless = plain.edited([Edit("block", 0, lambda hidden, _: hidden)], "nameless")
    with pytest.raises(UserError, match="frozen dataclass"):
        extract(bench(tmp_path, nameless), data, Wanted(cls=(0,)))
    assert {folder.name for folder in tmp_path.iterdir()} == set(keys.values())


def test_models_that_differ_in_no_weight_have_features_of_their_own(tmp_path):
    data = Pictures()
    for heads in (2, 4):
        backbone = model(heads=heads)
        images = torch.stack([PLAIN(data.read(i).image) for i in range(IMAGES)])
        store = extract(bench(tmp_path, backbone, batch_size=IMAGES), data, Wanted(cls=(-1,)))
        torch.testing.assert_close(store["cls/-1"][:], backbone(images).values[:, 0], rtol=1e-5, atol=1e-6)
    assert len(list(tmp_path.iterdir())) == 2


def test_features_of_a_hooked_model_are_never_kept(tmp_path):
    backbone = model()
    backbone.module.blocks[0].register_forward_hook(lambda _module, _args, output: 2 * output)
    with pytest.raises(UserError, match=r"'blocks\.0' has hooks"):
        extract(bench(tmp_path, backbone), Pictures(), Wanted(cls=(-1,)))
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class Shifted:
    def __call__(self, hidden, _place):
        return hidden + torch.linspace(-1, 1, hidden.shape[-1])


def test_a_file_that_changed_is_another_image(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.fromarray(pixels()[number]).save(tmp_path / "images" / f"{number}.png")

    def kept():
        return extract(bench(tmp_path / "features"), FolderSet(str(tmp_path / "images")), Wanted()).record.key

    base = kept()
    assert kept() == base
    os.utime(tmp_path / "images" / "1.png", ns=(0, 0))
    touched = kept()
    Image.fromarray(pixels()[7]).save(tmp_path / "images" / "2.png")
    os.utime(tmp_path / "images" / "2.png", ns=(0, 0))
    assert len({base, touched, kept()}) == 3
