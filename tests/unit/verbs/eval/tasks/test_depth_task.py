import numpy as np
import pytest
import torch
from colour_scenes import bench, classes_of, put, write_depths

from vitreg.errors import UserError
from vitreg.probes.dense.scores import DEPTH_ERRORS
from vitreg.verbs.eval.tasks.depth import Depth, blocks_to_read

QUICK = Depth(steps=300, lr=0.01, batch=4)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_depths(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def outcome(scenes, tmp_path_factory):
    return QUICK.run(bench(scenes, tmp_path_factory.mktemp("features")))


def test_a_head_on_brightness_beats_both_controls_and_says_how_it_was_made(outcome):
    assert outcome.headline == "rmse"
    assert not outcome.larger_is_better
    assert outcome.metrics["rmse"] < min(outcome.controls.values())
    assert list(outcome.controls) == ["mean depth map", "mean depth"]
    assert outcome.protocol["blocks"] == [3]
    assert outcome.protocol["tokens"] == "patches and class token, before the final norm"
    assert outcome.tables[0].columns == ["what", *DEPTH_ERRORS]
    assert [row[0] for row in outcome.tables[0].rows] == ["head", "mean depth map", "mean depth"]


def test_the_constant_control_is_the_error_of_one_mean(outcome):
    # The mean over the points learned from, 16 x 16 of each training image; unknown ones do not count.
    rows, cols = (((np.arange(16) + 0.5) * side / 16).astype(int) for side in (60, 84))
    known = []
    for number in range(10):
        metres = 1.0 + classes_of(number)
        metres[:3] = 0
        points = metres[np.ix_(rows, cols)]
        known.append(points[points > 0])
    mean = np.concatenate(known).mean()
    errors = [np.sqrt(((1.0 + classes_of(number)[3:] - mean) ** 2).mean()) for number in range(100, 104)]
    assert outcome.controls["mean depth"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_what_the_head_says_is_drawn_beside_the_truth_in_metres(outcome):
    sheet = outcome.sheets["depth"]
    assert [column.title for column in sheet.columns] == ["image", "true depth", "head", "control: mean depth map"]
    true, head, control = (np.stack(column.cells[:]) for column in sheet.columns[1:])
    known = np.isfinite(true)
    np.testing.assert_allclose(true[0][3:], 1.0 + classes_of(100)[3:], rtol=1e-6)
    assert np.abs(head - true)[known].mean() < np.abs(control - true)[known].mean()


def test_blocks_are_those_of_the_official_heads():
    assert blocks_to_read(12, 1) == (11,)
    assert blocks_to_read(12, 4) == (2, 5, 8, 11)
    assert blocks_to_read(24, 4) == (4, 11, 17, 23)
    assert blocks_to_read(40, 4) == (9, 19, 29, 39)
    with pytest.raises(UserError, match="pass layers 1"):
        blocks_to_read(3, 4)


@pytest.mark.parametrize("options", [{"layers": "4"}, {"cls": False}, {"final_norm": True}, {"gradient_loss": True}])
def test_every_variant_runs_and_gives_another_number(options, scenes, tmp_path):
    plain, other = (
        Depth(steps=8, lr=0.01, batch=4, **extra).run(bench(scenes, tmp_path, limit=3)) for extra in ({}, options)
    )
    assert other.metrics["rmse"] != plain.metrics["rmse"]
    assert np.isfinite(list(other.metrics.values())).all()


def test_a_model_without_a_class_token_is_told_what_to_do(scenes, tmp_path):
    without = bench(scenes, tmp_path, kwargs={"class_token": False, "global_pool": "avg"}, limit=3)
    with pytest.raises(UserError, match=r"no class token .* pass no_cls"):
        QUICK.run(without)
    assert Depth(steps=2, batch=2, cls=False).run(without).counts["test"] == 3


def test_images_without_known_depth_are_left_out_and_named(tmp_path):
    write_depths(tmp_path / "set", train=3, test=2)
    nothing = np.zeros((60, 84), np.uint16)
    put(tmp_path / "set" / "train" / "depth" / "1.png", nothing)
    put(tmp_path / "set" / "test" / "depth" / "101.png", nothing)
    outcome = Depth(steps=2, batch=2).run(bench(tmp_path / "set", tmp_path / "features"))
    assert outcome.counts == {"train": 2, "test": 1}
    assert outcome.skipped[0].reason == "no pixel has a known depth"
    assert "1 test images have no known depth in range" in outcome.notes[0]


def test_depths_far_outside_the_bins_point_at_the_scale(scenes, tmp_path):
    with pytest.raises(UserError, match=r"between 0\.001 and 10 m; look at depth_scale"):
        Depth(depth_scale=1.0).run(bench(scenes, tmp_path, limit=3))


def test_settings_that_cannot_work_are_refused(scenes, tmp_path):
    for task in (Depth(steps=0), Depth(batch=0), Depth(lr=-1.0), Depth(max_depth=0.0)):
        with pytest.raises(UserError, match="must lie above 0"):
            task.run(bench(scenes, tmp_path))


def test_the_published_protocol_wants_images_of_nyu(scenes, tmp_path):
    with pytest.raises(UserError, match=r"not 60x84; use protocol short"):
        Depth(protocol="nyud", steps=1, batch=1).run(bench(scenes, tmp_path, limit=2))


def test_the_published_protocol_runs_and_judges_eigens_crop(tmp_path):
    root = write_depths(tmp_path / "set", train=2, test=1, size=(480, 640))
    outcome = Depth(protocol="nyud", steps=2, batch=1).run(bench(root, tmp_path / "features"))
    assert outcome.protocol["pixels judged"].endswith("Eigen's crop")
    assert outcome.counts == {"train": 2, "test": 1}
    assert np.isfinite(outcome.metrics["rmse"])


def test_mirroring_the_test_image_mirrors_what_is_said_about_it(scenes, tmp_path):
    # With the mean over both views, the prediction for a mirror image is the mirrored prediction.
    from vitreg.verbs.eval.dense.tokens import read_tokens
    from vitreg.verbs.eval.tasks.depth import _both_ways

    backbone = bench(scenes, tmp_path).backbone
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def tokens(images):
        return read_tokens(backbone, images, (3,), with_cls=False, final_norm=True)

    def read(found):
        return found.patches[0][..., :1].transpose(1, 2).unflatten(2, found.grid)

    here, turned = (_both_ways(view, tokens, read) for view in (image, image.flip(-1)))
    torch.testing.assert_close(turned, here.flip(-1))
