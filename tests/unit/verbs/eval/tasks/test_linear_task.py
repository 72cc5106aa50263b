import pytest
import torch
from coloured_classes import bench, network, write_set

from vitreg.errors import UserError
from vitreg.probes.defaults import RATES
from vitreg.verbs.eval.tasks.linear import Linear


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("coloured"))


def test_all_heads_are_reported_and_the_best_is_the_number(coloured, tmp_path):
    found = Linear(steps=60, batch=60).run(bench(coloured, tmp_path, network(depth=5)))
    rows = found.tables[0].rows
    assert len(rows) == 52
    assert {(row[0], row[1]) for row in rows} == {(f"last {n}", w) for n in (1, 4) for w in ("yes", "no")}
    assert sorted({row[2] for row in rows}) == list(RATES)
    assert found.metrics["top1"] == max(row[3] for row in rows) > 70
    assert all(found.metrics["top1"] > value for value in found.controls.values())
    assert "picked on the side it is judged on" in " ".join(found.notes)
    assert found.protocol["picked_on"] == "test"


def test_training_on_random_crops(coloured, tmp_path):
    found = Linear(steps=8, batch=48, augmented=True, lr=(0.1, 1.0)).run(bench(coloured, tmp_path))
    # Of three classes the best of several heads may be right by luck also with shuffled labels: only the other control counts.
    assert found.metrics["top1"] > max(70, found.controls["commonest class"])
    assert found.protocol["training_images"] == "random resized crops 0.08 to 1, mirrored"
    one, other = (Linear(steps=2, batch=8, augmented=True).run(bench(coloured, tmp_path)) for _ in range(2))
    assert one.tables == other.tables


def test_crops_without_chance_give_the_heads_of_stored_features(coloured, tmp_path, monkeypatch):
    """Both ways see the same features of the same images; only their order differs, which a whole batch does not see."""
    import vitreg.verbs.eval.tasks.linear as module

    preprocess = bench(coloured, tmp_path).view(resize_ratio=256 / 224).pictures
    monkeypatch.setattr(
        module,
        "SingleView",
        lambda _: lambda image: (torch.from_numpy(preprocess.pixels(image)).permute(2, 0, 1)[None],),
    )
    stored, fresh = (
        Linear(steps=5, batch=60, augmented=augmented, lr=(0.1,)).run(bench(coloured, tmp_path))
        for augmented in (False, True)
    )
    assert stored.tables == fresh.tables


def test_a_model_without_a_class_token_reads_means(coloured, tmp_path):
    found = Linear(steps=40, batch=60).run(bench(coloured, tmp_path, network(depth=4, class_token=False)))
    assert len(found.tables[0].rows) == 26
    assert found.metrics["top1"] > 70
    assert any("no class token" in note for note in found.notes)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"batch": 0}, {"lr": ()}, {"lr": (0.0,)}])
def test_bad_settings(coloured, tmp_path, settings):
    with pytest.raises(UserError, match="must be above 0"):
        Linear(**settings).run(bench(coloured, tmp_path))


def test_images_of_one_class_only(tmp_path):
    root = write_set(tmp_path / "set", train=3, test=2)
    for name in ("red", "blue"):
        for file in (root / "train" / name).iterdir():
            file.unlink()
    with pytest.raises(UserError, match="of one class"):
        Linear(steps=1).run(bench(root, tmp_path))
