"""Weighted k nearest neighbours on frozen features, DINOv2's protocol.

The bank may be larger than memory: it is read once, a chunk at a time, and only the best neighbours so far are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from vitreg.probes.defaults import KS, TEMPERATURE
from vitreg.probes.rows import Rows, check_labels, chunks

BANK_CHUNK = 65536  # rows of the bank at a time: 256 MiB of 1024 numbers
QUERY_CHUNK = 512  # queries at a time: with it 128 MiB of similarities
_SLAB = 16384  # queries for which the bank is read once
_LANE = 8  # similarities reduced to their maximum in a first pass


class KNeighbours:
    """Classify by the votes of the nearest images of a bank, weighted as in `knn_votes`.

    Args:
        ks: numbers of neighbours; those above the number of images count all of them.
        temperature: of the softmax over similarities.
        device: where the similarities are computed; the CPU if None.
    Attributes:
        classes_: C, the number of classes.
    """

    def __init__(
        self, ks: Sequence[int] = KS, *, temperature: float = TEMPERATURE, device: torch.device | str | None = None
    ) -> None:
        self.ks, self.temperature = tuple(sorted(set(ks))), temperature
        self.device = torch.device(device or "cpu")
        if not self.ks or self.ks[0] < 1 or temperature <= 0:
            raise ValueError(f"numbers of neighbours {self.ks} start at 1, temperature {temperature} lies above 0")

    def fit(self, bank: Rows, labels: Int64[Tensor, " N"], classes: int | None = None) -> Self:
        """Remember the bank; nothing is copied.

        Args:
            classes: C; one more than the largest label if None.
        Raises:
            UserError: for fewer than two images, labels outside 0 ... C - 1, or one class only.
        """
        self.classes_ = int(labels.max()) + 1 if classes is None and len(labels) else classes or 0
        check_labels(bank, labels, self.classes_)
        self._bank, self._labels = bank, labels.to(self.device)
        return self

    def ranked(self, queries: Rows, count: int = 5) -> dict[int, Int64[Tensor, "Q n"]]:
        """Return for each k the classes with the most votes, best first; -1 where no further class has a vote.

        n is `count`, or C if that is less.
        """
        return self.ranked_by(queries, [self._labels], count)[0]

    def ranked_by(
        self, queries: Rows, labelings: Sequence[Int64[Tensor, " N"]], count: int = 5
    ) -> list[dict[int, Int64[Tensor, "Q n"]]]:
        """Return `ranked` for several labellings of the bank, such as shuffled ones, with one search."""
        count = min(count, self.classes_)
        labelings = [labels.to(self.device) for labels in labelings]
        found: list[dict[int, list[Tensor]]] = [{k: [] for k in self.ks} for _ in labelings]
        for _, slab in chunks(queries, _SLAB):
            similarity, index = nearest(self._bank, slab.to(self.device), self.ks[-1])
            weights = (similarity / self.temperature).softmax(-1)  # [q, k]
            for start in range(0, len(slab), QUERY_CHUNK):
                part = slice(start, start + QUERY_CHUNK)
                for labels, answers in zip(labelings, found, strict=True):
                    for k in self.ks:
                        best = _ballots(weights[part], labels[index[part]], self.classes_, k).topk(count, dim=-1)
                        answers[k].append(best.indices.masked_fill(best.values == 0, -1).cpu())
        return [{k: torch.cat(parts) for k, parts in answers.items()} for answers in found]

    def predict(self, queries: Rows) -> dict[int, Int64[Tensor, " Q"]]:
        """Return for each k the class of every query."""
        return {k: best[:, 0] for k, best in self.ranked(queries, 1).items()}


def knn_votes(
    bank: Float[Tensor, "N D"],
    labels: Int64[Tensor, " N"],
    queries: Float[Tensor, "Q D"],
    classes: int,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    chunk: int = QUERY_CHUNK,
) -> dict[int, Float[Tensor, "Q C"]]:
    """Let the k nearest of a bank vote for the class of each query.

    Cosine similarity; a vote weighs softmax(similarity / temperature) over the largest k, cut to the first k for the
    smaller ones (DINOv2's evaluation).

    >>> nearest = sorted(range(N), key=lambda i: -cosine(bank[i], query))[:max(ks)]
    >>> total = sum(exp(cosine(bank[i], query) / temperature) for i in nearest)
    >>> for i in nearest[:k]:
    ...     votes[labels[i]] += exp(cosine(bank[i], query) / temperature) / total

    Args:
        ks: numbers of neighbours; those above N count all N.
        chunk: queries at a time.
    Returns:
        for each k, the summed votes per class; rows need not add up to 1.
    """
    similarity, index = nearest(bank, queries, max(ks), query_chunk=chunk)
    weights, neighbours = (similarity / temperature).softmax(-1), labels.to(index.device)[index]
    return {k: _ballots(weights, neighbours, classes, k) for k in ks}


def nearest(
    bank: Rows,
    queries: Float[Tensor, "Q D"],
    k: int,
    *,
    bank_chunk: int = BANK_CHUNK,
    query_chunk: int = QUERY_CHUNK,
) -> tuple[Float[Tensor, "Q k"], Int64[Tensor, "Q k"]]:
    """Find the rows of a bank with the largest cosine similarity to each query, on the queries' device.

    Which of equally similar rows counts as nearer is not fixed.

    Args:
        k: neighbours; all N if that is less.
        bank_chunk, query_chunk: rows at a time. On a CPU, threads share a chunk of queries, 64 of them each at least: as
            many similarities exist.
    Returns:
        similarities, falling, and the places of the rows in the bank.
    """
    device, k = queries.device, min(k, len(bank))
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    size, step = min(bank_chunk, len(bank)), max(query_chunk // threads, min(query_chunk, 64))
    parts = F.normalize(queries.float(), dim=-1).tensor_split(threads)
    searches = [_Search(part, k, _memory(min(step, len(part)) * size, device), step) for part in parts]
    memory = _memory(size * queries.shape[1], device)
    with _in_parallel(threads) as each:
        for place, rows in chunks(bank, bank_chunk):
            unit = F.normalize(rows.to(device), dim=-1, out=memory[: rows.numel()].view(rows.shape))
            each(partial(_Search.look, rows=unit, first=place.start), searches)
    return torch.cat([search.best for search in searches]), torch.cat([search.index for search in searches])


class _Search:
    """The nearest rows found so far for some queries.

    Args:
        queries: of length 1.
        memory: reused for the similarities of `step` queries; fresh pages would cost a tenth of the product's time.
    """

    def __init__(self, queries: Float[Tensor, "q D"], k: int, memory: Float[Tensor, " m"], step: int) -> None:
        self.queries, self.k, self.memory, self.step = queries, k, memory, step
        self.best = torch.full((len(queries), k), -torch.inf, device=queries.device)
        self.index = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)

    @torch.inference_mode()
    def look(self, rows: Float[Tensor, "n D"], first: int) -> None:
        """Search more rows, of length 1, whose places in the bank begin at `first`."""
        for start in range(0, len(self.queries), self.step):
            part = slice(start, start + self.step)
            query = self.queries[part]
            scores = torch.mm(query, rows.T, out=self.memory[: len(query) * len(rows)].view(len(query), len(rows)))
            top, where = _largest(scores, self.k)
            best, index = torch.cat([self.best[part], top], 1), torch.cat([self.index[part], where + first], 1)
            self.best[part], self.index[part] = _first(best, index, self.k)


@contextmanager
def _in_parallel(threads: int) -> Generator[Callable[[Callable[[_Search], None], list[_Search]], object], None, None]:
    """Yield a function that runs searches in parallel, each on one thread from product to selection.

    Torch's own threads spin between operations, and would block the cores for the selection.
    """
    if threads == 1:
        yield lambda look, searches: [look(search) for search in searches]
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield lambda look, searches: list(pool.map(look, searches))
    finally:
        torch.set_num_threads(threads)  # the initializer's setting also affects threads started elsewhere


def _memory(numbers: int, device: torch.device) -> Float[Tensor, " m"]:
    """Return a reusable buffer; numpy requests large pages, whose first use costs less."""
    return (
        torch.from_numpy(np.empty(numbers, np.float32)) if device.type == "cpu" else torch.empty(numbers, device=device)
    )


def few_shot(labels: Int64[Tensor, " N"], per_class: int, seed: int) -> Int64[Tensor, " m"]:
    """Choose up to `per_class` images of every class at random, as DINOv2's evaluation does; classes in order."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for number in labels.unique():
        own = (labels == number).nonzero()[:, 0]
        chosen.append(own[torch.randperm(len(own), generator=generator)[:per_class]])
    return torch.cat(chosen)


def _ballots(
    weights: Float[Tensor, "Q K"], neighbours: Int64[Tensor, "Q K"], classes: int, k: int
) -> Float[Tensor, "Q C"]:
    ballot = torch.zeros(len(weights), classes, device=weights.device)
    return ballot.scatter_add_(1, neighbours[:, :k], weights[:, :k])


def _largest(scores: Float[Tensor, "q n"], k: int) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """Return the k largest of each row and their places, in any order; all of them where there are fewer.

    The k largest lie in the k lanes with the largest maxima: any number in another lane is below k maxima. So a first
    pass for the maxima, hardly slower than reading, leaves an eighth of the comparisons.
    """
    rows, count = scores.shape
    if count <= k:
        return scores, torch.arange(count, device=scores.device).expand(rows, -1)
    length = count // _LANE
    if length <= 2 * k:
        where = _places(scores, k)
        return scores.gather(1, where), where
    whole = length * _LANE
    lanes = scores[:, :whole].view(rows, _LANE, length)
    chosen = _places(lanes.amax(1), k)  # [q, k]
    values = lanes.gather(2, chosen[:, None].expand(-1, _LANE, -1)).flatten(1)  # [q, LANE * k]
    if whole < count:
        values = torch.cat([values, scores[:, whole:]], 1)
    best = _places(values, k)
    in_lanes = best // k * length + chosen.gather(1, best % k)
    where = in_lanes if whole == count else torch.where(best < _LANE * k, in_lanes, best - _LANE * k + whole)
    return values.gather(1, best), where


def _places(values: Float[Tensor, "q n"], k: int) -> Int64[Tensor, "q k"]:
    if values.device.type != "cpu":
        return values.topk(k, dim=-1, sorted=False).indices
    # numpy selects with vector instructions: a third to a sixth of the time of torch's topk on a CPU.
    places = np.argpartition(values.numpy(), values.shape[1] - k, axis=1)[:, values.shape[1] - k :]
    return torch.from_numpy(np.ascontiguousarray(places))


def _first(
    values: Float[Tensor, "q n"], index: Int64[Tensor, "q n"], k: int
) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """Return the k largest with their indices, falling."""
    top, where = values.topk(min(k, values.shape[1]), dim=-1)
    return top, index.gather(1, where)
