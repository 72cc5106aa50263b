import pytest
import torch
from coloured_classes import bench, network, write_set

from vitreg.data.sets.sides import open_sides
from vitreg.errors import UserError
from vitreg.probes.neighbours import knn_votes
from vitreg.verbs.eval.tasks.knn import Knn


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("coloured"))


def naive(coloured, model, k, most):
    """Class tokens of both sides, images one by one, with the transform of the published protocol."""
    run = bench(coloured, coloured, model)
    preprocess = run.view(resize_ratio=256 / 224).pictures
    assert preprocess.resize == 37  # 32 * 256 / 224
    features, labels = [], []
    sides = open_sides(str(coloured))
    for side in (sides.train, sides.test):
        images = [preprocess(side.read(i).image)[None] for i in range(len(side))]
        features.append(torch.cat([run.backbone(image).cls for image in images]).float())
        labels.append(torch.from_numpy(side.labels))
    votes = knn_votes(features[0], labels[0], features[1], 3, ks=(k, most))[k]
    return 100 * (votes.argmax(-1) == labels[1]).float().mean().item()


def test_accuracy_is_that_of_the_protocol_written_out(coloured, tmp_path):
    found = Knn(k=(5, 20)).run(bench(coloured, tmp_path))
    assert found.metrics["knn5"] == pytest.approx(naive(coloured, network(), 5, 20))
    assert found.headline == "knn20"
    assert found.metrics["knn20"] > 60
    assert all(found.metrics["knn20"] > value for value in found.controls.values())
    assert found.controls["commonest class"] == pytest.approx(100 / 3)
    assert found.metrics["knn5_top5"] >= found.metrics["knn5"]
    assert (found.counts, found.classes) == ({"train": 60, "test": 30}, 3)
    assert found.protocol["transform"] == "short side 37 bicubic, centre crop 32x32"


def test_few_images_of_each_class_are_drawn_anew_for_every_try(coloured, tmp_path):
    found = Knn(k=(2, 20), n_per_class=(1, 5), n_tries=3).run(bench(coloured, tmp_path))
    rows = {(row[0], row[1]): row for row in found.tables[0].rows}
    assert set(rows) == {("all", 2), ("all", 20), (1, 1), (5, 2), (5, 5)}
    assert found.metrics["5_per_class_knn5"] == pytest.approx(rows[5, 5][2])
    assert rows[1, 1][3] > 0


def test_asking_for_more_neighbours_than_images_is_said(coloured, tmp_path):
    found = Knn(k=(200,)).run(bench(coloured, tmp_path))
    assert "60 training images; all voted" in found.notes[-1]


def test_tokens(coloured, tmp_path):
    rows = {token: Knn(k=(5,), token=token).run(bench(coloured, tmp_path)) for token in ("cls", "mean", "cls+mean")}
    assert {token: found.protocol["token"] for token, found in rows.items()} == {t: t for t in rows}
    headless = bench(coloured, tmp_path, network(class_token=False))
    with pytest.raises(UserError, match="no class token; take the mean"):
        Knn().run(headless)
    assert Knn(k=(5,), token="mean").run(headless).metrics["knn5"] > 60


def test_a_class_without_training_images_is_said(tmp_path):
    root = write_set(tmp_path / "set", train=5, test=2)
    for file in (root / "train" / "red").iterdir():
        file.unlink()
    found = Knn(k=(5,)).run(bench(root, tmp_path))
    assert any("1 of 3 classes without a training image, so never answered: 'red'" in note for note in found.notes)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"k": ()}, "k must be"), ({"k": (0,)}, "k must be"), ({"n_tries": 0}, "n_tries"), ({"temperature": 0}, "temper")],
)
def test_bad_settings(coloured, tmp_path, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        Knn(**settings).run(bench(coloured, tmp_path))


def test_one_class_only(tmp_path):
    with pytest.raises(UserError, match="no classes to tell apart"):
        Knn().run(bench(write_set(tmp_path / "set", names=("red",)), tmp_path))
