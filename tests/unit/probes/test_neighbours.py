"""Weighted kNN against a literal loop."""

import math

import pytest
import torch

from vitreg.probes.neighbours import knn_votes


def naive_votes(bank, labels, query, classes, k, most, temperature):
    """DINOv2's protocol for one query: softmax over the nearest `most`, of which the first k vote."""
    similarity = [float(torch.dot(query / query.norm(), b / b.norm())) for b in bank]
    nearest = sorted(range(len(bank)), key=lambda i: -similarity[i])[:most]
    total = sum(math.exp(similarity[i] / temperature) for i in nearest)
    votes = [0.0] * classes
    for i in nearest[:k]:
        votes[int(labels[i])] += math.exp(similarity[i] / temperature) / total
    return votes


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_votes_equal_the_loop(chunk):
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(n, 5, generator=generator) for n in (40, 7))
    labels = torch.randint(4, (40,), generator=generator)
    votes = knn_votes(bank, labels, queries, 4, ks=(3, 10), chunk=chunk)
    for k, found in votes.items():
        wanted = torch.tensor([naive_votes(bank, labels, q, 4, k, 10, 0.07) for q in queries])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_more_neighbours_than_samples_means_all_of_them():
    bank, labels = torch.eye(3), torch.arange(3)
    votes = knn_votes(bank, labels, bank, 3, ks=(20,))[20]
    assert votes.argmax(-1).tolist() == [0, 1, 2]
    torch.testing.assert_close(votes.sum(-1), torch.ones(3))
