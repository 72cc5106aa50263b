from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from vitreg.backbones import Backbone
from vitreg.data.sets.sides import open_sides
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.passes.bench import Bench
from vitreg.verbs.eval.tasks.tokens import Tokens
from vitreg.verbs.eval.token_pass import TokenPass

SIDE = 32
PLAIN = Preprocess((SIDE, SIDE), (SIDE, SIDE), IMAGENET.mean, IMAGENET.std, crop=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The left half has the colour of the class, the right half is noise."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for side, count in (("train", 24), ("val", 16)):
        for number, name in enumerate("abc"):
            (root / side / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (SIDE, SIDE, 3))
                pixels[:, : SIDE // 2] = 60 + 120 * np.eye(3)[number] + rng.integers(0, 40, (SIDE, SIDE // 2, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(root / side / name / f"{i:02}.png")
    return root


def network(**options):
    torch.manual_seed(0)
    network = VisionTransformer(SIDE, 8, 24, 1, 2, **options).eval()
    with torch.no_grad():
        network.blocks[0].attn.proj.weight.zero_()  # nothing of other patches
        network.blocks[0].mlp.fc2.weight.zero_()
        network.pos_embed.zero_()
    return network


def bench(folder, model=None, **options):
    backbone = Backbone(model or network(), preprocess=PLAIN)
    return Bench(backbone=backbone, data=str(folder), features=folder, **{"workers": 0, "batch_size": 20} | options)


def halves(share=1.0):
    """The left half stands in for outliers; of a share of the images only."""
    draw = torch.Generator().manual_seed(0)

    def classify(_pixels, norms):
        left = (torch.arange(16) % 4 < 2).expand(norms.shape)
        return left & (torch.rand(len(norms), 1, generator=draw) < share)

    return classify


def measure(folder, model=None, task=None, classify=None, **options):
    task, on = task or Tokens(), bench(folder, model, **options)
    return task.measure(on, TokenPass(on, task), open_sides(str(folder)), classify)


def test_a_kind_of_token_knows_what_its_patches_show(folder):
    found = measure(folder, classify=halves())
    assert found.metrics["outlier_patch"] > 95
    assert found.metrics["normal_patch"] < 60  # noise, chance is a third
    assert found.metrics["class_token"] < 40  # attends to nothing
    assert found.metrics["outlier_minus_normal_low"] > 20
    assert found.headline == "outlier_patch"
    assert found.controls["majority class"] == pytest.approx(100 / 3)
    assert found.controls["fitted to shuffled labels"] < 60
    assert found.counts == {"train": 72, "test": 48}


def test_images_without_outliers_are_left_out_of_all_rows_and_counted(folder):
    found = measure(folder, classify=halves(0.5))
    rows = {row[0]: row[2:4] for row in found.tables[0].rows}
    used = rows["outlier patch"]
    assert 20 < used[0] < 52
    assert rows["normal patch"] == rows["class token"] == used == list(found.counts.values())
    assert rows["class token, all images"] == [72, 48]
    assert f"{72 - used[0]} training and {48 - used[1]} test images had no outlier" in " ".join(found.notes)


def test_or_their_patch_of_most_extreme_norm_is_taken(folder):
    found = measure(folder, task=Tokens(missing="max-norm"), classify=halves(0.5))
    assert found.counts == {"train": 72, "test": 48}
    assert "most extreme norm" in " ".join(found.notes)
    assert "class_token_all_images" not in found.metrics


def test_every_register_has_a_row(folder):
    found = measure(folder, network(registers=2), classify=halves())
    assert {"register_1", "register_2"} <= set(found.metrics)
    assert not any("register" in note for note in found.notes)
    many = measure(folder, network(registers=10), classify=halves())
    assert "register_8" in many.metrics
    assert "register_9" not in many.metrics
    assert "first 8 of 10 registers" in " ".join(many.notes)


def grown(factor, _block, _given, tokens):
    """Multiply one patch of every image."""
    factors = torch.ones(17, 1)
    factors[6] = factor
    return tokens * factors


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({}, (3, 1)), ({"layer": 2}, (2, 2)), ({"outlier_layer": 2}, (3, 2)), ({"layer": 0, "outlier_layer": 1}, (0, 1))],
)
def test_outliers_are_told_at_the_peak_unless_a_block_is_named(folder, flags, expected):
    torch.manual_seed(0)
    model = VisionTransformer(SIDE, 8, 24, 4, 2).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.proj.weight.zero_()
            block.mlp.fc2.weight.zero_()
    for number, factor in ((1, 9.0), (2, 0.5), (3, 1 / 4.5)):
        model.blocks[number].register_forward_hook(partial(grown, factor))
    found = Tokens(detector="ratio:1.8", **flags).run(bench(folder, model))
    assert (found.protocol["layer"], found.protocol["outlier_layer"]) == expected
    assert found.protocol["side"] == "high"
    assert found.protocol["outlier_layer_is"] == ("as asked" if flags else "the peak of all blocks")


def test_rows_a_model_cannot_have_are_left_out_and_noted(folder):
    found = Tokens().run(bench(folder, network(cls_token=False, pool="mean")))
    assert [row[0] for row in found.tables[0].rows] == ["normal patch"]
    assert found.headline == "normal_patch"
    notes = " ".join(found.notes)
    assert "finds no outliers" in notes
    assert "no class token" in notes
    assert "no registers" in notes


def test_batches_do_not_matter(folder):
    def classify(_pixels, norms):
        return (torch.arange(16) % 4 < 2).expand(norms.shape)

    one, two = (measure(folder, classify=classify, batch_size=size) for size in (7, 72))
    assert one.metrics == pytest.approx(two.metrics)


def test_mistakes_of_the_user_get_a_sentence(tmp_path, folder):
    with pytest.raises(UserError, match="one side only"):
        Tokens().run(bench(folder / "train"))
    for side in ("train", "val"):
        (tmp_path / "one" / side / "a").mkdir(parents=True)
        (tmp_path / "one" / side / "a" / "0.png").write_bytes((folder / "val" / "a" / "00.png").read_bytes())
    with pytest.raises(UserError, match="no classes to tell apart"):
        Tokens().run(bench(tmp_path / "one"))
    for side in ("train", "val"):
        for name in "ab":
            (tmp_path / "few" / side / name).mkdir(parents=True)
            (tmp_path / "few" / side / name / "0.png").write_bytes((folder / "val" / "a" / "00.png").read_bytes())
    with pytest.raises(UserError, match="2 training images"):
        Tokens().run(bench(tmp_path / "few"))
