import numpy as np
import pytest
import torch
from PIL import Image

from vitreg.backbones import Backbone
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.passes.bench import Bench
from vitreg.verbs.eval.tasks.position import Position
from vitreg.verbs.eval.token_pass import TokenPass, open_pictures

SIZE = (32, 48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(root / f"{i:02}.png")
    return root


def model(depth=2):
    torch.manual_seed(0)
    network = VisionTransformer(32, 8, 24, depth, 3, registers=1).eval()
    with torch.no_grad():
        network.pos_embed.normal_()
    return network


def bench(folder, network=None, **options):
    preprocess = Preprocess((32, 32), (32, 32), IMAGENET.mean, IMAGENET.std, crop=False)
    options = {"size": SIZE, "workers": 0, "batch_size": 16} | options
    return Bench(
        backbone=Backbone(network or model(), preprocess=preprocess), data=str(folder), features=folder, **options
    )


def test_places_are_found_on_a_grid_that_is_not_square(folder):
    found = Position().run(bench(folder))
    assert found.metrics["accuracy"] > 80
    assert found.metrics["normal_distance"] < 1
    assert found.controls["chance"] == pytest.approx(100 / 24)
    assert all(found.metrics["accuracy"] > 3 * control for control in found.controls.values())
    assert found.counts == {"train": 48, "test": 12}
    assert found.protocol["classes"] == 24
    assert found.tables[0].rows[0][1] == 12 * 24


def test_without_outliers_it_says_so_and_tests_the_rest(folder):
    found = Position().run(bench(folder))
    assert "outlier_accuracy" not in found.metrics
    assert "finds no outliers after any block" in found.notes[0]
    assert found.protocol["threshold"] is None


def test_a_model_without_places_is_at_chance(folder):
    network = model(depth=1)
    with torch.no_grad():
        network.pos_embed.zero_()
    found = Position().run(bench(folder, network))
    assert found.metrics["accuracy"] < 9  # chance 4.2, over 288 tokens


def test_batches_do_not_matter(folder):
    def strict(value):
        return {k: v for k, v in value.metrics.items() if "difference" not in k}

    one, two = (Position(detector="absolute:1").run(bench(folder, batch_size=b)) for b in (7, 60))
    assert strict(one) == pytest.approx(strict(two), abs=0.4)


def test_classes_of_tokens_are_judged_apart(folder):
    on = bench(folder)
    task = Position()

    def first_column(pixels, norms):
        return (torch.arange(24) % 6 == 0).expand(norms.shape)

    found = task.measure(on, TokenPass(on, task), *open_pictures(on), first_column)
    assert [row[:2] for row in found.tables[0].rows] == [["normal", 12 * 20], ["outlier", 12 * 4]]
    weighed = (20 * found.metrics["normal_accuracy"] + 4 * found.metrics["outlier_accuracy"]) / 24
    assert found.metrics["accuracy"] == pytest.approx(weighed)
    assert found.metrics["outlier_blind_accuracy"] == pytest.approx(25)  # one of its four places
    assert found.metrics["normal_blind_accuracy"] == pytest.approx(5)  # one of twenty
    assert found.metrics["accuracy_difference_low"] <= found.metrics["accuracy_difference_high"]


def test_the_logistic_solver_finds_places_too(folder):
    found = Position(solver="logistic", tokens_per_image=12).run(bench(folder))
    assert found.metrics["accuracy"] > 80
    assert found.protocol["tokens_per_image"] == 12


def test_images_to_fit_on_are_never_judged(folder):
    train, judged = open_pictures(bench(folder, limit=9))
    assert (len(train), len(judged)) == (9, 9)
    names = {train.name(i) for i in range(9)}, {judged.name(i) for i in range(9)}
    assert not names[0] & names[1]
    assert all("4.png" in name or "9.png" in name for name in names[1])


def test_unreadable_images_are_listed(tmp_path, folder):
    for path in folder.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "00.png").write_bytes(b"no picture")
    found = Position().run(bench(tmp_path))
    assert [skipped.name.endswith("00.png") for skipped in found.skipped] == [True]
    assert found.counts["train"] == 47


def test_mistakes_of_the_user_get_a_sentence(tmp_path, folder):
    one = tmp_path / "one"
    one.mkdir()
    (one / "a.png").write_bytes((folder / "00.png").read_bytes())
    with pytest.raises(UserError, match="holds 1 image"):
        Position().run(bench(one))
    with pytest.raises(UserError, match="leaves 1 image"):
        Position().run(bench(folder, limit=1))
    with pytest.raises(UserError, match="no block 7"):
        Position(layer=7).run(bench(folder))
    with pytest.raises(UserError, match="detector"):
        Position(detector="mixtur").run(bench(folder))
    with pytest.raises(UserError, match="tokens per image"):
        Position(solver="logistic", tokens_per_image=0).run(bench(folder))
    with pytest.raises(UserError, match="calibration"):
        Position(calibration=0).run(bench(folder))
