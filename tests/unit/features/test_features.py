"""Extraction gives what a plain call of the model gives, once, and again after anything that happened on the way."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.patience import PATIENCE, until

from vitreg.backbones import Backbone, Capture, Edit
from vitreg.data.sets.example import Example, Portion
from vitreg.data.sets.folders import FolderSet
from vitreg.data.sets.listed import ArraySet
from vitreg.data.sources.decode import Unreadable
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.errors import UserError
from vitreg.features import shards as feature_shards
from vitreg.features.extract import Wanted, extract
from vitreg.features.fields import FieldReader
from vitreg.machine.runtime import Processes
from vitreg.models.vit import VisionTransformer
from vitreg.passes.bench import Bench

SIDE, IMAGES, PER_SHARD = 16, 22, 4
PLAIN = Preprocess((SIDE, SIDE), (SIDE, SIDE), IMAGENET.mean, IMAGENET.std, crop=False)
EVERYTHING = Wanted(cls=(0, -1), mean=(-1,), registers=(1,), patches=(0, -1), norms=(0, -1), mirrored=True)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Forked children run on one thread; this process must compute in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(feature_shards, "MOST_IMAGES", PER_SHARD)


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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_shards, "MOST_IMAGES", PER_SHARD)
        folder = tmp_path_factory.mktemp("undisturbed")
        extract(bench(folder), Pictures(torn=(5, 6)), EVERYTHING)
    return shards_of(folder)


def test_every_field_is_what_the_model_gives(tmp_path):
    backbone = model()
    data = Pictures()
    store = extract(bench(tmp_path, backbone, batch_size=IMAGES), data, EVERYTHING)
    images = torch.stack([PLAIN(data.read(i).image) for i in range(IMAGES)])
    for prefix, seen in (("", images), ("mirrored/", images.flip(-1))):
        # The batches of the extraction, as sums over batches of other sizes may differ in the last bit.
        whole = [backbone.trace(part, Capture(hidden="all", norms="all")) for part in seen.split(IMAGES)]
        final = torch.cat([backbone(part).values for part in seen.split(IMAGES)])
        hidden = [torch.cat([trace.hidden(block) for trace in whole]) for block in (0, 1)]
        layout = backbone.layout((SIDE, SIDE))
        with torch.no_grad():
            first = backbone.anatomy.final_norm(hidden[0])
        expected = {
            "cls/0": first[:, 0],
            "cls/1": final[:, 0],
            "mean/1": final[:, layout.patches].mean(1),
            "registers/1": final[:, list(layout.registers)],
            "patches/0": first[:, layout.patches],
            "patches/1": final[:, layout.patches],
            "norms/0": hidden[0][:, layout.patches].norm(dim=-1),
            "norms/1": hidden[1][:, layout.patches].norm(dim=-1),
        }
        assert {name for name in store if name.startswith("mirrored/") == bool(prefix)} == {
            prefix + n for n in expected
        }
        for name, truth in expected.items():
            torch.testing.assert_close(store[prefix + name][:], truth, rtol=1e-5, atol=1e-6)


def test_the_last_block_after_the_final_norm_is_exactly_what_the_model_returns(tmp_path):
    backbone, data = model(), Pictures()
    images = torch.stack([PLAIN(data.read(i).image) for i in range(IMAGES)])
    whole = torch.cat([backbone(part).values for part in images.split(2)])
    for wanted in (Wanted(patches=(-1,)), Wanted(patches=(-1,), cls=(0, 1), norms=(1,))):
        store = extract(bench(tmp_path, backbone), data, wanted)
        assert torch.equal(store["cls/-1"][:], whole[:, 0])
        assert torch.equal(store["patches/-1"][:], whole[:, backbone.layout((SIDE, SIDE)).patches])


def test_without_the_final_norm_block_outputs_are_kept(tmp_path):
    backbone, data = model(), Pictures()
    store = extract(bench(tmp_path, backbone), data, Wanted(cls=(0, -1), final_norm=False))
    images = torch.stack([PLAIN(data.read(i).image) for i in range(2)])
    trace = backbone.trace(images, Capture(hidden="all"))
    for block in (0, 1):
        assert torch.equal(store[f"cls/{block}"][:2], trace.hidden(block)[:, 0])


def test_half_precision_rounds_and_what_does_not_fit_is_an_error(tmp_path):
    backbone, data = model(), Pictures()
    wanted = Wanted(patches=(-1,), norms=(-1,))
    exact = extract(bench(tmp_path, backbone), data, wanted)
    half = extract(bench(tmp_path, backbone), data, replace(wanted, dtype="float16"))
    assert torch.equal(half["patches/-1"][:], exact["patches/-1"][:].half().float())
    assert torch.equal(half["norms/-1"][:], exact["norms/-1"][:])
    with torch.no_grad():
        backbone.anatomy.final_norm.weight.mul_(1e6)
    extract(bench(tmp_path, backbone), data, wanted)
    with pytest.raises(UserError, match="not finite as float16 of a model in float32; store float32"):
        extract(bench(tmp_path, backbone), data, replace(wanted, dtype="float16"))


def test_sizes_that_are_no_multiple_of_the_patch_follow_the_policy(tmp_path):
    backbone, data = model(), Pictures()
    seen = {}
    for policy in ("pad", "crop", "resize"):
        store = extract(bench(tmp_path, backbone, size=(18, 22), policy=policy), data, Wanted(patches=(-1,)))
        seen[policy] = store["patches/-1"].shape[1]
        assert store.record.grid[0] * store.record.grid[1] == seen[policy]
    assert seen == {"pad": 5 * 6, "crop": 4 * 5, "resize": 5 * 6}


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


def test_unreadable_images_are_left_out_and_named(tmp_path):
    torn = (0, 4, 5, 6, 7, 21)  # all of a shard among them
    store = extract(bench(tmp_path), Pictures(torn=torn), Wanted())
    assert store.rows.tolist() == [i for i in range(IMAGES) if i not in torn]
    assert [(skipped.name, skipped.reason) for skipped in store.skipped] == [(f"toy/{i}", "torn") for i in torn]
    whole = extract(bench(tmp_path / "whole", batch_size=1), Pictures(), Wanted())["cls/-1"][:]
    torch.testing.assert_close(store["cls/-1"][:], whole[store.rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "wanted", "sentence"),
    [
        ({"registers": 0}, Wanted(registers=(-1,)), "has no registers"),
        ({"cls_token": False}, Wanted(), "has no class token; ask for the mean"),
        ({}, Wanted(cls=()), "no features asked for"),
        ({}, Wanted(patches=(2,)), "no block 2 in a model of 2 blocks"),
        ({}, Wanted(dtype="bfloat16"), "no type of stored features 'bfloat16'"),  # type: ignore[arg-type]
    ],
)
def test_features_the_model_does_not_have(tmp_path, changes, wanted, sentence):
    if "cls_token" in changes:
        import timm

        network = timm.create_model(
            "vit_tiny_patch16_224", img_size=SIDE, patch_size=4, depth=2, class_token=False, global_pool="avg"
        )
        backbone = Backbone(network.eval(), preprocess=PLAIN)
    else:
        backbone = model(**changes)
    with pytest.raises(UserError, match=sentence):
        extract(bench(tmp_path, backbone), Pictures(), wanted)


def test_sets_that_give_nothing(tmp_path):
    with pytest.raises(UserError, match="no images in toy"):
        extract(bench(tmp_path), Pictures(pixels(0)), Wanted())
    with pytest.raises(UserError, match="none of 22 images could be read, such as toy/0: torn"):
        extract(bench(tmp_path), Pictures(torn=range(IMAGES)), Wanted())


@pytest.mark.parametrize("harm", ["flipped", "truncated"])
def test_a_damaged_shard_is_made_again_and_said(tmp_path, undisturbed, harm):
    data = Pictures(torn=(5, 6))
    store = extract(bench(tmp_path), data, EVERYTHING)
    file = store.folder / "000002.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content if harm == "flipped" else content[:-1])
    data.read_places.clear()
    again = extract(bench(tmp_path), data, EVERYTHING)
    assert data.read_places[16:] == [8, 9, 10, 11]
    assert again.notes == (f"{file} was damaged; its features were extracted anew.",)
    assert shards_of(tmp_path) == undisturbed


def test_a_damaged_description_costs_no_finished_shard(tmp_path, undisturbed):
    data = Pictures(torn=(5, 6))
    store = extract(bench(tmp_path), data, EVERYTHING)
    (store.folder / "store.json").write_text("{")
    data.read_places.clear()
    extract(bench(tmp_path), data, EVERYTHING)
    assert len(data.read_places) == 16
    assert shards_of(tmp_path) == undisturbed


def test_an_interruption_keeps_what_is_finished(tmp_path, undisturbed):
    class Stopped(Pictures):
        def read(self, index):
            if index == 14 and len(self.read_places) > 16:
                raise KeyboardInterrupt
            return super().read(index)

    with pytest.raises(KeyboardInterrupt):
        extract(bench(tmp_path), Stopped(torn=(5, 6)), EVERYTHING)
    data = Pictures(torn=(5, 6))
    extract(bench(tmp_path), data, EVERYTHING)
    assert data.read_places[16:] == list(range(12, IMAGES))
    assert shards_of(tmp_path) == undisturbed


def child(folder, moment=None, count=0, torn=(5, 6), rank=0, world=1, slow=0.0, workers=0):
    """Extract in a process of its own that kills itself at the count-th event of a kind. Returns it, started."""

    def run():
        torch.set_num_threads(1)
        seen = 0

        def at(event):
            nonlocal seen
            seen += event == moment
            if seen > count:
                os.kill(os.getpid(), signal.SIGKILL)

        replace_file, write_bytes, read = os.replace, Path.write_bytes, FieldReader.__call__

        def replacing(a, b):
            at("before a file is in place")
            replace_file(a, b)
            at("after a file is in place")

        def writing(path, content):
            with path.open("wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                at("half of a file")
            return write_bytes(path, content)

        def reading(reader, *images):
            at("batch")
            time.sleep(slow)
            return read(reader, *images)

        os.replace, Path.write_bytes, FieldReader.__call__ = replacing, writing, reading
        settings = {"group": Alone(rank, world), "workers": workers}
        extract(bench(folder, **settings), Pictures(torn=torn), EVERYTHING)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


class Alone(Processes):
    """One of several processes that cannot talk."""

    def gather(self, value):
        return [value]


MOMENTS = [
    *(("batch", n) for n in (0, 5, 10)),
    *(("half of a file", n) for n in (0, 3)),
    *(("before a file is in place", n) for n in (0, 1, 6)),
    *(("after a file is in place", n) for n in (0, 5, 12)),
]
OTHERS = [
    *(("batch", n) for n in (1, 2, 3, 4, 6, 7, 8, 9)),
    *(("half of a file", n) for n in (1, 2, 4, 5)),
    *(("before a file is in place", n) for n in (2, 3, 4, 5, 7, 8, 9, 10, 11, 12)),
    *(("after a file is in place", n) for n in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11)),
]


@pytest.mark.parametrize(
    ("moment", "count"), [*MOMENTS, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)]
)
def test_killed_at_any_moment_it_goes_on_bit_for_bit(tmp_path, undisturbed, moment, count):
    killed = child(tmp_path, moment, count)
    killed.join(PATIENCE)
    assert killed.exitcode == -signal.SIGKILL
    finished = {name: data for name, data in shards_of(tmp_path).items() if name.endswith(".json")}
    data = Pictures(torn=(5, 6))
    store = extract(bench(tmp_path), data, EVERYTHING)
    assert shards_of(tmp_path) == undisturbed
    assert not list(store.folder.glob("*.part"))
    expected = [i for i in range(IMAGES) if f"{i // PER_SHARD:06d}.json" not in finished]
    assert data.read_places[16:] == expected


@pytest.mark.parametrize("ranks", [(0, 0, 0), (0, 1, 2)])
def test_processes_share_one_extraction(tmp_path, undisturbed, ranks):
    world = len(set(ranks))
    processes = [child(tmp_path, slow=0.02, rank=rank, world=world) for rank in ranks]
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert shards_of(tmp_path) == undisturbed


def test_the_work_is_done_once(tmp_path, undisturbed):
    other = child(tmp_path, slow=0.1)
    until(lambda: list(tmp_path.glob("*/claims")), other)
    data = Pictures(torn=(5, 6))
    extract(bench(tmp_path), data, EVERYTHING)
    other.join(PATIENCE)
    assert other.exitcode == 0
    assert len(data.read_places[16:]) < IMAGES
    assert shards_of(tmp_path) == undisturbed


def test_the_shard_of_a_process_that_dies_is_taken_over(tmp_path, undisturbed):
    dying = child(tmp_path, "batch", 3, slow=0.3)
    until(lambda: list(tmp_path.glob("*/000000.json")), dying)  # it is on the second shard
    extract(bench(tmp_path), Pictures(torn=(5, 6)), EVERYTHING)
    dying.join(PATIENCE)
    assert dying.exitcode == -signal.SIGKILL
    assert shards_of(tmp_path) == undisturbed


def test_worker_processes_give_the_same(tmp_path, undisturbed):
    extract(bench(tmp_path, workers=2), Pictures(torn=(5, 6)), EVERYTHING)
    assert shards_of(tmp_path) == undisturbed


def test_a_resumed_extraction_keeps_the_batch_it_was_begun_with(tmp_path, monkeypatch):
    seen = []
    read = FieldReader.__call__
    monkeypatch.setattr(
        FieldReader, "__call__", lambda reader, *images: seen.append(len(images[0])) or read(reader, *images)
    )
    monkeypatch.setattr("vitreg.passes.view.images_at_once", lambda *_: 4)
    killed = child(tmp_path, "batch", 2)
    killed.join(PATIENCE)
    extract(bench(tmp_path, batch_size=None), Pictures(torn=(5, 6)), EVERYTHING)
    assert set(seen) == {2, 1}


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        extract(bench(tmp_path / "file"), Pictures(), Wanted())
