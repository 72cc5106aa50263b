import numpy as np
import pytest
import torch
from coloured_classes import bench, network, write_set
from sklearn.linear_model import LogisticRegression

from vitreg.data.sets.listed import MultiLabelSet
from vitreg.data.sets.sides import Sides, open_sides
from vitreg.errors import UserError
from vitreg.passes import bench as benches
from vitreg.probes.logistic import GRID
from vitreg.verbs.eval.tasks.logistic import Logistic


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("coloured"))


def features(side, run):
    preprocess = run.view(resize_ratio=1).pictures
    images = torch.stack([preprocess(side.read(i).image) for i in range(len(side))])
    return run.backbone(images).cls.double().numpy()


def test_the_protocol_written_out_with_scikit_learn_gives_the_same(coloured, tmp_path):
    found = Logistic().run(bench(coloured, tmp_path))
    sides, run = open_sides(str(coloured)), bench(coloured, tmp_path)
    x, queries = features(sides.train, run), features(sides.test, run)
    model = LogisticRegression(C=found.protocol["C"], max_iter=10_000, tol=1e-8).fit(x, sides.train.labels)
    assert found.metrics["top1"] == pytest.approx(100 * model.score(queries, sides.test.labels), abs=3.4)  # 1 of 30
    assert found.headline == "top1"
    assert found.metrics["top1"] > 70
    assert all(found.metrics["top1"] > value for value in found.controls.values())
    rows = found.tables[0].rows
    assert [row[0] for row in rows] == list(GRID)
    best = max(row[1] for row in rows)
    assert found.protocol["C"] == next(row[0] for row in rows if row[1] == best)
    assert found.protocol["C_chosen_on"] == "a random 10 % of train, seed 0, not stratified"
    assert found.protocol["transform"] == "short side 32 bicubic, centre crop 32x32"


def test_a_validation_side_chooses_c(coloured, tmp_path, monkeypatch):
    sides = open_sides(str(coloured))
    given = Sides("set", sides.train, sides.test, "mean_per_class", val=sides.test)
    monkeypatch.setattr(benches, "open_sides", lambda *_, **__: given)
    found = Logistic(c=(1e-6, 0.1)).run(bench(coloured, tmp_path))
    assert (found.headline, found.protocol["C_chosen_on"]) == ("mean_per_class", "val")
    assert found.counts == {"train": 60, "val": 30, "test": 30}


def test_images_of_several_labels(coloured, tmp_path, monkeypatch):
    sides = []
    for side in ("train", "val"):
        files = sorted((coloured / side).rglob("*.png"))
        names = [file.parent.name for file in files]
        labels = np.array([[n == "red", n != "blue"] for n in names], np.float32)
        ignored = np.zeros_like(labels, bool)
        ignored[0, 0] = side == "val"
        sides.append(MultiLabelSet(files, labels, ignored, ("red", "warm")))
    given = Sides("set", *sides, "map")
    monkeypatch.setattr(benches, "open_sides", lambda *_, **__: given)
    found = Logistic().run(bench(coloured, tmp_path))
    assert found.headline == "map"
    assert found.metrics["map"] > 80
    assert found.controls["always the same answer"] == pytest.approx(100 * (10 / 29 + 20 / 30) / 2)
    assert found.metrics["map"] > max(found.controls.values())
    assert found.protocol["ignored_labels"]


def test_the_end_of_the_grid_is_said(coloured, tmp_path):
    found = Logistic(c=(1e-6, 2e-6)).run(bench(coloured, tmp_path))
    assert "at an end of the grid" in found.notes[-1]


@pytest.mark.parametrize("c", [(), (0.0, 1.0), (float("inf"),)])
def test_bad_settings(coloured, tmp_path, c):
    with pytest.raises(UserError, match="C must be"):
        Logistic(c=c).run(bench(coloured, tmp_path))


def test_a_model_without_a_class_token(coloured, tmp_path):
    headless = bench(coloured, tmp_path, network(class_token=False))
    with pytest.raises(UserError, match="no class token; take the mean"):
        Logistic().run(headless)
    assert Logistic(c=(0.01, 1.0), token="mean").run(headless).metrics["top1"] > 70
