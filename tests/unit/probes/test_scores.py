import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, top_k_accuracy_score

from vitreg.probes.scores import average_precision, mean_average_precision, mean_per_class, score, top1, top_k


def drawn(seed=0, n=60, classes=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, classes, generator=generator), torch.randint(classes, (n,), generator=generator)


def test_accuracies_equal_scikit_learns():
    logits, truth = drawn()
    assert score(logits, truth, "top1") == pytest.approx(100 * top_k_accuracy_score(truth, logits, k=1))
    assert score(logits, truth, "mean_per_class") == pytest.approx(
        100 * balanced_accuracy_score(truth, logits.argmax(-1))
    )
    ranked = logits.topk(3).indices
    assert top_k(ranked, truth) == pytest.approx(100 * top_k_accuracy_score(truth, logits, k=3))


def test_mean_per_class_weighs_classes_equally_and_leaves_out_those_without_images():
    truth = torch.tensor([0] * 9 + [2])
    answers = torch.tensor([0] * 9 + [0])
    assert top1(answers, truth) == pytest.approx(90)
    assert mean_per_class(answers, truth) == pytest.approx(50)


@pytest.mark.parametrize("levels", [3, 1000])
def test_average_precision_equals_scikit_learns_with_and_without_ties(levels):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(levels, (200,), generator=generator).float()
    truth = torch.rand(200, generator=generator) < 0.2
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))


def test_mean_average_precision_skips_labels_without_images_and_ignored_ones():
    scores, _ = drawn(classes=3)
    truth = torch.zeros(60, 3, dtype=torch.bool)
    truth[::3, 0] = truth[::7, 1] = True
    both = [average_precision_score(truth[:, c], scores[:, c]) for c in (0, 1)]
    assert mean_average_precision(scores, truth) == pytest.approx(100 * np.mean(both))
    ignored = torch.zeros_like(truth)
    ignored[:20, 0] = True
    both[0] = average_precision_score(truth[20:, 0], scores[20:, 0])
    assert score(scores, truth.long(), "map", ignored) == pytest.approx(100 * np.mean(both))
    assert math.isnan(mean_average_precision(scores, torch.zeros_like(truth)))


def test_scores_of_the_wrong_form_are_refused():
    with pytest.raises(ValueError, match="scores"):
        score(torch.zeros(3), torch.zeros(3, 2, dtype=torch.long), "map")
