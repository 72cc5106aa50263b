"""Extraction gives what a plain call of the model gives, and says what it cannot give."""

from dataclasses import replace

import pytest
import torch
from tests.unit.features.pictures import EVERYTHING, IMAGES, PLAIN, SIDE, Pictures, bench, model, pixels

from vitreg.backbones import Backbone, Capture
from vitreg.errors import UserError
from vitreg.features.extract import Wanted, extract

pytestmark = pytest.mark.usefixtures("one_thread", "small_shards")


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


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        extract(bench(tmp_path / "file"), Pictures(), Wanted())
