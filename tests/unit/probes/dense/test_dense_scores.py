import math

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from vitreg.probes.dense.scores import DEPTH_ERRORS, DepthScores, Overlaps, depth_errors, eigen_crop


def maps(seed=0, classes=4, size=(3, 8, 9)):
    draw = torch.Generator().manual_seed(seed)
    predicted = torch.randint(classes, size, generator=draw)
    truth = torch.randint(classes, size, generator=draw)
    truth[torch.rand(size, generator=draw) < 0.3] = 255
    return predicted, truth


def test_overlaps_over_many_images_are_those_of_a_naive_confusion_matrix():
    predicted, truth = maps()
    overlaps = Overlaps(4)
    for p, t in zip(predicted, truth, strict=True):
        overlaps.add(p, t)
    ious, hits, total, accuracies = [], 0, 0, []
    for c in range(4):
        both = either = own = 0
        for p, t in zip(predicted.flatten().tolist(), truth.flatten().tolist(), strict=True):
            if t != 255:
                both += p == c and t == c
                either += p == c or t == c
                own += t == c
        ious.append(both / either)
        accuracies.append(both / own)
        hits, total = hits + both, total + own
    scores = overlaps.scores()
    assert overlaps.iou().tolist() == pytest.approx(ious)
    assert scores["miou"] == pytest.approx(100 * np.mean(ious))
    assert scores["pixel_accuracy"] == pytest.approx(100 * hits / total)
    assert scores["class_accuracy"] == pytest.approx(100 * np.mean(accuracies))


def test_miou_is_scikit_learns_jaccard_score():
    predicted, truth = maps(3)
    overlaps = Overlaps(6)  # classes 4 and 5 are nowhere: skipped here, and unknown there
    overlaps.add(predicted, truth)
    known = truth != 255
    expected = jaccard_score(truth[known].numpy(), predicted[known].numpy(), average="macro")
    assert overlaps.scores()["miou"] == pytest.approx(100 * expected)


def test_a_class_predicted_but_absent_counts_zero_and_one_absent_from_both_is_skipped():
    overlaps = Overlaps(3)
    overlaps.add(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 255]))
    assert overlaps.iou().tolist() == pytest.approx([2 / 3, 0.0, math.nan], nan_ok=True)
    assert overlaps.scores()["miou"] == pytest.approx(100 / 3)


def test_overlaps_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="for labels of"):
        Overlaps(3).add(torch.zeros(4, 5, dtype=torch.int64), torch.zeros(5, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        Overlaps(3).add(torch.tensor([3]), torch.tensor([0]))
    with pytest.raises(ValueError, match="no labelled pixel"):
        Overlaps(3).scores()


def test_depth_errors_are_the_naive_ones():
    draw = np.random.default_rng(0)
    depth, truth = draw.uniform(0.5, 12, (7, 8)), draw.uniform(-1, 11, (7, 8))
    pairs = [(min(d, 10.0), t) for d, t in zip(depth.flat, truth.flat, strict=True) if 1e-3 < t < 10]
    n = len(pairs)
    g = [math.log(d) - math.log(t) for d, t in pairs]
    expected = {
        "rmse": math.sqrt(sum((d - t) ** 2 for d, t in pairs) / n),
        "abs_rel": sum(abs(d - t) / t for d, t in pairs) / n,
        "log10": sum(abs(math.log10(d / t)) for d, t in pairs) / n,
        "silog": 100 * math.sqrt(sum(x * x for x in g) / n - (sum(g) / n) ** 2),
        **{f"a{k}": 100 * sum(max(d / t, t / d) < 1.25**k for d, t in pairs) / n for k in (1, 2, 3)},
    }
    found = depth_errors(torch.from_numpy(depth), torch.from_numpy(truth))
    assert n < 56
    assert found == pytest.approx(expected)
    assert tuple(found) == DEPTH_ERRORS


def test_rmse_is_averaged_over_images_and_not_pooled():
    scores = DepthScores()
    for off in (0.0, 2.0):
        scores.add(depth_errors(torch.full((3, 4), 3 + off), torch.full((3, 4), 3.0)))
    assert scores.mean()["rmse"] == pytest.approx(1.0)  # pooled it would be sqrt(2)


def test_an_image_without_known_depth_has_no_errors():
    assert depth_errors(torch.ones(3, 4), torch.zeros(3, 4)) is None
    with pytest.raises(ValueError, match="no image"):
        DepthScores().mean()


def test_eigen_crop_is_for_full_nyu_images_only():
    crop = eigen_crop((480, 640))
    assert eigen_crop((240, 320)) is None
    assert crop[45, 41]
    assert crop[470, 600]
    assert int(crop.sum()) == (471 - 45) * (601 - 41)
    truth = torch.full((480, 640), 2.0)
    depth = torch.where(crop, 2.0, 9.0)
    assert depth_errors(depth, truth, counted=crop)["rmse"] == 0
    assert depth_errors(depth, truth)["rmse"] > 1
