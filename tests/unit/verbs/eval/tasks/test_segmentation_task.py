from dataclasses import replace

import numpy as np
import pytest
import torch
from colour_scenes import COLOURS, bench, classes_of, put, write_masks

from vitreg.data.views.transforms import CLIP
from vitreg.errors import UserError
from vitreg.verbs.eval.dense import crops as dense_crops
from vitreg.verbs.eval.dense.pictures import class_colours
from vitreg.verbs.eval.tasks.segmentation import Segmentation

QUICK = Segmentation(steps=80, lr=0.01, batch=4)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_masks(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def outcome(scenes, tmp_path_factory):
    return QUICK.run(bench(scenes, tmp_path_factory.mktemp("features")))


def test_a_head_on_colours_beats_both_controls_and_says_how_it_was_made(outcome):
    assert outcome.headline == "miou"
    assert outcome.metrics["miou"] > 1.5 * max(outcome.controls.values())
    assert list(outcome.controls) == ["commonest class everywhere", "trained with masks of other images"]
    assert outcome.counts == {"train": 10, "test": 4}
    assert outcome.classes == 4
    for key in ("protocol", "size", "steps", "learning rate", "test", "points learned from"):
        assert key in outcome.protocol


def test_the_constant_control_is_the_share_of_the_commonest_class(outcome):
    truth = np.concatenate([classes_of(number)[3:].flatten() for number in range(100, 104)])
    assert outcome.controls["commonest class everywhere"] == pytest.approx(100 * (truth == 0).mean() / 4)


def test_the_table_has_a_row_for_each_class_and_averages_to_the_headline(outcome):
    (table,) = outcome.tables
    assert [row[0] for row in table.rows] == ["0", "1", "2", "3"]
    assert np.mean([row[2] for row in table.rows]) == pytest.approx(outcome.metrics["miou"])
    assert sum(row[1] for row in table.rows) == pytest.approx(100)


def test_what_the_head_says_is_drawn_beside_the_truth(outcome):
    image, true, head, control = outcome.sheets["segmentation"].columns
    assert true.title == "true classes"
    assert np.array_equal(true.cells[0][3:], class_colours(classes_of(100))[3:])

    def agreeing(cells):
        return np.mean([(a == b).all(-1).mean() for a, b in zip(cells, true.cells, strict=True)])

    assert agreeing(head.cells) > agreeing(control.cells)
    assert np.array_equal(image.cells[0], COLOURS[classes_of(100)])


def test_the_same_seed_gives_the_same_number_and_another_another(scenes, tmp_path):
    first = bench(scenes, tmp_path, limit=4)
    short = Segmentation(steps=5, lr=0.01, batch=4)
    results = [short.run(replace(first, seed=seed)).metrics["miou"] for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_classes_that_cannot_be_learned_or_judged_and_what_is_unreadable_are_named(tmp_path):
    write_masks(tmp_path / "set", train=3, test=2)
    labels = classes_of(100)
    labels[30:] = 4
    put(tmp_path / "set" / "val" / "masks" / "100.png", labels)
    (tmp_path / "set" / "train" / "images" / "1.png").write_bytes(b"no image")
    put(tmp_path / "set" / "val" / "masks" / "101.png", np.full((60, 84), 255, np.uint8))
    outcome = Segmentation(steps=3, batch=2, classes=6).run(bench(tmp_path / "set", tmp_path / "features"))
    assert any("1 of 6 classes with no pixel seen" in note and "'4'" in note for note in outcome.notes)
    assert any("with no pixel to judge on" in note and "'5'" in note for note in outcome.notes)
    assert outcome.counts["train"] == 2
    assert [s.name.rsplit("/", 1)[-1] for s in outcome.skipped] == ["1.png"]
    assert outcome.tables[0].rows[5][2] in (None, 0.0)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Segmentation(batch=1), "batch must be at least 2"),
        (Segmentation(steps=0), "steps above 0"),
        (Segmentation(lr=0.0), "lr above 0"),
        (Segmentation(classes=2), r"label [23] where classes are 0\.\.1 and 255 marks no class; set classes or ignore"),
    ],
)
def test_settings_that_cannot_work_are_refused(task, message, scenes, tmp_path):
    with pytest.raises(UserError, match=message):
        task.run(bench(scenes, tmp_path))


def test_sizes_are_rounded_to_whole_patches_since_nothing_may_be_padded(scenes, tmp_path):
    outcome = Segmentation(steps=1, batch=2).run(replace(bench(scenes, tmp_path, limit=2), size=(70, 90)))
    assert outcome.protocol["size"] == [64, 96]
    assert outcome.protocol["points learned from"] == [16, 24]


def test_masks_of_the_test_side_without_any_class_are_refused(tmp_path):
    write_masks(tmp_path / "set", train=2, test=1)
    put(tmp_path / "set" / "val" / "masks" / "100.png", np.full((60, 84), 255, np.uint8))
    with pytest.raises(UserError, match="nothing to judge"):
        Segmentation(steps=1, batch=2).run(bench(tmp_path / "set", tmp_path / "features"))


def test_the_published_protocol_learns_from_crops_and_judges_by_windows(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("vitreg.verbs.eval.tasks.segmentation._CROP", 64)
    monkeypatch.setattr("vitreg.verbs.eval.tasks.segmentation._STRIDE", 43)
    # The distortion of colours would take away what these scenes are told by.
    monkeypatch.setattr("vitreg.data.views.dense_augment.photometric", lambda image, _: image)
    task = Segmentation(protocol="ade20k", steps=40, lr=0.01, batch=4)
    outcomes = [task.run(bench(scenes, tmp_path, limit=4)) for _ in range(2)]
    assert outcomes[0].metrics == outcomes[1].metrics  # whatever the threads did
    assert outcomes[0].metrics["miou"] > 1.2 * max(outcomes[0].controls.values())
    assert outcomes[0].protocol["warm-up"] == 2  # 1500 of 40 000


def test_what_a_crop_lacks_is_the_mean_colour_of_the_model(scenes, tmp_path, monkeypatch):
    """Black with ImageNet's mean would be -1.8 to -2.1 to the model, and mmsegmentation's padding is 0."""
    monkeypatch.setattr("vitreg.verbs.eval.tasks.segmentation._CROP", 64)
    corners, read = [], dense_crops.read_tokens

    def look(backbone, images, *rest, **options):
        corners.append(images[:, :, -1, -1])
        return read(backbone, images, *rest, **options)

    monkeypatch.setattr(dense_crops, "read_tokens", look)
    at = bench(scenes, tmp_path, limit=4)
    at.backbone.preprocess = CLIP.with_size((64, 64))
    Segmentation(protocol="ade20k", steps=8, batch=2).run(at)
    padded = torch.cat(corners[:8]).abs().amax(1) < 0.01  # of the values of a byte, those next to 0 are 0.014 apart
    assert 0 < padded.sum() < 16
