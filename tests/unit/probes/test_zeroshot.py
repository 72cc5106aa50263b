"""Zero-shot classifiers against a loop, and their ranks against sorting."""

import pytest
import torch

from vitreg.probes.zeroshot import RankTally, classifier_of, logits_of, ranks_of


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_class_is_the_mean_direction_of_its_sentences():
    sentences = noise(3, 5, 7) * torch.tensor([1.0, 10.0, 0.1, 3.0, 2.0])[None, :, None]
    found = classifier_of(sentences)
    for row, own in zip(found, sentences, strict=True):
        mean = sum(sentence / sentence.norm() for sentence in own) / len(own)
        torch.testing.assert_close(row, mean / mean.norm())


def test_logits_are_a_hundred_cosines():
    images, classifier = noise(4, 7), classifier_of(noise(3, 2, 7, seed=1))
    expected = 100 * torch.nn.functional.cosine_similarity(images[:, None], classifier[None], dim=-1)
    torch.testing.assert_close(logits_of(images, classifier), expected)


def test_ranks_are_places_in_the_sorted_logits():
    logits, truth = noise(20, 9), torch.arange(20) % 9
    order = logits.argsort(descending=True)
    assert ranks_of(logits, truth).tolist() == [order[i].tolist().index(int(t)) for i, t in enumerate(truth)]


def test_features_that_are_all_the_same_are_never_right():
    tally = RankTally(6)
    truth = torch.arange(6)
    tally.add(ranks_of(torch.ones(6, 6), truth), truth)
    assert tally.metrics() == {"top1": 0.0, "top5": 0.0, "mean_per_class": 0.0}


def test_nan_is_never_right():
    logits, truth = noise(20, 9), torch.arange(20) % 9
    logits[3] = torch.nan
    logits[5, truth[5]] = torch.nan
    assert ranks_of(logits, truth)[[3, 5]].tolist() == [8, 8]
    rank = ranks_of(logits, truth)[7]
    logits[7, (truth[7] + 1) % 9] = torch.nan
    assert ranks_of(logits, truth)[7] >= rank  # what cannot be compared counts against the model


def test_the_tally_counts_batches_and_classes():
    tally = RankTally(3)
    tally.add(torch.tensor([0, 1, 7]), torch.tensor([0, 0, 2]))
    tally.add(torch.tensor([0]), torch.tensor([0]))
    assert tally.metrics() == pytest.approx({"top1": 50.0, "top5": 75.0, "mean_per_class": 50 * 2 / 3})
