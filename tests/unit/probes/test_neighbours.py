"""Weighted kNN against a literal loop."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from vitreg.errors import UserError
from vitreg.probes.neighbours import KNeighbours, few_shot, knn_votes, nearest


def naive_votes(bank, labels, query, classes, k, most, temperature):
    """DINOv2's protocol for one query: softmax over the nearest `most`, of which the first k vote."""
    similarity = [float(torch.dot(query / query.norm(), b / b.norm())) for b in bank]
    nearest = sorted(range(len(bank)), key=lambda i: -similarity[i])[:most]
    total = sum(math.exp(similarity[i] / temperature) for i in nearest)
    votes = [0.0] * classes
    for i in nearest[:k]:
        votes[int(labels[i])] += math.exp(similarity[i] / temperature) / total
    return votes


def drawn(bank=40, queries=7, width=5, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows, asked = (torch.randn(n, width, generator=generator) for n in (bank, queries))
    return rows, torch.randint(classes, (bank,), generator=generator), asked


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_votes_equal_the_loop(chunk):
    bank, labels, queries = drawn()
    votes = knn_votes(bank, labels, queries, 4, ks=(3, 10), chunk=chunk)
    for k, found in votes.items():
        wanted = torch.tensor([naive_votes(bank, labels, q, 4, k, 10, 0.07) for q in queries])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_votes_of_an_example_worked_by_hand():
    # Similarities 1, 0.8, 0.6, 0: with temperature 0.2 and the nearest 3, weights e^5, e^4, e^3 over their sum.
    bank = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    labels, query = torch.tensor([0, 1, 1, 0]), torch.tensor([[2.0, 0.0]])
    votes = knn_votes(bank, labels, query, 2, ks=(1, 3), temperature=0.2)
    torch.testing.assert_close(votes[3], torch.tensor([[0.66524096, 0.33475904]]))
    torch.testing.assert_close(votes[1], torch.tensor([[0.66524096, 0.0]]))


def test_more_neighbours_than_samples_means_all_of_them():
    bank, labels = torch.eye(3), torch.arange(3)
    votes = knn_votes(bank, labels, bank, 3, ks=(20,))[20]
    assert votes.argmax(-1).tolist() == [0, 1, 2]
    torch.testing.assert_close(votes.sum(-1), torch.ones(3))


@pytest.mark.parametrize("bank_chunk", [7, 100, 1000, 4000])
@pytest.mark.parametrize("query_chunk", [2, 50])
def test_chunks_of_the_bank_do_not_change_the_neighbours(bank_chunk, query_chunk):
    bank, _, queries = drawn(bank=1003, queries=9, width=16)
    similarity, index = nearest(bank, queries, 20, bank_chunk=bank_chunk, query_chunk=query_chunk)
    every = torch.nn.functional.cosine_similarity(queries[:, None].double(), bank[None].double(), dim=-1)
    wanted = every.topk(20, dim=-1)
    assert torch.equal(index, wanted.indices)
    torch.testing.assert_close(similarity.double(), wanted.values, rtol=0, atol=1e-6)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("asked", [0, 1, 2, 50])
def test_threads_share_the_queries(asked, inference):
    bank, _, queries = drawn(bank=300, queries=asked, width=16)
    with torch.inference_mode(inference):
        similarity, index = nearest(bank, queries, 5, bank_chunk=70, query_chunk=4)
    every = torch.nn.functional.normalize(queries, dim=-1) @ torch.nn.functional.normalize(bank, dim=-1).T
    wanted = every.topk(5)
    torch.testing.assert_close(similarity, wanted.values)
    assert torch.equal(index, wanted.indices)


def test_near_neighbours_that_share_a_lane_are_all_found():
    # Of 1000 similarities, places 3, 128, 253, ... meet in one lane of the first pass; the nearest lie there.
    bank = torch.randn(1000, 32, generator=torch.Generator().manual_seed(0))
    query = torch.ones(1, 32)
    bank[3::125] = query + 0.01 * torch.arange(8)[:, None] * bank[3::125]
    assert sorted(nearest(bank, query, 8)[1][0].tolist()) == list(range(3, 1000, 125))


def test_a_bank_on_disk_and_answers_by_k(tmp_path):
    bank, labels, queries = drawn(bank=300, width=8)
    file = np.lib.format.open_memmap(tmp_path / "bank.npy", "w+", np.float32, (300, 8))
    file[:] = bank.numpy()
    found = KNeighbours((5, 20)).fit(np.load(tmp_path / "bank.npy", mmap_mode="r"), labels).ranked(queries, 3)
    votes = knn_votes(bank, labels, queries, 4, ks=(5, 20))
    for k, ranked in found.items():
        top = votes[k].topk(3)
        assert torch.equal(ranked, top.indices.masked_fill(top.values == 0, -1))
    answers = KNeighbours((5, 20)).fit(bank, labels).predict(queries)
    assert all(torch.equal(answers[k], votes[k].argmax(-1)) for k in (5, 20))


def test_a_class_without_a_vote_is_no_answer():
    ranked = KNeighbours((1,)).fit(torch.eye(3), torch.tensor([0, 1, 2])).ranked(torch.eye(3)[:1], 5)[1]
    assert ranked.tolist() == [[0, -1, -1]]


def test_few_shot_takes_as_many_of_each_class_anew_for_each_seed():
    labels = torch.tensor([1] * 10 + [0] * 5 + [3] * 2)
    chosen = few_shot(labels, 3, seed=0)
    assert labels[chosen].tolist() == [0] * 3 + [1] * 3 + [3] * 2
    assert len(chosen.unique()) == 8
    assert torch.equal(chosen, few_shot(labels, 3, seed=0))
    assert not torch.equal(chosen, few_shot(labels, 3, seed=1))


@pytest.mark.parametrize(
    ("bank", "labels", "sentence"),
    [
        (torch.eye(1), [0], "1 training image "),
        (torch.eye(3), [1, 1, 1], "one class"),
        (torch.eye(3), [0, 1, 7], "label 7 lies outside"),
    ],
)
def test_bad_banks(bank, labels, sentence):
    with pytest.raises(UserError, match=sentence):
        KNeighbours().fit(bank, torch.tensor(labels), classes=3)


def test_features_that_are_not_finite():
    bank = torch.eye(3)
    bank[2, 0] = float("nan")
    with pytest.raises(UserError, match="image 2 are not finite"):
        KNeighbours().fit(bank, torch.arange(3)).predict(torch.eye(3))


MEMORY = """
import resource, sys
import numpy as np, torch
from vitreg.probes.neighbours import KNeighbours
torch.set_num_threads(1)
bank = np.memmap(sys.argv[1], np.float16, "r", shape=(200_000, 256))
labels = torch.arange(len(bank)) % 100
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
KNeighbours().fit(bank, labels).predict(torch.from_numpy(np.array(bank[:600])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_does_not_follow_the_bank(tmp_path):
    file = np.memmap(tmp_path / "bank", np.float16, "w+", shape=(200_000, 256))
    for start in range(0, len(file), 10_000):
        file[start : start + 10_000] = np.random.default_rng(start).standard_normal((10_000, 256), np.float32)
    file.flush()
    done = subprocess.run([sys.executable, "-c", MEMORY, file.filename], capture_output=True, text=True, check=True)
    # 195 MiB in float32; 480 MiB of similarities to all of the bank. Pages of the mapped file (98 MiB) count as well.
    assert int(done.stdout) / 1024 < 500


def test_half_precision_features_are_compared_in_full_precision():
    bank = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)).half()
    found, places = nearest(bank, bank[:7], 3)
    expected, own = nearest(bank.float(), bank[:7].float(), 3)
    assert torch.equal(found, expected)
    assert torch.equal(places, own)
