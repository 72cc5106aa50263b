import numpy as np
import pytest
import torch
from PIL import Image

from vitreg.analysis.substitute import KINDS
from vitreg.backbones import Backbone
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.errors import UserError
from vitreg.models import planted
from vitreg.models.vit import VisionTransformer
from vitreg.passes.bench import Bench
from vitreg.verbs.eval.tasks.controls import Controls

SIDE = 32
PLAIN = Preprocess((SIDE, SIDE), (SIDE, SIDE), IMAGENET.mean, IMAGENET.std, crop=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for side, count in (("train", 20), ("val", 8)):
        for number, name in enumerate("abc"):
            (root / side / name).mkdir(parents=True)
            for i in range(count):
                pixels = 60 + 90 * np.eye(3)[number] + rng.integers(0, 80, (SIDE, SIDE, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(root / side / name / f"{i:02}.png")
    return root


def network(**options):
    torch.manual_seed(0)
    network = VisionTransformer(SIDE, 8, 24, 3, 2, **options).eval()
    with torch.no_grad():
        for block in network.blocks:
            block.attn.qkv.weight.mul_(3)
            block.attn.proj.weight.mul_(10)
        if network.reg_token is not None:
            network.reg_token.normal_()
    return network


def bench(folder, model, preprocess=PLAIN, **options):
    backbone = Backbone(model, preprocess=preprocess)
    return Bench(backbone=backbone, data=str(folder), features=folder, **{"workers": 0, "batch_size": 16} | options)


def test_all_four_kinds_stand_beside_each_other(folder):
    found = Controls().run(bench(folder, network(registers=2)))
    rows = [tuple(row[:2]) for row in found.tables[0].rows]
    assert rows == [("none", "-")] + [(name, kind) for name in ("registers", "random") for kind in KINDS]
    assert found.metrics["linear"] > 90
    assert all(found.metrics["linear"] > control for control in found.controls.values())
    assert found.controls["majority class"] == pytest.approx(100 / 3)
    assert found.tables[0].rows[0][-1] == pytest.approx(1)
    assert found.tables[0].rows[1][2] == 2  # registers an image
    assert "finds no outliers" in " ".join(found.notes)


def test_registers_that_say_nothing_of_the_image_can_be_replaced_by_all_but_zero(folder):
    model = network(registers=2)
    with torch.no_grad():
        for block in model.blocks[:-1]:
            block.attn.proj.weight.zero_()  # they read nothing; the last block reads them
    found = Controls(replace=("registers",)).run(bench(folder, model)).metrics
    for kind in ("mean", "noise", "shuffle"):
        assert found[f"registers_{kind}_cosine"] == pytest.approx(1, abs=1e-6)
        assert found[f"registers_{kind}_linear"] == found["linear"]
        assert found[f"registers_{kind}_linear_lost"] == 0
    assert found["registers_zero_cosine"] < 0.999


def test_what_a_readout_loses_is_its_accuracy_before_minus_that_after_and_lies_in_its_interval(folder):
    found = Controls(replace=("registers",)).run(bench(folder, network(registers=2)))
    for kind in KINDS:
        lost = found.metrics[f"registers_{kind}_linear_lost"]
        assert lost == pytest.approx(found.metrics["linear"] - found.metrics[f"registers_{kind}_linear"])
        low, high = found.intervals[f"registers_{kind}_linear_lost"]
        assert low < high
        assert low <= lost <= high


def test_zeroing_is_what_a_plain_loop_does(folder):
    model = network(registers=2)
    found = Controls(replace=("registers",)).run(bench(folder, model))
    cosines = []
    with torch.no_grad():
        for path in sorted((folder / "val").rglob("*.png")):
            image = PLAIN(Image.open(path))[None]
            plain, zeroed = model.embed(image), model.embed(image)
            for block in model.blocks:
                plain, zeroed = block(plain), block(zeroed)
                zeroed[:, 1:3] = 0
            one, two = model.norm(plain)[0, 0], model.norm(zeroed)[0, 0]
            cosines.append(torch.cosine_similarity(one, two, dim=0).item())
    assert found.metrics["registers_zero_cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert np.mean(cosines) < 0.999


def test_batches_do_not_matter(folder):
    one, two = (Controls().run(bench(folder, network(registers=1), batch_size=size)).metrics for size in (5, 24))
    assert one == pytest.approx(two, abs=1e-4)


def test_planted_outliers_are_replaced_and_as_many_random_patches(tmp_path):
    rng = np.random.default_rng(0)
    for side, count in (("train", 12), ("val", 4)):
        for number, name in enumerate("ab"):
            (tmp_path / side / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 120, (6, 16, 6, 16, 3)) * (rng.random((6, 1, 6, 1, 1)) < 0.7)
                pixels = (60 + 70 * number + noise).reshape(96, 96, 3)
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / side / name / f"{i:02}.png")
    model, truth = planted.build("high-norm", 0, image_size=96)
    preprocess = Preprocess((96, 96), (96, 96), IMAGENET.mean, IMAGENET.std, crop=False)
    found = Controls(replace=("outliers", "random")).run(bench(tmp_path, model, preprocess))
    pictures = [Image.open(path) for path in sorted((tmp_path / "val").rglob("*.png"))]
    each = truth.outliers(torch.stack([preprocess(picture) for picture in pictures])).sum(1).float().mean()
    counts = {row[0]: row[2] for row in found.tables[0].rows}
    assert counts["outliers"] == pytest.approx(each.item(), abs=0.3)
    assert counts["random"] == counts["outliers"]
    assert counts["outliers"] > 0.3


def test_models_without_a_class_token_are_judged_by_their_patches(folder):
    found = Controls(replace=("random",)).run(bench(folder, network(cls_token=False, pool="mean")))
    assert "no class token" in " ".join(found.notes)
    assert found.protocol["feature"] == "mean of the patch tokens"
    assert found.tables[0].rows[1][2] == 1  # 2.3 % of 16 patches, at least one


def test_mistakes_of_the_user_get_a_sentence(folder):
    with pytest.raises(UserError, match="none of the tokens to replace"):
        Controls(replace=("registers",)).run(bench(folder, network()))
    with pytest.raises(UserError, match="one side only"):
        Controls().run(bench(folder / "train", network()))
